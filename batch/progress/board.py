"""How a run goes: the manifest's counts, the speed of the last seconds, the time left, and the newest failures."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from math import sqrt
from typing import TYPE_CHECKING, Final

from batch.model import State
from batch.zstack.classify import hint_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from batch.model import Intent, Record
    from batch.zstack.classify import Language

SETTLED: Final = (State.CLONED, State.FAILED, State.CONFLICT, State.UNCERTAIN, State.UNDONE)
"""States in which nothing is under way for a target."""
_SHOWN_FAILURES: Final = 3
_WINDOW: Final = 15.0
"""Seconds over which speeds are measured."""
_ENOUGH: Final = 10
"""Clones settled within the window that tell the speed; with fewer the whole run does."""
_FEW: Final = 100
"""Clones in flight of which it costs little to find the one that was sent first."""
_NINETY: Final = 1.28
"""Standard deviations above the mean that nine of ten stay below."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A target that did not end as a clone: ZStack's words, and what the operator can do."""

    record: Record
    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """The clone in flight that was sent first, once the rest has settled: no speed tells when it ends."""

    key: str
    since: float
    """When it was first sent, in seconds since the epoch."""
    seconds: float
    """Since then."""
    until: float | None
    """When it is given up at the latest, in seconds since the epoch; None if that is not on record."""
    left: float | None
    """Seconds until then."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at a run; rates are per second over the last seconds, ``eta`` in seconds and None while unknown."""

    total: int
    counts: Mapping[State, int]
    in_flight: int
    calls_rate: float
    limit: float
    """0 where the calls are not known."""
    elapsed: float
    eta: float | None
    failures: tuple[Failure, ...]
    eta_late: float | None = None
    """In nine cases of ten the rest takes no longer, should the clones go on settling as they did."""
    waiting: Waiting | None = None
    """Takes the place of the two where nothing is left to be sent."""
    phase: str = ""
    """Which wave goes, or how many clones are handed over; empty if neither is."""
    is_stopping: bool = False
    """Whether nothing new is sent any more."""
    is_paused: bool = False
    """Whether nothing new is sent until an operator says so."""
    concurrency: int | None = None
    """Clones in flight at most, where an operator changed that; None elsewhere."""
    lowered_to: float | None = None
    """The rate in force where the server's own limiter lowered it; None: ``limit``."""

    @property
    def settled(self) -> int:
        """Targets that came to an end, of earlier runs too."""
        return sum(self.counts.get(state, 0) for state in SETTLED)


