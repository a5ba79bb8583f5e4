"""Characters above U+FFFF, which databases of three-byte UTF-8 refuse, are a warning and no error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from batch.cli.app import run_command
from batch.jobfile import load
from batch.jobfile.problems import wide_characters
from batch.plan import Planning

if TYPE_CHECKING:
    from pathlib import Path

HEAD: Final = "version: 1\nname: j\n"
UUID: Final = "d76744cb53f9378abf42b907df3efb6e"
WARNING: Final = "warning: has a character above U+FFFF at position"
ROCKET: Final = "\U0001f680"


def warnings_of(folder: Path, text: str) -> list[str]:
    path = folder / "job.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    found = Planning(load(path), run=None, started_at=0.0).plan().warnings
    return [str(warning).removeprefix(f"{folder}/") for warning in found]


YAML: Final = [
    (f"{{uuid: {UUID}, params: {{name: a{ROCKET}}}}}", "job.yaml:4:61: targets[0].params.name", 1),
    (f'{{uuid: {UUID}, params: {{name: "ab\\U0001F680"}}}}', "job.yaml:4:61: targets[0].params.name", 2),
    (f"{{uuid: {UUID}, userTags: [x, {ROCKET}]}}", "job.yaml:4:60: targets[0].userTags[1]", 0),
    (
        f"{{uuid: {UUID}, params: {{architectureImages: [{{cpuArchitecture: AARCH64, dockerImage: x{ROCKET}}}]}}}}",
        "job.yaml:4:116: targets[0].params.architectureImages[0].dockerImage",
        1,
    ),
]


@pytest.mark.parametrize(("row", "place", "position"), YAML)
def test_yaml(row: str, place: str, position: int, tmp_path: Path) -> None:
    """A character in any parameter, nested or in a tag, plain or escaped, is warned of at its value."""
    (warning,) = warnings_of(tmp_path, f"targets:\n  - {row}\n")
    assert warning == f"{place}: {WARNING} {position}: many ZStack databases refuse it"


def test_json_lines_and_csv(tmp_path: Path) -> None:
    """Rows of JSON Lines, escaped or not, and of CSV are warned of at their lines."""
    rows = [{"uuid": UUID, "id": f"{number}", "params": {"readme": f"ok{ROCKET}"}} for number in range(2)]
    text = json.dumps(rows[0]) + "\n" + json.dumps(rows[1], ensure_ascii=False) + "\n"
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "b.csv").write_text(f"uuid,id,params.name\n{UUID},x,plain\n{UUID},y,{ROCKET}\n", encoding="utf-8")
    found = warnings_of(tmp_path, "targets: [{from: a.jsonl}, {from: b.csv}]\n")
    column = text.index('"readme"') + 1
    assert [warning.partition(": many")[0] for warning in found] == [
        f"a.jsonl:1:{column}: params.readme: {WARNING} 2",
        f"a.jsonl:2:{column}: params.readme: {WARNING} 2",
        f"b.csv:3:1: params.name: {WARNING} 0",
    ]


def test_one_place_is_warned_of_once(tmp_path: Path) -> None:
    """What ``defaults`` or a template gives to many targets is one warning, at the place where it is written."""
    (tmp_path / "a.jsonl").write_text("".join(f'{{"uuid": "{UUID}", "id": "{n}"}}\n' for n in range(300)))
    text = f"vars: {{sign: {ROCKET}}}\ndefaults: {{params: {{name: '${{sign}}'}}}}\ntargets: [{{from: a.jsonl}}]\n"
    found = warnings_of(tmp_path, text)
    assert len({warning.partition(": ")[0] for warning in found}) == len(found) == 1
    assert found[0].startswith("job.yaml:4:")


def test_a_column_is_warned_of_in_each_row(tmp_path: Path) -> None:
    """A character from a row's column is warned of where it is used, with the row."""
    rows = "".join(f"{UUID},{n},{ROCKET if n % 2 else 'x'}\n" for n in range(4))
    (tmp_path / "a.csv").write_text(f"uuid,id,title\n{rows}", encoding="utf-8")
    found = warnings_of(tmp_path, "defaults: {params: {name: '${title}'}}\ntargets: [{from: a.csv}]\n")
    assert [warning.rpartition("a.csv:")[2] for warning in found] == ["3", "5"]


def test_many_warnings_are_counted(tmp_path: Path) -> None:
    """The first hundred places are named, the rest is a number."""
    rows = "".join(f'{{"uuid": "{UUID}", "id": "{n}", "params": {{"name": "{ROCKET}"}}}}\n' for n in range(150))
    (tmp_path / "a.jsonl").write_text(rows, encoding="utf-8")
    found = warnings_of(tmp_path, "targets: [{from: a.jsonl}]\n")
    assert len(found) == 101
    assert found[-1].endswith("warning: … and 50 more")


def test_other_characters_are_not_warned_of(tmp_path: Path) -> None:
    """Characters up to U+FFFF, whose escapes look alike, and backslashes are not warned of."""
    text = json.dumps({"uuid": UUID, "params": {"name": "한국어 \ud7a3 \uffff 中文", "description": "C:\\ud83d"}})
    (tmp_path / "a.jsonl").write_text(text + "\n", encoding="utf-8")
    assert warnings_of(tmp_path, "targets: [{from: a.jsonl}]\n") == []


def test_keys_of_maps_are_checked_too() -> None:
    """The name of a GPU vendor is sent as well."""
    (complaint,) = wide_characters("params", {"vendorToSpecUuidsMap": {ROCKET: [UUID]}})
    assert complaint.path == "params.vendorToSpecUuidsMap"


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_commands_warn(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """``validate`` and ``plan`` warn on stderr and exit as without the warning."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZSTACK_API_URL", raising=False)
    text = f"{HEAD}targets:\n  - {{uuid: {UUID}, params: {{name: a{ROCKET}}}}}\n"
    (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
    assert run_command([command, "job.yaml"]) == 0
    shown = capfd.readouterr()
    assert f"job.yaml:4:61: targets[0].params.name: {WARNING} 1" in shown.err
    assert "U+FFFF" not in shown.out
