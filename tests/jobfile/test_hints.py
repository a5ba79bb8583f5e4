"""Formats of other tools are refused with what to write instead."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from batch.errors import JobFileError
from batch.jobfile import load
from batch.plan import Planning

if TYPE_CHECKING:
    from pathlib import Path

HEAD: Final = "version: 1\nname: j\n"
UUID: Final = "d76744cb53f9378abf42b907df3efb6e"
OTHER: Final = "21cb9f654e9d3feab962ce3f5eec5796"
LINES: Final = "targets: [{from: r.jsonl}]\n"
CSV: Final = "targets: [{from: r.csv}]\n"
ROWS: Final = [{"uuid": UUID}, {"uuid": OTHER}]


def problems(folder: Path, job: str, **files: str) -> list[str]:
    for name, text in {"job_yaml": HEAD + job, **files}.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    with pytest.raises(JobFileError) as caught:
        Planning(load(folder / "job.yaml"), run=None, started_at=0.0).draft()
    return [line.removeprefix(f"{folder}/") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (json.dumps(ROWS), "jq -c '.[]'"),
        (json.dumps(ROWS, indent=2), "jq -c '.[]'"),
        ("\n" + json.dumps(ROWS, indent=2), "jq -c '.[]'"),
        ("\n".join(json.dumps(row, indent=2) for row in ROWS), "jq -c ."),
    ],
)
def test_json_that_is_no_json_lines_is_one_problem_with_the_command(tmp_path: Path, text: str, command: str) -> None:
    """A JSON list, or objects over many lines, is reported once, at its first line, with a command to rewrite it."""
    (problem,) = problems(tmp_path, LINES, r_jsonl=text)
    assert problem.startswith(("r.jsonl:1:1: is JSON, but not JSON Lines", "r.jsonl:2:1: is JSON, but not JSON Lines"))
    assert f"`{command}`" in problem


@pytest.mark.parametrize("uuid", [UUID, "1" * 32, f"{'1' * 10}e{'1' * 21}"])
def test_a_bare_uuid_is_shown_in_quotes(tmp_path: Path, uuid: str) -> None:
    """A line that is a uuid without quotes is reported as such, whatever JSON would read there."""
    assert problems(tmp_path, LINES, r_jsonl=f'"{OTHER}"\n{uuid}\n') == [
        f'r.jsonl:2:1: not JSON: a uuid alone must be in quotes: "{uuid}"'
    ]


@pytest.mark.parametrize(
    ("job", "place"),
    [
        (f"vars: &a {{x: y}}\ntargets:\n  - {{<<: *a, uuid: {UUID}}}\n", "job.yaml:5:6"),
        (f"<<: {{run: r}}\ntargets: [{UUID}]\n", "job.yaml:3:1"),
        (f"vars: {{<<: {{x: y}}}}\ntargets: [{UUID}]\n", "job.yaml:3:8"),
        (f"defaults: {{params: {{<<: {{name: y}}}}}}\ntargets: [{UUID}]\n", "job.yaml:3:21"),
        (f"targets:\n  - uuid: {UUID}\n    matrix: {{<<: {{a: [b]}}, c: [d]}}\n", "job.yaml:5:14"),
    ],
)
def test_merge_keys_are_refused_everywhere(tmp_path: Path, job: str, place: str) -> None:
    """``<<`` is a problem at its place in every map of the job file, and the rest is read without it."""
    assert problems(tmp_path, job) == [
        f"{place}: merge keys (<<) are not supported: write the keys here, or under `defaults`"
    ]


@pytest.mark.parametrize(
    ("params", "hint"),
    [
        ("{name: ${x}-a, type: App}", 'put a text with ${…} in quotes: "${name}"'),
        ("{name: {{ x }}}", "values are written ${name}, in quotes, and not {{ }}"),
        ("{name: {{ x }}-a}", "values are written ${name}, in quotes, and not {{ }}"),
        ("{yaml: {a: b}}", "write `yaml: |` and the text, indented, on the lines below"),
        ("{startCommand: [a, b]}", "write `startCommand: |` and the text"),
        ("{cpuArchitectures: [arm64]}", "did you mean AARCH64?"),
        ("{cpuArchitectures: [ARM64]}", "did you mean AARCH64?"),
        ("{cpuArchitectures: [amd64]}", "did you mean X86_64?"),
        ("{cpu: 4}", "did you mean requestCpu?"),
        ("{memory: 4}", "did you mean requestMemory?"),
    ],
)
def test_a_similar_syntax_is_refused_with_the_right_one(tmp_path: Path, params: str, hint: str) -> None:
    """Templates without quotes, foreign templates, maps for texts and other systems' words name what to write."""
    found = problems(tmp_path, f"vars: {{x: y}}\ntargets:\n  - {{uuid: {UUID}, params: {params}}}\n")
    assert hint in found[0]
    assert len(found) == 1


@pytest.mark.parametrize(
    ("column", "cell", "hint"),
    [
        ("cpuArchitectures", '"[X86_64, AARCH64]"', "separate the values by ;"),
        ("tagUuids", f'"[""{UUID}""]"', "separate the values by ;"),
        ("architectureImages", "X86_64=a", "JSON Lines (.jsonl)"),
        ("vendorToSpecUuidsMap", '"{""NVIDIA"": []}"', "JSON Lines (.jsonl)"),
    ],
)
def test_a_map_or_list_in_a_cell_names_the_alternative(tmp_path: Path, column: str, cell: str, hint: str) -> None:
    """A cell with brackets, or for a parameter that no cell can hold, names the separator or the file that can."""
    (problem,) = problems(tmp_path, CSV, r_csv=f"uuid,params.{column}\n{UUID},{cell}\n")
    assert problem.startswith(f"r.csv:2:1: params.{column}: a cell ")
    assert hint in problem


@pytest.mark.parametrize("name", ["Tenants.XLS", "tenants.ods"])
def test_another_spreadsheet_format_is_refused(tmp_path: Path, name: str) -> None:
    """A file of a spreadsheet program is refused with the formats that are read."""
    (problem,) = problems(tmp_path, f"targets: [{{from: {name}}}]\n")
    assert problem.endswith(": save the sheet as .xlsx or CSV")


def test_a_number_as_an_id_needs_quotes(tmp_path: Path) -> None:
    """An ``id`` that JSON writes as a number has to be a text; YAML's is one already."""
    (problem,) = problems(tmp_path, LINES, r_jsonl=f'{{"uuid": "{UUID}", "id": 1}}')
    assert problem.endswith("not 1: put it in quotes")
    (tmp_path / "job.yaml").write_text(f"{HEAD}targets: [{{uuid: {UUID}, id: 1}}]\n")
    (clone,) = Planning(load(tmp_path / "job.yaml"), run=None, started_at=0.0).plan().clones()
    assert clone.key == "1"
