"""Progress: a live view on a terminal, a heartbeat in the log elsewhere; both only read what the manifest counts."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Final

import structlog
from rich.console import Group
from rich.live import Live
from rich.text import Text

from batch.log import sanitised
from batch.model import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from rich.console import Console, RenderableType

    from batch.model import Record

_SHOWN_FAILURES: Final = 3
_WINDOW: Final = 15.0
"""Seconds over which speeds are measured."""
_ENOUGH: Final = 10
"""Clones settled within the window that tell the speed; with fewer the whole run does."""
_NINETY: Final = 1.28
"""Standard deviations above the mean that nine of ten stay below."""
_FIRST_BEAT: Final = 2.0
_BEAT: Final = 15.0
_FRAME: Final = 0.25
_BAR: Final = 40

_SETTLED: Final = (State.CLONED, State.FAILED, State.CONFLICT, State.UNCERTAIN, State.UNDONE)
_COLOURS: Final = {
    State.CLONED: "green",
    State.FAILED: "red",
    State.CONFLICT: "red",
    State.UNCERTAIN: "yellow",
    State.UNDONE: "dim",
}


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
    failures: tuple[Record, ...]
    eta_late: float | None = None
    """In nine cases of ten the rest takes no longer, should the clones go on settling as they did."""

    @property
    def settled(self) -> int:
        """Targets that came to an end, of earlier runs too."""
        return sum(self.counts.get(state, 0) for state in _SETTLED)


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
    ) -> None:
        """Read ``counts`` by state from the manifest, ``calls`` made so far; ``limit`` is in calls per second."""
        self._total = total
        self._counts = counts
        self._calls = calls
        self._limit = limit
        self._monotonic = monotonic
        self._began = monotonic()
        self._failures: deque[Record] = deque(maxlen=_SHOWN_FAILURES)
        self._samples: deque[tuple[float, int, int]] = deque()
        self._first: tuple[float, int] | None = None

    def fail(self, record: Record) -> None:
        """Remember a target that did not end as a clone."""
        self._failures.append(record)

    def look(self) -> Snapshot:
        """Take a sample and tell how the run goes."""
        now, counts = self._monotonic(), dict(self._counts())
        settled = sum(counts.get(state, 0) for state in _SETTLED)
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


@asynccontextmanager
async def silent() -> AsyncIterator[None]:
    """Show nothing."""
    yield


@asynccontextmanager
async def heartbeat(board: Board, *, first: float = _FIRST_BEAT, every: float = _BEAT) -> AsyncIterator[None]:
    """Log ``run.progressed`` after ``first`` seconds and then every ``every`` seconds."""
    board.look()
    async with _ticking(lambda: _log_beat(board.look()), first, every):
        yield


def _log_beat(seen: Snapshot) -> None:
    structlog.get_logger().info(
        "run.progressed",
        settled=seen.settled,
        total=seen.total,
        **{str(state): count for state, count in seen.counts.items() if count and state in _SETTLED},
        in_flight=seen.in_flight,
        rate=round(seen.calls_rate, 1),
        limit=seen.limit,
        eta_seconds=None if seen.eta is None else round(seen.eta),
        eta_p90_seconds=None if seen.eta_late is None else round(seen.eta_late),
    )


@asynccontextmanager
async def live(board: Board, view: Live) -> AsyncIterator[None]:
    """Redraw the view four times a second, and once more at the end; a terminal that went away ends it quietly."""

    def draw() -> None:
        view.update(picture(board.look(), width=view.console.width), refresh=True)

    with suppress(OSError):
        view.start()
    try:
        async with _ticking(draw, 0.0, _FRAME):
            yield
    finally:
        with suppress(OSError):
            draw()
        with suppress(OSError):
            view.stop()


@asynccontextmanager
async def _ticking(action: Callable[[], None], first: float, every: float) -> AsyncIterator[None]:
    async def tick() -> None:
        await asyncio.sleep(first)
        while True:
            action()
            await asyncio.sleep(every)

    task = asyncio.create_task(tick(), name="progress")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await task


def new_view(console: Console) -> Live:
    """Make the view of ``live``; it redraws only when told, in the run's own loop."""
    return Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)


def picture(seen: Snapshot, *, width: int) -> RenderableType:
    """Draw one frame no wider than ``width`` columns."""
    lines = [_bar(seen, width), _states(seen), _speed(seen), *map(_failure, seen.failures)]
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return Group(*lines)


def _bar(seen: Snapshot, width: int) -> Text:
    room = max(5, min(_BAR, width - 30))
    done = 1.0 if seen.total == 0 else min(1.0, seen.settled / seen.total)
    filled = int(room * done)
    bar = Text()
    bar.append("━" * filled, style="green").append("━" * (room - filled), style="bright_black")
    bar.append(f" {seen.settled}/{seen.total}  {_clock(seen.elapsed)}")
    if seen.eta is not None and seen.settled < seen.total:
        bar.append(f"  ETA {_clock(seen.eta)}")
        if seen.eta_late is not None and _clock(seen.eta_late) != _clock(seen.eta):
            bar.append(f" to {_clock(seen.eta_late)}")
    return bar


def _states(seen: Snapshot) -> Text:
    line = Text()
    for state in _SETTLED:
        count = seen.counts.get(state, 0)
        if count or state in (State.CLONED, State.FAILED):
            line.append(f"{count} {state}  ", style=_COLOURS[state] if count else "bright_black")
    return line.append(f"{seen.in_flight} in flight")


def _speed(seen: Snapshot) -> Text:
    return Text(f"{seen.calls_rate:.1f} calls/s of {seen.limit:g}")


def _failure(record: Record) -> Text:
    reason = " ".join(filter(None, (record.error_code, record.error)))
    return Text(f"{record.state} {sanitised(record.key)}: {sanitised(reason)}", style=_COLOURS.get(record.state, ""))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
