"""What a run's end means to the shell: the exit code and the manifest never disagree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.errors import ExitCode
from batch.model import Handed, State

if TYPE_CHECKING:
    from collections.abc import Mapping

UNFINISHED: Final = (State.PLANNED, State.SENT, State.ACCEPTED, State.UNCERTAIN)
"""States that running the same command again goes on from."""
NOT_CLONED: Final = (State.FAILED, State.CONFLICT, State.UNDONE)
"""States that a rerun leaves alone, though there is no clone."""

_NONE: Final = Handed()


def exit_code(counts: Mapping[State, int], handed: Handed = _NONE) -> ExitCode:
    """Return 0 only if every target is cloned and handed over, 4 while a rerun has something to do, 3 otherwise.

    A rerun tries again what the server refused to hand over; nothing but that being left is 3.
    """
    if handed.open or any(counts.get(state) for state in UNFINISHED):
        return ExitCode.UNFINISHED
    if handed.refused or any(counts.get(state) for state in NOT_CLONED):
        return ExitCode.FAILED
    return ExitCode.OK
