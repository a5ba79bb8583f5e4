"""The lane picture: which slot each clone took, and when no process ran."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batch.report.chronicle import Course, Process, Span


@dataclass(frozen=True, slots=True)
class Bar:
    """One span of a target in its lane."""

    target: int
    """Its place in the plan, from 0."""
    lane: int
    span: Span
    until: float
    """When it ended, or how far it is known to have come; seconds since the epoch."""


def lanes(courses: Iterable[Course], *, until: float) -> list[Bar]:
    """Give every span the lowest lane that is free when it starts; ``until``: the last thing on record."""
    spans = [(span.sent_at[0], number, span) for number, course in enumerate(courses) for span in course.spans]
    spans.sort(key=lambda entry: entry[:2])
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    bars: list[Bar] = []
    for start, number, span in spans:
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        end = max(start, until if span.ended_at is None else span.ended_at)
        heapq.heappush(busy, (end, lane))
        bars.append(Bar(number, lane, span, end))
    return bars


def pauses(processes: Sequence[Process]) -> list[tuple[float, float]]:
    """Return when no process wrote: from the last line of one to the start of the next."""
    pairs = itertools.pairwise(processes)
    return [(one.last_at, after.started.at) for one, after in pairs if after.started.at > one.last_at]
