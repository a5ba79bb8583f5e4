"""The report as a JSON document and its JSON Schema, a published format that scripts may rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.errors import EndReason
from batch.model import State
from batch.report.failures import failures
from batch.report.figures import figures
from batch.report.target_list import COLUMNS, row_values
from batch.schema import COUNT, FLAG, MAYBE_TEXT, TEXT, array, describe, document, record
from batch.text import iso, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.model import JsonValue
    from batch.report.data import ReportData
    from batch.report.failures import Failures
    from batch.schema import Schema
    from batch.zstack.classify import Language

FORMAT: Final = "zclone-report"
VERSION: Final = 1


def json_report(report: ReportData, *, at: float, language: Language = "en") -> Iterator[str]:
    """Yield the document, one line per target; ``at``: time of writing, seconds since the epoch."""
    yield to_json(_head(report, at)).removesuffix("}") + ', "targets": ['
    separator = "\n"
    for target in report.targets:
        yield separator + to_json(row_values(target.row(), language))
        separator = ",\n"
    yield "\n]}\n"


def _head(report: ReportData, at: float) -> dict[str, JsonValue]:
    known, header, plan = figures(report), report.header, report.plan
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
        "exit_code": known.exit_code,
        "reason": known.reason,
        "retries": known.retries,
        "counts": counts,
        "failures": [_failure(group) for group in failures(report)],
        "verification": None if report.verification is None else report.verification.document,
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


_TIME: Final = describe(MAYBE_TEXT, "ISO 8601, UTC, milliseconds")


def report_schema() -> Schema:
    """Return the schema of the document; readers must ignore fields they do not know."""
    states: Schema = {"enum": [state.value for state in State]}
    failure: dict[str, Schema] = {
        "state": states,
        "code": MAYBE_TEXT,
        "cause": TEXT,
        "count": COUNT,
        "keys": describe(array(TEXT), "the first of their keys"),
        "command": describe(TEXT, "the next command"),
    }
    kinds: dict[str, Schema] = {"key": TEXT, "source_uuid": TEXT, "state": states, "attempts": COUNT}
    times: dict[str, Schema] = {"started_at": _TIME, "settled_at": _TIME}
    target: dict[str, Schema] = dict.fromkeys(COLUMNS, MAYBE_TEXT) | kinds | times
    head: dict[str, Schema] = {
        "format": {"const": FORMAT},
        "version": {"const": VERSION},
        **dict.fromkeys(("job", "run", "endpoint", "tool"), TEXT),
        "simulated": describe(FLAG, "a rehearsal on the embedded node"),
        **dict.fromkeys(("written_at", "began_at", "last_at"), _TIME),
        "seconds": {"type": "number", "minimum": 0, "description": "total run time of all processes"},
        "plan_digest": MAYBE_TEXT,
        "exit_code": {
            "type": ["integer", "null"],
            "description": "exit code of a run that ends in this state; null if no run is recorded yet",
        },
        "reason": {"enum": [*EndReason, None], "description": "why the last process ended early"},
        "retries": COUNT,
        "counts": record({state.value: COUNT for state in State}),
        "verification": {"type": ["object", "null"], "description": "the output of `zclone verify -o json`"},
        "failures": array(record(failure)),
        "targets": array(record(target)),
    }
    return document("A zclone report", record(head))
