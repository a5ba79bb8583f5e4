"""Progress data of a run: the manifest's counts, current speed, time left, and the latest failures."""

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
"""States in which no attempt of a target is in progress."""
_SHOWN_FAILURES: Final = 3
_WINDOW: Final = 15.0
"""Window for measuring speeds, in seconds."""
_MIN_SETTLED: Final = 10
"""Minimum number of clones settled in the window for its speed to count; with fewer, the whole run's speed does."""
_MAX_SEARCHED: Final = 100
"""Maximum number of clones in flight that are searched for the one sent first."""
_QUANTILE_90: Final = 1.28
"""The 90 % quantile of the normal distribution, in standard deviations."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A target that was not cloned: ZStack's error, and a hint for the operator."""

    record: Record
    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """The oldest clone in flight when the rest has settled and the speed gives no estimate."""

    key: str
    since: float
    """Time of its first POST, seconds since the epoch."""
    seconds: float
    """Since then."""
    until: float | None
    """Latest time at which it is given up, seconds since the epoch; None if not recorded."""
    left: float | None
    """Seconds until the deadline."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of a run at one time; rates are per second over the window, ``eta`` is in seconds, None while unknown."""

    total: int
    counts: Mapping[State, int]
    in_flight: int
    calls_rate: float
    limit: float
    """0 if the calls are not known."""
    elapsed: float
    eta: float | None
    failures: tuple[Failure, ...]
    eta_late: float | None = None
    """90 % upper bound of the time left, if clones keep settling as before."""
    waiting: Waiting | None = None
    """Replaces both estimates once nothing is left to send."""
    phase: str = ""
    """Current wave or progress of hand-overs; empty if neither applies."""
    is_stopping: bool = False
    """Whether the run has stopped sending."""
    is_paused: bool = False
    """Whether an operator paused the run."""
    concurrency: int | None = None
    """Concurrency set by an operator during the run; None if not changed."""
    lowered_to: float | None = None
    """Effective rate while the server's own limiter lowers it; None if it is ``limit``."""

    @property
    def settled_count(self) -> int:
        """Number of settled targets, including those of earlier processes."""
        return sum(self.counts.get(state, 0) for state in SETTLED)


class Board:
    """Data source of both views: the manifest's counts, the calls made, and the latest failures."""

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
        """Use the manifest's ``counts`` by state and the number of ``calls``; ``limit`` in calls per second.

        ``language``: that of the hints. ``waiting``: returns the oldest clone in flight; called only if few are left
        and nothing is left to send. ``waves``: number of targets per wave, in order. ``hand_overs``: returns their
        progress; called once every target has settled. ``in_force``: returns the current rate limit; None for
        ``limit``.
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
        """Add a target that was not cloned."""
        hint = hint_of(record.error_code, record.error, self._language)
        self._failures.append(Failure(record, record.error or "", hint))

    def snapshot(self) -> Snapshot:
        """Take a sample and return the state of the run."""
        now, counts = self._monotonic(), dict(self._counts())
        settled = sum(counts.get(state, 0) for state in SETTLED)
        calls_rate = self._calls_rate.take(now, self._calls())
        recent_settled, recent_seconds = self._speed(now, settled)
        eta, eta_late = time_left(max(0, self._total - settled), settled=recent_settled, seconds=recent_seconds)
        in_flight = counts.get(State.SENT, 0) + counts.get(State.ACCEPTED, 0)
        is_last = 0 < in_flight <= _MAX_SEARCHED and self._total - settled <= in_flight
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
            lowered_to=self._lowered_rate(),
        )

    def _lowered_rate(self) -> float | None:
        rate = None if self._in_force is None else self._in_force()
        return rate if rate is not None and rate < self._limit() else None

    def _phase(self, settled: int) -> str:
        if settled >= self._total:
            return self._hand_overs()
        return wave_text(settled, self._waves)

    def _speed(self, now: float, settled: int) -> tuple[int, float]:
        """Return a number of settled clones and the seconds they took, from a window with enough of them."""
        if self._first is None:
            self._first = now, settled
        self._samples.append((now, settled))
        while len(self._samples) > 1 and now - self._samples[1][0] >= _WINDOW:
            self._samples.popleft()
        then, settled_then = self._samples[0]
        if settled - settled_then < _MIN_SETTLED:
            then, settled_then = self._first
        return settled - settled_then, now - then


def wave_text(settled: int, waves: Sequence[int]) -> str:
    """Return the current wave, given the sizes of all ``waves``; empty for one or none."""
    if len(waves) < 2:
        return ""
    ends = tuple(accumulate(waves))
    return f"wave {1 + sum(settled >= end for end in ends[:-1])} of {len(ends)}"


class CallRate:
    """Call rate, from samples of the total number of calls."""

    def __init__(self) -> None:
        """Start without samples."""
        self._samples: deque[tuple[float, int]] = deque()

    def take(self, at: float, calls: int) -> float:
        """Add a sample at ``at`` seconds; return the calls per second since the first sample in the window."""
        if self._samples and calls < self._samples[-1][1]:
            # Another process has started.
            self._samples.clear()
        self._samples.append((at, calls))
        while len(self._samples) > 1 and at - self._samples[1][0] >= _WINDOW:
            self._samples.popleft()
        then, calls_then = self._samples[0]
        return (calls - calls_then) / (at - then) if at > then else 0.0


def oldest_in_flight(intents: Iterable[Intent], *, now: float) -> Waiting | None:
    """Return the oldest clone in flight; ``now``: seconds since the epoch."""
    in_flight = (intent for intent in intents if intent.state in (State.SENT, State.ACCEPTED))
    first = min(in_flight, key=lambda intent: intent.first_sent_at, default=None)
    if first is None:
        return None
    left = None if first.deadline is None else max(0.0, first.deadline - now)
    return Waiting(first.key, first.first_sent_at, max(0.0, now - first.first_sent_at), first.deadline, left)


def time_left(left: int, *, settled: int, seconds: float) -> tuple[float | None, float | None]:
    """Return the expected time for ``left`` clones and its 90 % upper bound; None while too little is known.

    ``settled`` clones took ``seconds``. For independent clones the standard deviation of a count is its square root,
    for those seen as well as for those to come.
    """
    if settled <= 0 or seconds <= 0:
        return None, None
    likely = left * seconds / settled
    spread = sqrt(1 / settled + (1 / left if left else 0.0))
    return likely, likely * (1 + _QUANTILE_90 * spread)
