"""The report as JUnit XML for CI systems, with one test case per target."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from batch.model import State
from batch.report.failures import command_for
from batch.report.figures import NO_RUN, figures
from batch.text import escape, iso
from batch.zstack.classify import with_hint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.report.data import ReportData, TargetData
    from batch.zstack.classify import Language

_FAILURES = (State.FAILED, State.CONFLICT, State.UNDONE)


def junit_report(report: ReportData, *, language: Language = "en") -> Iterator[str]:
    """Yield the document: failed targets as failures, uncertain ones as errors, those not settled as skipped."""
    known, header = figures(report), report.header
    failed = sum(known.counts[state] for state in _FAILURES) + known.handed.refused
    uncertain = known.counts[State.UNCERTAIN]
    skipped = known.counts.total() - failed - uncertain - known.counts[State.CLONED] + known.handed.refused
    missing = int(not known.is_recorded)
    tests, errors = known.counts.total() + missing, uncertain + missing
    numbers = f'tests="{tests}" failures="{failed}" errors="{errors}" skipped="{skipped}" time="{known.seconds:.3f}"'
    name = _attribute(f"{header.job}.{header.run}")
    began = (iso(known.began) or "").removesuffix("Z")
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield f'<testsuites name="zclone" {numbers}>\n<testsuite name="{name}" {numbers} timestamp="{began}">\n'
    if missing:
        yield f'<testcase classname="{name}" name="{name}" time="0.000"><error message="{NO_RUN}"/></testcase>\n'
    yield from (_case(report, target, name, language) for target in report.targets)
    yield "</testsuite>\n</testsuites>\n"


def _case(report: ReportData, target: TargetData, suite: str, language: Language) -> str:
    seconds = sum(span.ended_at - span.sent_at[0] for span in target.spans if span.ended_at is not None)
    opening = f'<testcase classname="{suite}" name="{_attribute(target.key)}" time="{seconds:.3f}"'
    if target.state is State.CLONED and not target.is_refused:
        return f"{opening}/>\n"
    if target.state in _FAILURES or target.state is State.UNCERTAIN or target.is_refused:
        element = "error" if target.state is State.UNCERTAIN else "failure"
        reason = with_hint(target.error_code, target.error, language) or target.state.value
        code = _attribute(target.error_code or target.state.value)
        text = "\n".join(map(_attribute, _details(report, target, reason)))
        return f'{opening}><{element} type="{code}" message="{_attribute(reason)}">{text}</{element}></testcase>\n'
    return f'{opening}><skipped message="{target.state.value}"/></testcase>\n'


def _details(report: ReportData, target: TargetData, reason: str) -> Iterator[str]:
    """Yield the text of a failure; GitLab shows only the text and ignores attributes."""
    yield f"{target.error_code}: {reason}" if target.error_code else reason
    yield f"source: {target.source_uuid}"
    yield f"attempts: {0 if target.last is None else target.last.attempt}"
    if target.state is not State.UNDONE:
        code, shard = target.error_code or "", report.shard
        yield f"next: {command_for(report.header, report.path, target.state, code, shard=shard)}"


def _attribute(text: str) -> str:
    return html.escape(escape(text))
