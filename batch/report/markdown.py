"""The report as Markdown, for tickets and chats."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from batch.model import State
from batch.report.failures import failures
from batch.report.figures import NO_RUN, figures
from batch.report.status import handed_text
from batch.text import duration, escape, iso
from batch.zstack.classify import with_hint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.report.data import ReportData
    from batch.report.failures import Failures
    from batch.zstack.classify import Language

_BACKTICKS: Final = re.compile("`+")
_MAX_ROWS: Final = 200
_LONGEST: Final = 300


def markdown_report(report: ReportData, *, at: float, language: Language = "en") -> Iterator[str]:
    """Yield lines with newlines; ``at``: time of writing, seconds since the epoch."""
    known, header = figures(report), report.header
    rehearsal = ", a rehearsal on the embedded node" if header.simulated else ""
    yield f"# {_code(header.job)}, run {_code(header.run)}\n\n"
    yield f"{known.counts[State.CLONED]} of {known.targets} targets cloned" if known.is_recorded else NO_RUN
    yield f" on {_code(header.endpoint)}{rehearsal}"
    yield f" in {duration(known.seconds)}; {known.retries} retries.\n\n| state | targets |\n|---|---:|\n"
    yield from (f"| {state.value} | {known.counts[state]} |\n" for state in State if known.counts[state])
    handed = handed_text(known.handed)
    yield f"\n{handed}\n" if handed else ""
    yield from _failures(failures(report), language)
    yield from _verification(report)
    yield from _rows(report)
    digest = f", plan {_code(report.plan.digest)}" if report.plan else ""
    yield f"\n{_code(header.tool)}{digest}, written {iso(at)}\n"


def _failures(groups: list[Failures], language: Language) -> Iterator[str]:
    if groups:
        yield "\n## Failures\n"
    for group in groups:
        error = with_hint(group.code, group.error[:_LONGEST], language) or ""
        code, error = _code(group.code) or "no code", _code(error)
        yield f"\n**{group.count} {group.state.value}, {code}**: {error}  \n"
        yield f"such as {', '.join(map(_code, group.keys))}\n"
        yield f"\n```sh\n{escape(group.command)}\n```\n"


def _verification(report: ReportData) -> Iterator[str]:
    if report.verification is not None:
        yield f"\n## On the server\n\n{_code(report.verification.ended_at)}\n\n"
        yield from (f"- {_code(line)}\n" for line in report.verification.lines[:_MAX_ROWS])


def _rows(report: ReportData) -> Iterator[str]:
    yield "\n## Old to new\n\n| key | old uuid | new uuid | name | state |\n|---|---|---|---|---|\n"
    for target in report.targets[:_MAX_ROWS]:
        row = target.row()
        cells = (row.key, row.source_uuid, row.clone_uuid or "", row.name or "")
        yield f"| {' | '.join(map(_cell, cells))} | {row.state.value} |\n"
    more = len(report.targets) - _MAX_ROWS
    if more > 0:
        yield f"\n… and {more} more: `zclone list`\n"


def _code(text: str) -> str:
    """Quote foreign text as a code span, in which markup, mentions, links and entities have no effect."""
    longest = max(map(len, _BACKTICKS.findall(text)), default=0)
    fence, blank = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{blank}{escape(text)}{blank}{fence}" if text else ""


def _cell(text: str) -> str:
    """Quote foreign text for a table cell, which a pipe would end even inside a code span."""
    return _code(text.replace("|", "\\x7c"))
