"""Every way by which a foreign text is shown: which modules print, what each command prints, what each report holds."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from batch.app.options import ListOutput, PlanOutput, ProblemFormat, ReportOutput
from batch.cli.app import app, run_command
from batch.manifest import Header
from batch.manifest.kinds import EndedLine, PlanLine, StartedLine
from batch.manifest.line import seal
from batch.manifest.records import encode_ended, encode_plan, encode_planned, encode_record, encode_started
from batch.model import Record, State
from batch.report.write import ENDINGS, write_report
from tests.test_architecture import MODULES, name_of, read

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

BIDI: Final = "\u202e\u2066\u200b\U000e0041"
"""Characters that a job file may hold in a name and that change the text direction or are invisible."""
LINES: Final = f"{BIDI}\u2028forged line\u2029"
TRAP: Final = f"\x9b2J\x1b]0;owned\x07{LINES}\nforged line"
SOURCE: Final = "d76744cb9f5378abf42b907df3efb6e0"
ADMIN: Final = {"ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "password"}

WRITERS: Final = {
    "batch.app.messages": "say escapes each line",
    "batch.cli.terminal": "emit escapes each line",
    "batch.app.logs": "the log's lines, which log.py has escaped",
    "batch.app.live_view": "the consoles of the live view",
    "batch.cli.app": "sets how the two streams encode",
    "batch.simulator.__main__": "one line of ASCII JSON when the node is ready",
}
"""The modules that touch stdout or stderr, and why they print no foreign text unescaped."""
STREAMS: Final = frozenset({"stdout", "stderr", "__stdout__", "__stderr__"})
PRINTERS: Final = frozenset({"print", "echo", "secho", "pprint", "input", "Console", "Live", "to_descriptor"})
IN_PROGRESS: Final = "batch.progress.views"
"""Makes rich's Live of the console that live_view.py gives it; its frames are those of picture.py."""

COMMANDS: Final[dict[str, list[list[str]]]] = {
    "run": [["run", "job.yaml"], ["run", "bad.yaml"], ["run", "trap.manifest.jsonl"]],
    "retry": [["retry", "job.yaml", "--manifest", "trap.manifest.jsonl"]],
    "validate": [["validate", "job.yaml"], *(["validate", "bad.yaml", "--format", form] for form in ProblemFormat)],
    "plan": [*(["plan", "job.yaml", "-o", form] for form in PlanOutput), ["plan", "job.yaml", "--details"]],
    "status": [["status", "trap.manifest.jsonl"]],
    "control": [["control", "trap.manifest.jsonl", BIDI], ["control", "trap.manifest.jsonl"]],
    "list": [
        *(["list", "trap.manifest.jsonl", "-o", form] for form in ListOutput),
        ["list", "trap.manifest.jsonl", "--columns", BIDI],
    ],
    "show": [["show", "trap.manifest.jsonl", TRAP], ["show", "trap.manifest.jsonl", f"{TRAP}?"]],
    "init": [["init", f"{LINES}.yaml"]],
    "discover": [["discover", f"name={BIDI}"]],
    "doctor": [["doctor"]],
    "schema": [["schema"]],
    "repair": [["repair", "trap.manifest.jsonl"]],
    "verify": [["verify", "trap.manifest.jsonl", *form] for form in ((), ("-o", "json"))],
    "rollback": [["rollback", "trap.manifest.jsonl", "--yes"]],
    "runs": [["runs", "job.yaml"]],
    "worker": [["worker", "--rate", "1/s", "--share", BIDI]],
    "merge": [["merge", "trap.manifest.jsonl", "--out", f"missing/{LINES}"]],
    "report": [["report", "trap.manifest.jsonl", "-o", form] for form in ReportOutput],
    "simulate": [["simulate", "--faults", f"{LINES}.yaml"]],
    "demo": [["demo", f"missing/{LINES}"]],
    "help": [["help", BIDI], ["help", "run"]],
}
"""Each command with arguments that make it show foreign text: a job's names, a server's, a manifest's, a path."""
ASKING: Final = (["run", "job.yaml"], ["plan", "job.yaml"], ["discover", "type=Endpoint"], ["doctor"])
"""Those that query a server, whose names are payloads."""
IN_JSON: Final = {("list", "json"), ("list", "jsonl"), ("plan", "json")}


