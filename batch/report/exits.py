"""What a run's end means to the shell: the exit code and the manifest never disagree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.errors import ExitCode
from batch.model import State

if TYPE_CHECKING:
    from collections.abc import Mapping

UNFINISHED: Final = (State.PLANNED, State.SENT, State.ACCEPTED, State.UNCERTAIN)
"""States that running the same command again goes on from."""
NOT_CLONED: Final = (State.FAILED, State.CONFLICT, State.UNDONE)
"""States that a rerun leaves alone, though there is no clone."""


def exit_code(counts: Mapping[State, int]) -> ExitCode:
    """Return 0 only if every target is cloned, 4 while a rerun has something to do, 3 otherwise."""
    if any(counts.get(state) for state in UNFINISHED):
        return ExitCode.UNFINISHED
    if any(counts.get(state) for state in NOT_CLONED):
        return ExitCode.FAILED
    return ExitCode.OK
