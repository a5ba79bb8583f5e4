"""One grammar of commands: ``-o`` and ``--output`` are always a format, ``--out`` is always a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from typer.main import get_command

from batch.app.options import ReportOutput
from batch.cli.app import app, run_command
from batch.jobfile import load
from batch.plan import Planning
from batch.report.write import ENDINGS
from tests.report.made_manifest import make_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMANDS: Final[dict[str, Any]] = dict(get_command(app).commands)  # type: ignore[attr-defined]
FORMATS: Final = {
    "plan": {"table", "json", "curl"},
    "list": {"table", "json", "jsonl", "csv"},
    "discover": {"yaml", "json"},
    "verify": {"table", "json"},
    "report": {"html", "md", "csv", "xml", "json"},
}
ADMIN: Final = {"ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "password"}
MANIFEST: Final = "made.manifest.jsonl"
JOB: Final = "version: 1\nname: job\ntargets:\n  - d76744cb53f9378abf42b907df3efb6e\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a job and a manifest, as the current directory."""
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    make_manifest(tmp_path / MANIFEST, targets=20)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def visible(flag: str) -> dict[str, Any]:
    """Return each command's option that has ``flag`` and is shown by ``--help``."""
    return {
        name: param
        for name, command in COMMANDS.items()
        for param in command.params
        if flag in param.opts and not param.hidden
    }


def test_output_is_a_format_everywhere() -> None:
    """``-o`` is ``--output``, and both take the names of formats in every command that has them."""
    assert visible("-o") == visible("--output")
    assert {name: set(param.metavar.split("|")) for name, param in visible("--output").items()} == FORMATS


