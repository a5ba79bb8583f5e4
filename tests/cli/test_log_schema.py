"""The schema of log lines: it has every event that the code logs, and the lines of real runs conform to it."""

from __future__ import annotations

import ast
import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import jsonschema
import pytest
from structlog.testing import capture_logs

import batch
from batch.app.messages import MESSAGE
from batch.app.schemas import EVENTS, log_schema
from batch.cli.app import run_command
from batch.progress.views import heartbeat
from tests.cli.test_progress import World

if TYPE_CHECKING:
    from collections.abc import Iterator

LEVELS: Final = {"debug", "info", "warning", "error", "critical", "exception"}
CODE: Final = Path(batch.__file__).parent


def logged() -> Iterator[tuple[str, set[str], bool]]:
    """Yield event, fields, and whether some fields are known only at run time, for each place that logs."""
    for path in CODE.rglob("*.py"):
        if path.parent.name == "simulator":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
                name = node.args[0] if node.args else None
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    fields = {word.arg for word in node.keywords if word.arg is not None}
                    yield name.value, fields, any(word.arg is None for word in node.keywords)


def test_the_schema_has_every_event_and_no_other() -> None:
    """The schema has every event and field that the code logs, and the code logs all that the schema has."""
    found = list(logged())
    assert {event for event, _, _ in found} | {MESSAGE} == set(EVENTS)
    for event, fields, has_more in found:
        always, sometimes = EVENTS[event]
        assert fields <= {*always, *sometimes}, event
        assert has_more or set(always) <= fields, event


@pytest.mark.parametrize("faults", ["calm", "flaky"])
def test_lines_of_a_run_meet_the_schema(faults: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of a run's log, in full detail, is one of the published events."""
    monkeypatch.chdir(tmp_path)
    targets = [f"{number:012x}4aaa8{number:015x}" for number in range(12)]
    job = f"version: 1\nname: j\ntargets: [{', '.join(targets)}, {{query: [name=none]}}]\n"
    (tmp_path / "job.yaml").write_text(job, encoding="utf-8")
    flags = ["--log-file", "log.jsonl", "--log-format", "json", "--progress", "plain", "--rate", "500/s"]
    run_command(["run", "job.yaml", f"--simulate={faults}", *flags])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    jsonschema.Draft7Validator.check_schema(log_schema())
    validator = jsonschema.Draft7Validator(log_schema())
    for line in lines:
        validator.validate(line)
        assert not validator.is_valid({**line, "event": "no.such"})
        assert not validator.is_valid({**line, "unknown": 1})
    assert {"operator.warned", "run.started", "clone.sent", "clone.settled", "run.ended"} <= {
        line["event"] for line in lines
    }


async def test_a_heartbeat_meets_the_schema() -> None:
    """The periodic line with a run's progress conforms to the schema too."""
    with capture_logs() as events:
        async with heartbeat(World().board, first=0.0, every=0.0):
            for _ in range(10):
                await asyncio.sleep(0)
    assert events
    for event in events:
        level = event.pop("log_level")
        jsonschema.validate({**event, "level": level, "at": "2026-11-23T00:00:00Z"}, log_schema())


@pytest.mark.parametrize("flag", ["", "--manifest", "--report", "--plan", "--log"])
def test_every_schema_is_draft_7(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All published schemas are of the draft that most editors and validators support."""
    assert run_command(["schema", *filter(None, [flag])]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(schema)
    assert "$defs" not in json.dumps(schema)


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`schema --log` prints it."""
    assert run_command(["schema", "--log"]) == 0
    assert json.loads(capsys.readouterr().out) == log_schema()
