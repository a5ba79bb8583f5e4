"""The report as one JSON document, and its JSON Schema: the format is published, so that scripts may rely on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.model import State
from batch.report.failures import failures
from batch.report.figures import figures
from batch.report.listing import COLUMNS, fields
from batch.report.text import iso, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.model import JsonValue
    from batch.report.chronicle import Chronicle
    from batch.report.failures import Failures

FORMAT: Final = "zclone-report"
VERSION: Final = 1


def json_report(chronicle: Chronicle, *, at: float) -> Iterator[str]:
    """Yield the document, a target a line; ``at``: when it is written, seconds since the epoch."""
    yield to_json(_head(chronicle, at)).removesuffix("}") + ', "targets": ['
    separator = "\n"
    for course in chronicle.courses:
        yield separator + to_json(fields(course.row()))
        separator = ",\n"
    yield "\n]}\n"


def _head(chronicle: Chronicle, at: float) -> dict[str, JsonValue]:
    known, header, plan = figures(chronicle), chronicle.header, chronicle.plan
    counts: dict[str, JsonValue] = {state.value: known.counts[state] for state in State}
    return {
        "format": FORMAT,
        "version": VERSION,
        "job": header.job,
        "run": header.run,
        "endpoint": header.endpoint,
        "simulated": header.simulated,
        "tool": header.tool,
        "written_at": iso(at),
        "began_at": iso(known.began),
        "last_at": iso(known.until),
        "seconds": round(known.seconds, 3),
        "plan_digest": None if plan is None else plan.digest,
        "exit_code": int(known.exit_code),
        "retries": known.retries,
        "counts": counts,
        "failures": [_failure(group) for group in failures(chronicle)],
    }


def _failure(group: Failures) -> JsonValue:
    return {
        "state": group.state.value,
        "code": group.code or None,
        "cause": group.cause,
        "count": group.count,
        "keys": [*group.keys],
        "command": group.command,
    }


_TEXT: Final[JsonValue] = {"type": "string"}
_MAYBE: Final[JsonValue] = {"type": ["string", "null"]}
_COUNT: Final[JsonValue] = {"type": "integer", "minimum": 0}
_TIME: Final[JsonValue] = {"type": ["string", "null"], "description": "ISO 8601, UTC, milliseconds"}


def report_schema() -> dict[str, JsonValue]:
    """Return the schema of the document; readers must ignore fields they do not know."""
    states: JsonValue = {"enum": [state.value for state in State]}
    failure: dict[str, JsonValue] = {
        "state": states,
        "code": _MAYBE,
        "cause": _TEXT,
        "count": _COUNT,
        "keys": {"type": "array", "items": _TEXT, "description": "the first of them"},
        "command": {"type": "string", "description": "what to run next"},
    }
    kinds: dict[str, JsonValue] = {"key": _TEXT, "source_uuid": _TEXT, "state": states, "attempts": _COUNT}
    times: dict[str, JsonValue] = {"started_at": _TIME, "settled_at": _TIME}
    target: dict[str, JsonValue] = dict.fromkeys(COLUMNS, _MAYBE) | kinds | times
    head: dict[str, JsonValue] = {
        "format": {"const": FORMAT},
        "version": {"const": VERSION},
        **dict.fromkeys(("job", "run", "endpoint", "tool"), _TEXT),
        "simulated": {"type": "boolean", "description": "a rehearsal on the embedded node"},
        **dict.fromkeys(("written_at", "began_at", "last_at"), _TIME),
        "seconds": {"type": "number", "minimum": 0, "description": "while a process ran"},
        "plan_digest": _MAYBE,
        "exit_code": {"type": "integer", "description": "what a run that ended so would exit with"},
        "retries": _COUNT,
        "counts": _object({state.value: _COUNT for state in State}),
        "failures": {"type": "array", "items": _object(failure)},
        "targets": {"type": "array", "items": _object(target)},
    }
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "A zclone report", **_object(head)}


def _object(properties: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {"type": "object", "properties": properties, "required": [*properties]}