@pytest.mark.parametrize(
    "words",
    [
        "run --progress",
        "run --log-format",
        "run --engine",
        "retry --state",
        "list --state",
        "init --example",
        "validate --format",
        "doctor --engine",
    ],
)
def test_an_invalid_choice_is_refused_in_one_line(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid value is refused with the option and its valid values."""
    name, flag = words.split()
    assert run_command([name, "job.yaml", flag, "nope"]) == 2
    output = capsys.readouterr().err
    assert output.startswith(f"zclone: {flag}: 'nope' is not one of ")
    takes = COMMANDS[name]
    known = next(param.metavar for param in takes.params if flag in param.opts)
    if known != "STATE":
        assert output.strip().endswith(", ".join(known.split("|")))


@pytest.mark.parametrize("path", [".", "/"])
@pytest.mark.parametrize(
    "words",
    [
        *("run --simulate job.yaml --manifest", "run --simulate job.yaml --log-file", "run", "run --plan", "validate"),
        *("run --simulate job.yaml --metrics-file", "plan job.yaml --out", "list", "status", "repair", "init", "runs"),
        *(f"report {MANIFEST} -o md --out", f"merge {MANIFEST} --out", "schema --out", "retry --simulate", "control"),
        *("verify --simulate job.yaml --manifest", "rollback --simulate job.yaml --manifest", "discover --out"),
    ],
)
def test_a_folder_in_place_of_a_file_is_refused(
    words: str, path: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that needs a file refuses a folder or an empty name in one line, without a traceback."""
    before = sorted(folder.iterdir())
    assert run_command([*words.split(), path]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_out_is_a_file_everywhere() -> None:
    """``--out`` takes a file in every command that writes one."""
    assert {name: param.metavar for name, param in visible("--out").items()} == dict.fromkeys(
        ("plan", "discover", "report", "repair", "merge", "schema", "init"), "FILE"
    )


@pytest.mark.parametrize("flag", ["-o", "--output"])
@pytest.mark.parametrize("arguments", [["plan", "job.yaml"], ["discover"], ["report", MANIFEST], ["repair", MANIFEST]])
def test_a_file_given_as_a_format_is_refused_with_the_next_step(
    arguments: list[str], flag: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file after ``-o``, as earlier versions took it, exits with 2, writes nothing and names ``--out``."""
    before = sorted(folder.iterdir())
    assert run_command([*arguments, flag, "my file.html"]) == 2
    assert "--out 'my file.html'" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_list_has_no_file_and_says_how_to_write_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file after ``list -o`` is refused with the redirection that writes it."""
    assert run_command(["list", MANIFEST, "-o", "rows.csv"]) == 2
    assert "> rows.csv" in capsys.readouterr().err
    assert not (folder / "rows.csv").exists()


def test_a_file_in_the_variable_of_the_format_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in ZCLONE_OUTPUT is refused like one after ``-o``."""
    monkeypatch.setenv("ZCLONE_OUTPUT", "report.html")
    assert run_command(["report", MANIFEST]) == 2
    assert "--out report.html" in capsys.readouterr().err
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("form", ReportOutput)
def test_a_report_on_stdout_is_the_report_of_a_file(
    form: ReportOutput, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``report -o FORMAT`` writes to stdout what ``--out`` with that extension writes, CSV without the BOM."""
    monkeypatch.setattr("time.time", lambda: 1_795_437_900.0)
    assert run_command(["report", MANIFEST, "-o", form.value]) == 0
    shown = capsys.readouterr().out
    assert run_command(["report", MANIFEST, "--out", f"r.{form.value}"]) == 0
    assert run_command(["report", MANIFEST, "-o", form.value, "--out", "r.txt"]) == 0
    with (folder / f"r.{form.value}").open(encoding="utf-8", newline="") as stream:
        assert stream.read().removeprefix("\ufeff") == shown
    assert (folder / "r.txt").read_bytes() == (folder / f"r.{form.value}").read_bytes()


def test_a_report_needs_a_format_or_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``report`` with neither says how to give one; an unknown extension is refused."""
    before = sorted(folder.iterdir())
    assert run_command(["report", MANIFEST]) == 2
    assert "--out report.html" in capsys.readouterr().err
    assert run_command(["report", MANIFEST, "--out", "report.txt"]) == 2
    assert sorted(folder.iterdir()) == before


def test_reports_have_one_set_of_formats() -> None:
    """The formats of ``report -o`` are the extensions that ``--out`` knows."""
    assert {f".{form.value}" for form in ReportOutput} == set(ENDINGS)


def test_a_repaired_manifest_goes_to_out(folder: Path) -> None:
    """``repair --out`` names the new manifest."""
    assert run_command(["repair", MANIFEST, "--out", "new.manifest.jsonl"]) == 0
    assert run_command(["list", "new.manifest.jsonl"]) == 0
    assert (folder / "new.manifest.jsonl").exists()


def test_a_schema_goes_to_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``schema --out`` writes what ``schema`` prints, over the schema of an earlier version."""
    assert run_command(["schema", "--plan"]) == 0
    printed = capsys.readouterr().out
    (folder / "plan.schema.json").write_text("an earlier one", encoding="utf-8")
    assert run_command(["schema", "--plan", "--out", "plan.schema.json"]) == 0
    assert (folder / "plan.schema.json").read_text(encoding="utf-8") == printed


def test_a_new_job_file_has_one_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``init --out FILE`` is ``init FILE``; both at once are refused, and neither is job.yaml."""
    assert run_command(["init", "--out", "a.yaml"]) == 0
    assert run_command(["init", "b.yaml"]) == 0
    assert (folder / "a.yaml").read_bytes() == (folder / "b.yaml").read_bytes()
    assert run_command(["init", "c.yaml", "--out", "d.yaml"]) == 2
    assert "name two files" in capsys.readouterr().err
    assert run_command(["init"]) == 2  # job.yaml exists and is kept
    assert (folder / "job.yaml").read_text(encoding="utf-8") == JOB
    assert not list(folder.glob("[cd].yaml"))


def test_discover_writes_yaml_and_json(
    folder: Path,
    serve_node: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``discover`` writes one valid job as YAML or JSON, to stdout or to a file whose extension decides."""
    uuids = [f"{number:012x}4aaa8{number:015x}" for number in range(1, 4)]
    rows = [{"uuid": uuid, "name": f"向量\u2028检索-{number}"} for number, uuid in enumerate(uuids)]
    (folder / "node.yaml").write_text(json.dumps({"version": 1, "sources": rows}), encoding="utf-8")
    for name, value in {"ZSTACK_API_URL": serve_node("--faults", str(folder / "node.yaml")), **ADMIN}.items():
        monkeypatch.setenv(name, value)
    assert run_command(["discover", "-o", "json"]) == 0
    (folder / "printed.json").write_text(capsys.readouterr().out, encoding="utf-8")
    assert run_command(["discover", "-o", "yaml"]) == 0
    (folder / "printed.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert run_command(["discover", "--out", "found.json"]) == 0
    assert run_command(["discover", "--out", "found.yaml"]) == 0
    assert not (folder / "json").exists()
    assert json.loads((folder / "found.json").read_text(encoding="utf-8"))["targets"] == uuids
    for name in ("printed.json", "printed.yaml", "found.json", "found.yaml"):
        planned = Planning(load(folder / name), run=None, started_at=0.0).plan()
        assert [clone.source_uuid for clone in planned.clones()] == uuids
    # Chinese is readable; a character that would end the comment is escaped.
    assert f'  - "{uuids[0]}"  # "向量\\u2028检索-0"' in (folder / "found.yaml").read_text(encoding="utf-8")
    modeline = "# yaml-language-server: $schema=./job.schema.json\n"
    assert (folder / "found.yaml").read_text(encoding="utf-8").startswith(modeline)
    assert (folder / "job.schema.json").exists()
    assert modeline not in (folder / "printed.yaml").read_text(encoding="utf-8")
    assert run_command(["discover", "-o", "yaml", "--out", "other.json"]) == 2
    assert "read as JSON" in capsys.readouterr().err
    assert not (folder / "other.json").exists()


def test_the_version_has_a_short_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """``-V`` is ``--version``."""
    assert [run_command([flag]) for flag in ("-V", "--version")] == [0, 0]
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
