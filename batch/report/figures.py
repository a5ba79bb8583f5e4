"""The figures of a chronicle that every format shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch.manifest.handovers import counted
from batch.model import State
from batch.report.exits import exit_code

if TYPE_CHECKING:
    from batch.errors import ExitCode
    from batch.model import Handed
    from batch.report.chronicle import Chronicle


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts and times of a run."""

    counts: Counter[State]
    retries: int
    """POSTs beyond the first of their target."""
    began: float
    """Seconds since the epoch."""
    until: float
    """The last thing on record; the same unit."""
    seconds: float
    """While a process ran; the pauses between processes are left out."""
    handed: Handed

    @property
    def exit_code(self) -> ExitCode:
        """What a run that ended so would exit with."""
        return exit_code(self.counts, self.handed)


def figures(chronicle: Chronicle) -> Figures:
    """Count once over every target."""
    sends = [sum(len(span.sent_at) for span in course.spans) for course in chronicle.courses]
    began = min((process.started.at for process in chronicle.processes), default=chronicle.header.created_at)
    counts = Counter(course.state for course in chronicle.courses)
    tried = [course for course in chronicle.courses if course.hand_over is not None and course.state is State.CLONED]
    refused = sum(course.is_refused for course in tried)
    return Figures(
        counts=counts,
        retries=sum(sends) - sum(1 for number in sends if number),
        began=began,
        until=max((process.last_at for process in chronicle.processes), default=began),
        seconds=sum(max(0.0, process.last_at - process.started.at) for process in chronicle.processes),
        handed=counted(chronicle.plan, counts, done=len(tried) - refused, refused=refused),
    )
