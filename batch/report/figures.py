"""Figures that all report formats show, among them the exit code: both come from the manifest, so that they agree."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.errors import HELD_BACK, EndReason, ExitCode
from batch.manifest.operations import estimate_hand_overs
from batch.model import HandOverCounts, State, waits_for_operator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.report.data import ReportData

UNFINISHED: Final = (State.PLANNED, State.SENT, State.ACCEPTED, State.UNCERTAIN)
"""States that a rerun continues from."""
NOT_CLONED: Final = (State.FAILED, State.CONFLICT, State.UNDONE)
"""States without a clone that a rerun does not change."""

_NONE: Final = HandOverCounts()
REFUSED: Final = frozenset({EndReason.DENIED, EndReason.RESOURCE_UUID})
"""Reasons that would end a rerun in the same way."""
_IN_DOUBT: Final = (State.SENT, State.ACCEPTED, State.UNCERTAIN)
NO_RUN: Final = "no run recorded yet"
"""Text for a manifest whose process was killed before it recorded its plan."""


def exit_code(
    counts: Mapping[State, int],
    hand_overs: HandOverCounts = _NONE,
    reason: EndReason | None = None,
    *,
    overdue: int = 0,
) -> ExitCode:
    """Return 0 only if every target is cloned and handed over, 4 while a rerun can settle anything, 3 otherwise.

    If only refused hand-overs are left, the code is 3, although a rerun retries them. ``reason``: why the last process
    ended early; ``overdue``: number of uncertain targets that no rerun settles by itself.
    """
    is_left = bool(hand_overs.open or counts.get(State.PLANNED))
    in_doubt = sum(counts.get(state, 0) for state in _IN_DOUBT) - overdue
    if reason is EndReason.RESOURCE_UUID:
        return ExitCode.FAILED
    if not in_doubt and (reason in REFUSED or (is_left and reason in HELD_BACK)):
        return ExitCode.FAILED
    if is_left or in_doubt:
        return ExitCode.UNFINISHED
    if overdue or hand_overs.refused or any(counts.get(state) for state in NOT_CLONED):
        return ExitCode.FAILED
    return ExitCode.OK


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts and times of a run."""

    counts: Counter[State]
    retries: int
    """Number of POSTs after the first of each target."""
    began: float
    """Seconds since the epoch."""
    until: float
    """Time of the last record, seconds since the epoch."""
    seconds: float
    """Total run time of all processes, without the pauses between them."""
    handed: HandOverCounts
    overdue: int
    """Number of uncertain targets that no rerun settles by itself, as of the last record."""
    is_recorded: bool
    """Whether any process recorded its plan."""
    reason: EndReason | None
    """Why the last process ended early; None if it did not, is running, or was killed."""

    @property
    def targets(self) -> int:
        """Number of targets of the job, without withdrawn ones."""
        return self.counts.total() - self.counts[State.WITHDRAWN]

    @property
    def exit_code(self) -> ExitCode | None:
        """Exit code of a run that ends in this state; None if no run is recorded yet."""
        if not self.is_recorded:
            return None
        return exit_code(self.counts, self.handed, self.reason, overdue=self.overdue)


def figures(report: ReportData) -> Figures:
    """Compute the figures in one pass over the targets."""
    sends = [sum(len(span.sent_at) for span in target.spans) for target in report.targets]
    began = min((process.started.at for process in report.processes), default=report.header.created_at)
    counts = Counter(target.state for target in report.targets)
    tried = [target for target in report.targets if target.hand_over is not None and target.state is State.CLONED]
    refused = sum(target.is_refused for target in tried)
    ended = report.processes[-1].ended if report.processes else None
    reason = None if ended is None else ended.code
    until = max((process.last_at for process in report.processes), default=began)
    lasts = [target.last for target in report.targets if target.last is not None]
    estimated = estimate_hand_overs(report.plan, counts, done=len(tried) - refused, refused=refused)
    return Figures(
        counts=counts,
        retries=sum(sends) - sum(1 for number in sends if number),
        began=began,
        until=until,
        seconds=sum(max(0.0, process.last_at - process.started.at) for process in report.processes),
        handed=estimated if ended is None or ended.handed is None else ended.handed,
        overdue=sum(waits_for_operator(last, until, is_refused=reason in REFUSED) for last in lasts),
        is_recorded=report.plan is not None or bool(counts),
        reason=reason,
    )
