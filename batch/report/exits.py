"""The exit code of a run, computed from its manifest so that the two never disagree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.errors import HELD_BACK, EndReason, ExitCode
from batch.model import HandOverCounts, State

if TYPE_CHECKING:
    from collections.abc import Mapping

UNFINISHED: Final = (State.PLANNED, State.SENT, State.ACCEPTED, State.UNCERTAIN)
"""States that a rerun continues from."""
NOT_CLONED: Final = (State.FAILED, State.CONFLICT, State.UNDONE)
"""States without a clone that a rerun does not change."""

_NONE: Final = HandOverCounts()
REFUSED: Final = frozenset({EndReason.DENIED, EndReason.RESOURCE_UUID})
"""Reasons that would end a rerun in the same way."""
_IN_DOUBT: Final = (State.SENT, State.ACCEPTED, State.UNCERTAIN)


def exit_code(
    counts: Mapping[State, int], handed: HandOverCounts = _NONE, reason: EndReason | None = None, *, overdue: int = 0
) -> ExitCode:
    """Return 0 only if every target is cloned and handed over, 4 while a rerun can settle anything, 3 otherwise.

    If only refused hand-overs are left, the code is 3, although a rerun retries them. ``reason``: why the last process
    ended early; ``overdue``: number of uncertain targets that no rerun settles by itself.
    """
    is_left = bool(handed.open or counts.get(State.PLANNED))
    in_doubt = sum(counts.get(state, 0) for state in _IN_DOUBT) - overdue
    if reason is EndReason.RESOURCE_UUID:
        return ExitCode.FAILED
    if not in_doubt and (reason in REFUSED or (is_left and reason in HELD_BACK)):
        return ExitCode.FAILED
    if is_left or in_doubt:
        return ExitCode.UNFINISHED
    if overdue or handed.refused or any(counts.get(state) for state in NOT_CLONED):
        return ExitCode.FAILED
    return ExitCode.OK
