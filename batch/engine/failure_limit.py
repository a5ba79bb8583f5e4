"""Counts the failed targets of the plan against ``max_failures``; targets that left the job file do not count."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from batch.model import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batch.engine.survey import RunHistory

_ENOUGH_SETTLED: Final = 10
"""``max_failures`` applies from this many settled clones on."""


class FailureLimit:
    """The manifest's counts of failures, without targets outside the plan."""

    def __init__(self, past: RunHistory, limit: float | None) -> None:
        """Set the ``limit``: a count from 1 on, a share of the settled ones below 1; None: no limit."""
        self._past = past
        self._limit = limit
        self._outside: Counter[State] = Counter()
        self._removed: frozenset[str] = frozenset()
        self._pending: set[str] = set()

    def expect(self, pending: Iterable[str]) -> None:
        """Ignore the earlier records of the open Clones that this run continues, so that they hold back no wave."""
        self._pending = set(pending)

    def exclude(self, removed: frozenset[str], *, settled: Mapping[State, int]) -> None:
        """Count only the plan: ``settled`` of its targets were settled at the start, ``removed`` are open outside."""
        self._outside = Counter(self._past.settled)
        self._outside.subtract(settled)
        self._removed = removed

    def note_end(self, key: str, state: State) -> None:
        """Count a settled Clone."""
        self._pending.discard(key)
        if key in self._removed and state.is_final:
            self._outside[state] += 1

    def excess(self) -> str | None:
        """Return a message where more failed than the limit allows, else None."""
        failed, settled = self._counts()
        return _excess(failed, settled, self._limit)

    def wave_hold(self) -> str | None:
        """Return why the next wave is held back, else None; without ``max_failures`` any failure holds it back."""
        open_ = self._past.intents.items()
        left_out = self._removed | self._pending
        uncertain = sum(intent.state is State.UNCERTAIN and key not in left_out for key, intent in open_)
        return _wave_problem(uncertain, *self._counts(), self._limit)

    def _counts(self) -> tuple[int, int]:
        """Return the numbers of the plan's failed and of its settled targets."""
        counts = Counter(self._past.settled)
        counts.subtract(self._outside)
        return _failed_of(counts)


def find_excess(counts: Mapping[State, int], limit: float | None) -> str | None:
    """Return a message where more targets failed than ``max_failures`` allows, else None."""
    return _excess(*_failed_of(counts), limit)


def find_wave_hold(counts: Mapping[State, int], limit: float | None) -> str | None:
    """Return why targets in these states hold the next wave back; None where they do not."""
    return _wave_problem(counts.get(State.UNCERTAIN, 0), *_failed_of(counts), limit)


def _failed_of(counts: Mapping[State, int]) -> tuple[int, int]:
    failed = counts.get(State.FAILED, 0) + counts.get(State.CONFLICT, 0)
    return failed, failed + counts.get(State.CLONED, 0)


def _excess(failed: int, settled: int, limit: float | None) -> str | None:
    if limit is None or settled < _ENOUGH_SETTLED or failed <= _max_failed(limit, settled):
        return None
    return f"{failed} of {settled} settled clones failed, more than max_failures allows"


def _wave_problem(uncertain: int, failed: int, settled: int, limit: float | None) -> str | None:
    if uncertain:
        return f"{uncertain} clones are uncertain"
    if failed > _max_failed(limit or 0.0, settled):
        return f"{failed} of {settled} settled clones failed: fix them, then zclone retry"
    return None


def _max_failed(limit: float, settled: int) -> float:
    """Return how many clones may fail: ``limit`` itself, or below 1 that share of the settled ones."""
    return limit if limit >= 1 else limit * settled
