"""The report as Markdown, to paste into a ticket or a chat."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from batch.model import State
from batch.report.failures import failures
from batch.report.figures import figures
from batch.report.status import handed_text
from batch.report.text import clean, duration, iso

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.report.chronicle import Chronicle
    from batch.report.failures import Failures

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>|~#])")
_MOST_ROWS: Final = 200
_LONGEST: Final = 300


def markdown_report(chronicle: Chronicle, *, at: float) -> Iterator[str]:
    """Yield the lines with their newlines; ``at``: when it is written, seconds since the epoch."""
    known, header = figures(chronicle), chronicle.header
    rehearsal = ", a rehearsal on the embedded node" if header.simulated else ""
    yield f"# {_plain(header.job)}, run {_plain(header.run)}\n\n"
    yield f"{known.counts[State.CLONED]} of {known.counts.total()} targets cloned"
    yield f" on {_plain(header.endpoint)}{rehearsal}"
    yield f" in {duration(known.seconds)}; {known.retries} extra attempts.\n\n| state | targets |\n|---|---:|\n"
    yield from (f"| {state.value} | {known.counts[state]} |\n" for state in State if known.counts[state])
    told = handed_text(known.handed)
    yield f"\n{told}\n" if told else ""
    yield from _failures(failures(chronicle))
    yield from _rows(chronicle)
    digest = f", plan `{chronicle.plan.digest}`" if chronicle.plan else ""
    yield f"\n{_plain(header.tool)}{digest}, written {iso(at)}\n"


def _failures(groups: list[Failures]) -> Iterator[str]:
    if groups:
        yield "\n## Failures\n"
    for group in groups:
        code, error = _plain(group.code or "no code"), _plain(group.error[:_LONGEST])
        yield f"\n**{group.count} {group.state.value}, {code}**: {error}  \n"
        yield f"such as {', '.join(map(_plain, group.keys))}\n"
        yield f"\n```sh\n{clean(group.command)}\n```\n"


def _rows(chronicle: Chronicle) -> Iterator[str]:
    yield "\n## Old to new\n\n| key | old uuid | new uuid | name | state |\n|---|---|---|---|---|\n"
    for course in chronicle.courses[:_MOST_ROWS]:
        row = course.row()
        cells = (row.key, row.source_uuid, row.clone_uuid or "", row.name or "", row.state.value)
        yield f"| {' | '.join(map(_plain, cells))} |\n"
    more = len(chronicle.courses) - _MOST_ROWS
    if more > 0:
        yield f"\n… and {more} more: `zclone list`\n"


def _plain(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", clean(text))
