"""The one place where calls wait for the rate: first come, first served, evenly spaced and never above it.

Two of asyncio-throttle's windows in a row, entered for all who wait by one usher, who sleeps once for all that may then
pass. The short window spaces the calls and sets the mean, the long one is the hard cap. As shipped a Throttler polls
every 10 ms; ``_Window`` computes its ``retry_interval`` instead, so that it sleeps exactly as long as it has to.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING

from asyncio_throttle.throttler import Throttler

if TYPE_CHECKING:
    from batch.engine.ports import Clock

_SMOOTH = 0.02
"""Seconds of the short window at high rates; below one call per window it holds a single call."""
_PACE = 1.006
"""The short window is a little longer than the long one allows for, so that the long one is seldom met."""
_MARGIN = 1.003
"""The long window is a little long, so that a server's clock, with its own jitter, sees no more than the rate."""
_EDGE = 1e-6
"""Throttler lets an entry leave only when it is strictly older than the period."""


class _Window(Throttler):
    """At most ``calls`` in any ``period`` seconds of the given clock.

    Who finds it full sleeps until ``together`` calls have room, since a timer costs more than many calls. An entry may
    be backdated by up to ``slack`` seconds to the moment its place became free, so that sleeping longer and late timers
    do not slow the calls down; without slack the bound is strict.
    """

    def __init__(self, calls: int, period: float, clock: Clock, *, together: int, slack: float = 0.0) -> None:
        self._clock = clock
        self._last = together - 1
        self._slack = slack
        self._free_since = math.inf
        super().__init__(calls, period)

    @property
    def retry_interval(self) -> float:
        """Seconds until enough of the oldest entries have left the window."""
        leaves: float = self._task_logs[self._last] + self.period + _EDGE
        return max(0.0, leaves - self._clock.monotonic())

    @retry_interval.setter
    def retry_interval(self, value: float) -> None:
        """Keep nothing: the value is computed."""

    def flush(self) -> None:
        """Make room by our clock."""
        self.has_room(self._clock.monotonic())

    def has_room(self, now: float) -> bool:
        """Whether a call may enter; the oldest entry of a full window is forgotten once it left."""
        entries = self._task_logs
        if len(entries) < self.rate_limit:
            return True
        if now - entries[0] <= self.period:
            return False
        self._free_since = entries.popleft() + self.period
        return True

    def enter(self, now: float) -> None:
        """Enter where there is room."""
        free = self._free_since
        self._task_logs.append(min(now, max(free, now - self._slack)))

    async def acquire(self) -> None:
        """Wait for room and enter at our clock's time."""
        await super().acquire()  # type: ignore[no-untyped-call]
        self._task_logs.pop()
        self.enter(self._clock.monotonic())


class Gate:
    """Every call to the server passes here, once per try.

    ``rate`` is in calls per second and above 0 (a rate of 0 would wait for ever and is refused at the border).
    """

    def __init__(self, rate: float, *, clock: Clock) -> None:
        """Start empty: the first call passes at once."""
        if not rate > 0:
            raise ValueError(f"the rate must be above 0, not {rate}")
        self._clock = clock
        burst = max(1, round(rate * _SMOOTH))
        cap = math.ceil(rate)
        spacing = burst / rate * _PACE
        # The first part makes good the sleep until the whole window is free, the second late timers.
        slack = spacing * (1 - 1 / burst) + spacing / 2
        self._short = _Window(burst, spacing, clock, together=burst, slack=slack)
        self._long = _Window(cap, cap / rate * _MARGIN, clock, together=-(-burst // 4))
        self._closed_until = -math.inf
        self._sending = True
        self._queue: deque[tuple[asyncio.Future[None], bool]] = deque()
        """Who waits, in the order they came, and whether it is to send."""
        self._usher: asyncio.Task[None] | None = None
        self.calls = 0
        """How many were let pass."""

    async def wait(self) -> None:
        """Return when one more call may be made."""
        if not self._passes_at_once():
            await self._wait(to_send=False)
        self.calls += 1

    async def wait_to_send(self) -> bool:
        """Like ``wait``, for a POST; False when sending stopped, also while it waited."""
        if self._sending and not self._passes_at_once():
            await self._wait(to_send=True)
        self.calls += self._sending
        return self._sending

    def pause(self, seconds: float) -> None:
        """Let no call pass for ``seconds`` from now; a longer pause already under way stays."""
        self._closed_until = max(self._closed_until, self._clock.monotonic() + seconds)

    def stop_sending(self) -> None:
        """Turn away every POST from now on, also those that wait; polls and queries still pass."""
        self._sending = False
        for turn, is_to_send in self._queue:
            if is_to_send and not turn.done():
                turn.set_result(None)

    @property
    def _is_closed(self) -> bool:
        return self._closed_until > self._clock.monotonic()

    def _passes_at_once(self) -> bool:
        return not self._queue and self._enters()

    def _enters(self) -> bool:
        """Enter both windows, where nothing stands against it."""
        now = self._clock.monotonic()
        if self._closed_until > now or not (self._short.has_room(now) and self._long.has_room(now)):
            return False
        self._short.enter(now)
        self._long.enter(now)
        return True

    async def _wait(self, *, to_send: bool) -> None:
        await self._queued(to_send=to_send)
        # A pause may have come since the usher let this one in.
        while self._is_closed and (self._sending or not to_send):
            await self._queued(to_send=to_send)

    async def _queued(self, *, to_send: bool) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((turn, to_send))
        # One who was sent home is still there for a moment, and lets nobody in.
        if self._usher is None or self._usher.done() or self._usher.cancelling():
            self._usher = asyncio.create_task(self._let_in())
        try:
            await turn
        except asyncio.CancelledError:
            self._dismiss()
            raise

    def _dismiss(self) -> None:
        """Send the usher home where all who waited have left."""
        usher = self._usher
        if usher is not None and not usher.cancelling() and all(turn.done() for turn, _ in self._queue):
            usher.cancel()

    async def _let_in(self) -> None:
        """Be the usher until nobody waits any more."""
        while self._is_anybody_waiting():
            if not self._enters():
                await self._pass()
                if not self._is_anybody_waiting():
                    return
            self._queue.popleft()[0].set_result(None)

    def _is_anybody_waiting(self) -> bool:
        while self._queue and self._queue[0][0].done():
            self._queue.popleft()
        return bool(self._queue)

    async def _pass(self) -> None:
        while True:
            closed_for = self._closed_until - self._clock.monotonic()
            if closed_for > 0.0:
                await asyncio.sleep(closed_for)
            await self._short.acquire()
            await self._long.acquire()
            if not self._is_closed:
                return
