"""The report for other tools: Markdown for tickets, JUnit XML for CI systems, and a JSON document with its schema.

``report/write.py`` chooses among these, ``report/html.py`` and the CSV of ``report/listings.py``.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Final

from batch.errors import EndReason
from batch.model import State
from batch.report.figures import NO_RUN, command_for, failures, figures
from batch.report.listings import COLUMNS, row_values
from batch.report.status import handed_text
from batch.schema import COUNT, FLAG, MAYBE_TEXT, TEXT, array, describe, document, record
from batch.text import duration, escape, iso, to_json
from batch.zstack.classify import with_hint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.model import JsonValue
    from batch.report.data import ReportData, TargetData
    from batch.report.figures import Failures
    from batch.schema import Schema
    from batch.zstack.classify import Language

_BACKTICKS: Final = re.compile("`+")
_MAX_ROWS: Final = 200
_LONGEST: Final = 300

_JUNIT_FAILURES = (State.FAILED, State.CONFLICT, State.UNDONE)

FORMAT: Final = "zclone-report"
VERSION: Final = 1


def markdown_report(report: ReportData, *, at: float, language: Language = "en") -> Iterator[str]:
    """Yield lines with newlines; ``at``: time of writing, seconds since the epoch."""
    totals, header = figures(report), report.header
    rehearsal = ", a rehearsal on the embedded node" if header.simulated else ""
    yield f"# {_code_span(header.job)}, run {_code_span(header.run)}\n\n"
    yield f"{totals.counts[State.CLONED]} of {totals.targets} targets cloned" if totals.is_recorded else NO_RUN
    yield f" on {_code_span(header.endpoint)}{rehearsal}"
    yield f" in {duration(totals.seconds)}; {totals.retries} retries.\n\n| state | targets |\n|---|---:|\n"
    yield from (f"| {state.value} | {totals.counts[state]} |\n" for state in State if totals.counts[state])
    handed = handed_text(totals.handed)
    yield f"\n{handed}\n" if handed else ""
    yield from _markdown_failures(failures(report), language)
    yield from _markdown_verification(report)
    yield from _markdown_rows(report)
    digest = f", plan {_code_span(report.plan.digest)}" if report.plan else ""
    yield f"\n{_code_span(header.tool)}{digest}, written {iso(at)}\n"


def _markdown_failures(groups: list[Failures], language: Language) -> Iterator[str]:
    if groups:
        yield "\n## Failures\n"
    for group in groups:
        error = with_hint(group.code, group.error[:_LONGEST], language) or ""
        code, error = _code_span(group.code) or "no code", _code_span(error)
        yield f"\n**{group.count} {group.state.value}, {code}**: {error}  \n"
        yield f"such as {', '.join(map(_code_span, group.keys))}\n"
        yield f"\n```sh\n{escape(group.command)}\n```\n"


def _markdown_verification(report: ReportData) -> Iterator[str]:
    if report.verification is not None:
        yield f"\n## On the server\n\n{_code_span(report.verification.ended_at)}\n\n"
        yield from (f"- {_code_span(line)}\n" for line in report.verification.lines[:_MAX_ROWS])


def _markdown_rows(report: ReportData) -> Iterator[str]:
    yield "\n## Old to new\n\n| key | old uuid | new uuid | name | state |\n|---|---|---|---|---|\n"
    for target in report.targets[:_MAX_ROWS]:
        row = target.row()
        cells = (row.key, row.source_uuid, row.clone_uuid or "", row.name or "")
        yield f"| {' | '.join(map(_table_cell, cells))} | {row.state.value} |\n"
    more = len(report.targets) - _MAX_ROWS
    if more > 0:
        yield f"\n… and {more} more: `zclone list`\n"


def _code_span(text: str) -> str:
    """Quote foreign text as a code span, in which markup, mentions, links and entities have no effect."""
    longest = max(map(len, _BACKTICKS.findall(text)), default=0)
    fence, blank = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{blank}{escape(text)}{blank}{fence}" if text else ""


def _table_cell(text: str) -> str:
    """Quote foreign text for a table cell, which a pipe would end even inside a code span."""
    return _code_span(text.replace("|", "\\x7c"))


def junit_report(report: ReportData, *, language: Language = "en") -> Iterator[str]:
    """Yield the document: failed targets as failures, uncertain ones as errors, those not settled as skipped."""
    totals, header = figures(report), report.header
    failed = sum(totals.counts[state] for state in _JUNIT_FAILURES) + totals.handed.refused
    uncertain = totals.counts[State.UNCERTAIN]
    skipped = totals.counts.total() - failed - uncertain - totals.counts[State.CLONED] + totals.handed.refused
    missing = int(not totals.is_recorded)
    tests, errors = totals.counts.total() + missing, uncertain + missing
    numbers = f'tests="{tests}" failures="{failed}" errors="{errors}" skipped="{skipped}" time="{totals.seconds:.3f}"'
    name = _xml_attribute(f"{header.job}.{header.run}")
    began = (iso(totals.began) or "").removesuffix("Z")
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield f'<testsuites name="zclone" {numbers}>\n<testsuite name="{name}" {numbers} timestamp="{began}">\n'
    if missing:
        yield f'<testcase classname="{name}" name="{name}" time="0.000"><error message="{NO_RUN}"/></testcase>\n'
    yield from (_junit_case(report, target, name, language) for target in report.targets)
    yield "</testsuite>\n</testsuites>\n"


def _junit_case(report: ReportData, target: TargetData, suite: str, language: Language) -> str:
    seconds = sum(span.ended_at - span.sent_at[0] for span in target.spans if span.ended_at is not None)
    opening = f'<testcase classname="{suite}" name="{_xml_attribute(target.key)}" time="{seconds:.3f}"'
    if target.state is State.CLONED and not target.is_refused:
        return f"{opening}/>\n"
    if target.state in _JUNIT_FAILURES or target.state is State.UNCERTAIN or target.is_refused:
        element = "error" if target.state is State.UNCERTAIN else "failure"
        reason = with_hint(target.error_code, target.error, language) or target.state.value
        code = _xml_attribute(target.error_code or target.state.value)
        text = "\n".join(map(_xml_attribute, _junit_details(report, target, reason)))
        return f'{opening}><{element} type="{code}" message="{_xml_attribute(reason)}">{text}</{element}></testcase>\n'
    return f'{opening}><skipped message="{target.state.value}"/></testcase>\n'


def _junit_details(report: ReportData, target: TargetData, reason: str) -> Iterator[str]:
    """Yield the text of a failure; GitLab shows only the text and ignores attributes."""
    yield f"{target.error_code}: {reason}" if target.error_code else reason
    yield f"source: {target.source_uuid}"
    yield f"attempts: {0 if target.last is None else target.last.attempt}"
    if target.state is not State.UNDONE:
        code, shard = target.error_code or "", report.shard
        yield f"next: {command_for(report.header, report.path, target.state, code, shard=shard)}"


def _xml_attribute(text: str) -> str:
    return html.escape(escape(text))


def json_report(report: ReportData, *, at: float, language: Language = "en") -> Iterator[str]:
    """Yield the document, one line per target; ``at``: time of writing, seconds since the epoch."""
    yield to_json(_json_head(report, at)).removesuffix("}") + ', "targets": ['
    separator = "\n"
    for target in report.targets:
        yield separator + to_json(row_values(target.row(), language))
        separator = ",\n"
    yield "\n]}\n"


def _json_head(report: ReportData, at: float) -> dict[str, JsonValue]:
    totals, header, plan = figures(report), report.header, report.plan
    counts: dict[str, JsonValue] = {state.value: totals.counts[state] for state in State}
    return {
        "format": FORMAT,
        "version": VERSION,
        "job": header.job,
        "run": header.run,
        "endpoint": header.endpoint,
        "simulated": header.simulated,
        "tool": header.tool,
        "written_at": iso(at),
        "began_at": iso(totals.began),
        "last_at": iso(totals.until),
        "seconds": round(totals.seconds, 3),
        "plan_digest": None if plan is None else plan.digest,
        "exit_code": totals.exit_code,
        "reason": totals.reason,
        "retries": totals.retries,
        "counts": counts,
        "failures": [_json_failure(group) for group in failures(report)],
        "verification": None if report.verification is None else report.verification.document,
    }


def _json_failure(group: Failures) -> JsonValue:
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
