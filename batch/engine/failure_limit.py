"""How many of the plan's targets failed, judged against ``max_failures``; what left the job file does not count."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from batch.model import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batch.engine.survey import RunHistory

_ENOUGH_SETTLED: Final = 10
"""``max_failures`` is judged from this many settled clones on."""


class FailureLimit:
    """Counts kept by the manifest, less what is not in the plan."""

    def __init__(self, past: RunHistory, most: float | None) -> None:
        """``most``: ``max_failures``, a number from 1 on and below that a share of what settled; None: no limit."""
        self._past = past
        self._most = most
        self._outside: Counter[State] = Counter()
        self._removed: frozenset[str] = frozenset()
        self._pending: set[str] = set()

    def expect(self, pending: Iterable[str]) -> None:
        """Take in which open Clones this run goes on with: what an earlier one said of them holds no wave back."""
        self._pending = set(pending)

    def leave_out(self, removed: frozenset[str], *, settled: Mapping[State, int]) -> None:
        """Count only the plan: ``settled`` of its targets were at the start; ``removed`` are open and not in it."""
        self._outside = Counter(self._past.settled)
        self._outside.subtract(settled)
        self._removed = removed

    def note_end(self, key: str, state: State) -> None:
        """Take in how a Clone settled."""
        self._pending.discard(key)
        if key in self._removed and state.is_final:
            self._outside[state] += 1

    def excess(self) -> str | None:
        """Say that more failed than the limit allows; None where not."""
        failed, settled = self._counts()
        return _excess(failed, settled, self._most)

    def trouble(self) -> str | None:
        """Say what keeps the next wave back; without ``max_failures`` that is any failure."""
        open_ = self._past.intents.items()
        left_out = self._removed | self._pending
        uncertain = sum(intent.state is State.UNCERTAIN and key not in left_out for key, intent in open_)
        return _trouble(uncertain, *self._counts(), self._most)

    def _counts(self) -> tuple[int, int]:
        """Return how many of the plan's targets failed, and of how many that settled."""
        counts = Counter(self._past.settled)
        counts.subtract(self._outside)
        return _failed_of(counts)


def excess_of(counts: Mapping[State, int], most: float | None) -> str | None:
    """Say of targets by state that more failed than ``max_failures`` allows; None where not."""
    return _excess(*_failed_of(counts), most)


def trouble_of(counts: Mapping[State, int], most: float | None) -> str | None:
    """Say of targets by state what keeps the next wave back; None where nothing does."""
    return _trouble(counts.get(State.UNCERTAIN, 0), *_failed_of(counts), most)


def _failed_of(counts: Mapping[State, int]) -> tuple[int, int]:
    failed = counts.get(State.FAILED, 0) + counts.get(State.CONFLICT, 0)
    return failed, failed + counts.get(State.CLONED, 0)


def _excess(failed: int, settled: int, most: float | None) -> str | None:
    if most is None or settled < _ENOUGH_SETTLED or failed <= _most_of(most, settled):
        return None
    return f"{failed} of {settled} settled clones failed, more than max_failures allows"


def _trouble(uncertain: int, failed: int, settled: int, most: float | None) -> str | None:
    if uncertain:
        return f"{uncertain} clones are uncertain"
    if failed > _most_of(most or 0.0, settled):
        return f"{failed} of {settled} settled clones failed: fix them, then zclone retry"
    return None


def _most_of(most: float, settled: int) -> float:
    return most if most >= 1 else most * settled
