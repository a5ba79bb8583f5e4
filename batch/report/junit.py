"""The report as JUnit XML, which CI systems show as a list of tests: one test case a target."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from batch.model import State
from batch.report.figures import figures
from batch.report.text import clean, iso

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.report.chronicle import Chronicle, Course

_FAILURES = (State.FAILED, State.CONFLICT, State.UNDONE)


def junit_report(chronicle: Chronicle) -> Iterator[str]:
    """Yield the document: failed targets as failures, uncertain ones as errors, those not settled as skipped."""
    known, header = figures(chronicle), chronicle.header
    failed = sum(known.counts[state] for state in _FAILURES) + known.handed.refused
    uncertain = known.counts[State.UNCERTAIN]
    skipped = known.counts.total() - failed - uncertain - known.counts[State.CLONED] + known.handed.refused
    numbers = (
        f'tests="{known.counts.total()}" failures="{failed}" errors="{uncertain}" skipped="{skipped}"'
        f' time="{known.seconds:.3f}"'
    )
    name = _attribute(f"{header.job}.{header.run}")
    began = (iso(known.began) or "").removesuffix("Z")
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield f'<testsuites name="zclone" {numbers}>\n<testsuite name="{name}" {numbers} timestamp="{began}">\n'
    yield from (_case(course, name) for course in chronicle.courses)
    yield "</testsuite>\n</testsuites>\n"


def _case(course: Course, suite: str) -> str:
    seconds = sum(span.ended_at - span.sent_at[0] for span in course.spans if span.ended_at is not None)
    opening = f'<testcase classname="{suite}" name="{_attribute(course.key)}" time="{seconds:.3f}"'
    if course.state is State.CLONED and not course.is_refused:
        return f"{opening}/>\n"
    if course.state in _FAILURES or course.state is State.UNCERTAIN or course.is_refused:
        element = "error" if course.state is State.UNCERTAIN else "failure"
        said = _attribute(course.error or course.state.value)
        code = _attribute(course.error_code or course.state.value)
        return f'{opening}><{element} type="{code}" message="{said}"/></testcase>\n'
    return f'{opening}><skipped message="{course.state.value}"/></testcase>\n'


def _attribute(text: str) -> str:
    return escape(clean(text).replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff"))