class Board:
    """What the two views read: the manifest's counts, the calls made, and the newest failures."""

    def __init__(  # noqa: PLR0913 - each thing that the views show comes from a source of its own
        self,
        total: int,
        *,
        counts: Callable[[], Mapping[State, int]],
        calls: Callable[[], int],
        limit: Callable[[], float],
        monotonic: Callable[[], float],
        language: Language = "en",
        waiting: Callable[[], Waiting | None] = lambda: None,
        is_stopping: Callable[[], bool] = lambda: False,
        is_paused: Callable[[], bool] = lambda: False,
        concurrency: Callable[[], int | None] = lambda: None,
        waves: Sequence[int] = (),
        hand_overs: Callable[[], str] = lambda: "",
        in_force: Callable[[], float] | None = None,
    ) -> None:
        """Read ``counts`` by state from the manifest, ``calls`` made so far; ``limit`` in calls per second.

        ``language``: of the hints. ``waiting``: the clone that was sent first of those in flight; asked for where only
        few are, and nothing is left to be sent. ``waves``: how many targets go in each, in their order.
        ``hand_overs``: how far they are, asked for once every target has settled. ``in_force``: the calls per second
        that may be made just now; None: ``limit``.
        """
        self._total = total
        self._counts = counts
        self._calls = calls
        self._limit = limit
        self._monotonic = monotonic
        self._language: Language = language
        self._waiting = waiting
        self._is_stopping = is_stopping
        self._is_paused = is_paused
        self._concurrency = concurrency
        self._waves = tuple(waves)
        self._hand_overs = hand_overs
        self._in_force = in_force
        self._began = monotonic()
        self._failures: deque[Failure] = deque(maxlen=_SHOWN_FAILURES)
        self._calls_rate = CallRate()
        self._samples: deque[tuple[float, int]] = deque()
        self._first: tuple[float, int] | None = None

    def fail(self, record: Record) -> None:
        """Remember a target that did not end as a clone."""
        hint = hint_of(record.error_code, record.error, self._language)
        self._failures.append(Failure(record, record.error or "", hint))

    def look(self) -> Snapshot:
        """Take a sample and tell how the run goes."""
        now, counts = self._monotonic(), dict(self._counts())
        settled = sum(counts.get(state, 0) for state in SETTLED)
        calls_rate = self._calls_rate.take(now, self._calls())
        recent, past = self._speed(now, settled)
        eta, eta_late = time_left(max(0, self._total - settled), settled=recent, seconds=past)
        in_flight = counts.get(State.SENT, 0) + counts.get(State.ACCEPTED, 0)
        is_last = 0 < in_flight <= _FEW and self._total - settled <= in_flight
        waiting = self._waiting() if is_last else None
        if waiting is not None:
            eta = eta_late = None
        return Snapshot(
            total=self._total,
            counts=counts,
            in_flight=in_flight,
            calls_rate=calls_rate,
            limit=self._limit(),
            elapsed=now - self._began,
            eta=eta,
            failures=tuple(self._failures),
            eta_late=eta_late,
            waiting=waiting,
            phase=self._phase(settled),
            is_stopping=self._is_stopping(),
            is_paused=self._is_paused(),
            concurrency=self._concurrency(),
            lowered_to=self._lowered(),
        )

    def _lowered(self) -> float | None:
        rate = None if self._in_force is None else self._in_force()
        return rate if rate is not None and rate < self._limit() else None

    def _phase(self, settled: int) -> str:
        if settled >= self._total:
            return self._hand_overs()
        return wave_text(settled, self._waves)

    def _speed(self, now: float, settled: int) -> tuple[int, float]:
        """Return how many clones settled in how many seconds: enough of them to count on."""
        if self._first is None:
            self._first = now, settled
        self._samples.append((now, settled))
        while len(self._samples) > 1 and now - self._samples[1][0] >= _WINDOW:
            self._samples.popleft()
        then, settled_then = self._samples[0]
        if settled - settled_then < _ENOUGH:
            then, settled_then = self._first
        return settled - settled_then, now - then


def wave_text(settled: int, waves: Sequence[int]) -> str:
    """Return which of ``waves``, by their sizes, goes; empty if there is one or none."""
    if len(waves) < 2:
        return ""
    ends = tuple(accumulate(waves))
    return f"wave {1 + sum(settled >= end for end in ends[:-1])} of {len(ends)}"


class CallRate:
    """Calls a second, from how many were made at each look."""

    def __init__(self) -> None:
        """Know of no look."""
        self._samples: deque[tuple[float, int]] = deque()

    def take(self, at: float, calls: int) -> float:
        """Take in a look, ``at`` in seconds; return the calls a second since the first one in the window."""
        if self._samples and calls < self._samples[-1][1]:
            # Another process.
            self._samples.clear()
        self._samples.append((at, calls))
        while len(self._samples) > 1 and at - self._samples[1][0] >= _WINDOW:
            self._samples.popleft()
        then, calls_then = self._samples[0]
        return (calls - calls_then) / (at - then) if at > then else 0.0


def first_sent(intents: Iterable[Intent], *, now: float) -> Waiting | None:
    """Return the one in flight that was sent first; ``now``: seconds since the epoch."""
    in_flight = (intent for intent in intents if intent.state in (State.SENT, State.ACCEPTED))
    first = min(in_flight, key=lambda intent: intent.first_sent_at, default=None)
    if first is None:
        return None
    left = None if first.deadline is None else max(0.0, first.deadline - now)
    return Waiting(first.key, first.first_sent_at, max(0.0, now - first.first_sent_at), first.deadline, left)


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
