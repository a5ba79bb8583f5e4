"""How a run goes: the manifest's counts, the speed of the last seconds, the time left, and the newest failures."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Final

from batch.model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batch.model import Record

SETTLED: Final = (State.CLONED, State.FAILED, State.CONFLICT, State.UNCERTAIN, State.UNDONE)
"""States in which nothing is under way for a target."""
_SHOWN_FAILURES: Final = 3
_WINDOW: Final = 15.0
"""Seconds over which speeds are measured."""
_ENOUGH: Final = 10
"""Clones settled within the window that tell the speed; with fewer the whole run does."""
_NINETY: Final = 1.28
"""Standard deviations above the mean that nine of ten stay below."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A target that did not end as a clone: ZStack's words, and what the operator can do."""

    record: Record
    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at a run; rates are per second over the last seconds, ``eta`` in seconds and None while unknown."""

    total: int
    counts: Mapping[State, int]
    in_flight: int
    calls_rate: float
    limit: float
    elapsed: float
    eta: float | None
    failures: tuple[Failure, ...]
    eta_late: float | None = None
    """In nine cases of ten the rest takes no longer, should the clones go on settling as they did."""

    @property
    def settled(self) -> int:
        """Targets that came to an end, of earlier runs too."""
        return sum(self.counts.get(state, 0) for state in SETTLED)


class Board:
    """What the two views read: the manifest's counts, the calls made, and the newest failures."""

    def __init__(
        self,
        total: int,
        *,
        counts: Callable[[], Mapping[State, int]],
        calls: Callable[[], int],
        limit: float,
        monotonic: Callable[[], float],
        apart: Callable[[str], tuple[str, str]],
    ) -> None:
        """Read ``counts`` by state from the manifest, ``calls`` made so far; ``limit`` is in calls per second.

        ``apart`` takes a record's error apart: what ZStack said, and the hint.
        """
        self._total = total
        self._counts = counts
        self._calls = calls
        self._limit = limit
        self._monotonic = monotonic
        self._apart = apart
        self._began = monotonic()
        self._failures: deque[Failure] = deque(maxlen=_SHOWN_FAILURES)
        self._samples: deque[tuple[float, int, int]] = deque()
        self._first: tuple[float, int] | None = None

    def fail(self, record: Record) -> None:
        """Remember a target that did not end as a clone."""
        self._failures.append(Failure(record, *self._apart(record.error or "")))

    def look(self) -> Snapshot:
        """Take a sample and tell how the run goes."""
        now, counts = self._monotonic(), dict(self._counts())
        settled = sum(counts.get(state, 0) for state in SETTLED)
        calls_rate, recent, past = self._speeds(now, self._calls(), settled)
        eta, eta_late = time_left(max(0, self._total - settled), settled=recent, seconds=past)
        return Snapshot(
            total=self._total,
            counts=counts,
            in_flight=counts.get(State.SENT, 0) + counts.get(State.ACCEPTED, 0),
            calls_rate=calls_rate,
            limit=self._limit,
            elapsed=now - self._began,
            eta=eta,
            failures=tuple(self._failures),
            eta_late=eta_late,
        )

    def _speeds(self, now: float, calls: int, settled: int) -> tuple[float, int, float]:
        """Return the calls per second, and how many clones settled in how many seconds: enough of them to count on."""
        if self._first is None:
            self._first = now, settled
        self._samples.append((now, calls, settled))
        while len(self._samples) > 1 and now - self._samples[1][0] >= _WINDOW:
            self._samples.popleft()
        then, calls_then, settled_then = self._samples[0]
        past = now - then
        rate = (calls - calls_then) / past if past > 0 else 0.0
        if settled - settled_then < _ENOUGH:
            then, settled_then = self._first
        return rate, settled - settled_then, now - then


def time_left(left: int, *, settled: int, seconds: float) -> tuple[float | None, float | None]:
    """Return the likely time for ``left`` clones, and one kept in nine cases of ten; None while too little is known.

    ``settled`` clones took ``seconds``. Clones that settle independently vary by the root of their number, those seen
    as well as those to come.
    """
    if settled <= 0 or seconds <= 0:
        return None, None
    likely = left * seconds / settled
    spread = sqrt(1 / settled + (1 / left if left else 0.0))
    return likely, likely * (1 + _NINETY * spread)