def touches_a_stream(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in STREAMS and isinstance(node.value, ast.Name):
            if node.value.id == "sys":
                yield f"sys.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module == "sys":
            yield from (f"sys.{alias.name}" for alias in node.names if alias.name in STREAMS)
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            if name in PRINTERS:
                yield name


def test_only_listed_modules_write_to_the_streams() -> None:
    """Only listed modules touch stdout and stderr; any other one shows a text by ``emit``, ``say`` or the log."""
    found = {name_of(path): set(touches_a_stream(read(path)[0])) for path in MODULES}
    writers = {name for name, uses in found.items() if uses} - {IN_PROGRESS}
    assert writers == set(WRITERS)
    assert found[IN_PROGRESS] <= {"Live"}


def unescaped_json(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            is_raw = any(keyword.arg == "ensure_ascii" for keyword in node.keywords)
            if is_raw or ast.unparse(node.func) == "jsoncodec.encode":
                yield ast.unparse(node)


def test_shown_json_has_one_encoder() -> None:
    """Commands and reports write JSON beyond ASCII by ``to_json``: what ``emit`` would escape in it is no JSON."""
    shown = [path for path in MODULES if name_of(path).startswith(("batch.app", "batch.cli", "batch.report"))]
    found = {name_of(path): list(unescaped_json(read(path)[0])) for path in shown}
    # The page's data are texts that were escaped one by one, for a script and not for a reader.
    assert {name for name, calls in found.items() if calls} == {"batch.report.html"}


def sealed(bodies: list[bytes]) -> bytes:
    crc, lines = 0, b""
    for batch, body in enumerate(bodies):
        line, crc = seal([body], crc, batch=batch)
        lines += line
    return lines


def write_manifest(path: Path) -> Path:
    """Write a manifest in which every text is a payload, as somebody could forge one."""
    header = Header(TRAP, TRAP, TRAP, simulated=False, tool=TRAP, created_at=1.0, job_file=TRAP)
    started = StartedLine(1.0, 42, TRAP, TRAP, (TRAP,))
    sent = Record(State.SENT, TRAP, 2.0, 1, TRAP, TRAP, TRAP, "d" * 32)
    failed = Record(State.FAILED, TRAP, 3.0, 1, clone_uuid=TRAP, name=TRAP, error_code=TRAP, error=TRAP)
    bodies = [header.body(), encode_started(started), encode_planned([(TRAP, TRAP)])]
    bodies += [encode_plan(PlanLine(TRAP, TRAP, 1, 1.0)), encode_record(sent), encode_record(failed)]
    path.write_bytes(sealed([*bodies, encode_ended(EndedLine(4.0, 3, TRAP))]))
    path.chmod(0o600)
    return path


def require_harmless(text: str) -> None:
    """Fail if a text could control a terminal, begin a new line, or hide something."""
    for line in text.split("\n"):
        assert line.isprintable(), ascii(line)
        assert not line.lstrip().startswith("forged line")


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """Write the files that the commands are called with."""
    row = {"uuid": SOURCE, "params": {"name": f"{BIDI}名", "description": LINES}, "userTags": [f"x::{BIDI}"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    job = "version: 1\nname: shown\ntargets:\n  - from: rows.jsonl\n"
    (tmp_path / "job.yaml").write_text(job, encoding="utf-8")
    wrong: dict[str, Any] = {"uuid": SOURCE, LINES: 1, "id": TRAP, "params": {"name": TRAP, f"requestCpu{BIDI}": TRAP}}
    (tmp_path / "wrong.jsonl").write_text(json.dumps(wrong, ensure_ascii=False) + "\n", encoding="utf-8")
    (tmp_path / "bad.yaml").write_text(job.replace("rows", "wrong"), encoding="utf-8")
    source = {"uuid": SOURCE, "name": TRAP, "fields": {"type": "Endpoint", "description": TRAP}}
    faults = {"version": 1, "sources": [source], "faults": [{"fault": "fail", "code": f"SYS.1007{LINES}"}]}
    (tmp_path / "faults.yaml").write_text(json.dumps(faults), encoding="utf-8")
    write_manifest(tmp_path / "trap.manifest.jsonl")
    return tmp_path


def test_every_command_is_in_the_table() -> None:
    """A new command is added to the table, with arguments that make it show foreign text."""
    names = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    assert names == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_shows_a_foreign_text_raw(
    command: str, stage: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a job, a manifest or a path holds, a command's output is lines of printable text."""
    monkeypatch.chdir(stage)
    for arguments in COMMANDS[command]:
        run_command(arguments)
        require_shown(arguments, *capfd.readouterr())


def test_no_command_shows_a_text_of_the_server_raw(zclone: Run, stage: Path, serve_node: Callable[..., str]) -> None:
    """Whatever a server's names and errors hold, a command's output is lines of printable text."""
    env = {"ZSTACK_API_URL": serve_node("--faults", str(stage / "faults.yaml")), **ADMIN}
    for arguments in ASKING:
        done = zclone(*arguments, env=env)
        require_shown(arguments, done.stdout, done.stderr)


def require_shown(arguments: list[str], stdout: str, stderr: str) -> None:
    assert stdout + stderr, arguments
    assert "Traceback" not in stderr, stderr
    require_harmless(stdout)
    require_harmless(stderr)
    if (arguments[0], arguments[-1]) in IN_JSON:
        assert json.loads(stdout)


def test_a_plan_in_json_is_what_would_be_sent(
    stage: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Escaped as JSON, a plan's values are read back as the job file has them."""
    monkeypatch.chdir(stage)
    run_command(["plan", "job.yaml", "-o", "json"])
    (clone,) = json.loads(capfd.readouterr().out)["clones"]
    assert clone["body"]["params"]["description"] == LINES


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_report_holds_a_foreign_text_raw(ending: str, tmp_path: Path) -> None:
    """A report of any kind, made of a forged manifest, is lines of printable text."""
    out = tmp_path / f"report{ending}"
    write_report(write_manifest(tmp_path / "trap.manifest.jsonl"), out, at=5.0)
    require_harmless(out.read_text(encoding="utf-8-sig"))
