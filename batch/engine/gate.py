"""The one place where calls wait for the rate: first come, first served, evenly spaced and never above it.

Two of asyncio-throttle's windows in a row, entered for all who wait by one usher, who sleeps once for all that may then
pass. The short window spaces the calls, the long one is the hard cap. As shipped a Throttler polls every 10 ms;
``_Window`` computes its ``retry_interval`` instead, so that it sleeps exactly until its oldest entry leaves.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING

from asyncio_throttle.throttler import Throttler

if TYPE_CHECKING:
    from batch.engine.ports import Clock

_SMOOTH = 0.01
"""Seconds of the short window at high rates; below one call per window it holds a single call."""
_LEAD = 0.97
"""The short window runs a little fast, so that timer lateness does not add up: the long one sets the mean."""
_MARGIN = 1.003
"""The long window is a little long, so that a server's clock, with its own jitter, sees no more than the rate."""
_EDGE = 1e-6
"""Throttler lets an entry leave only when it is strictly older than the period."""


class _Window(Throttler):
    """At most ``calls`` in any ``period`` seconds of the given clock.

    An entry may be backdated by up to ``slack`` seconds to the moment it could have been made, so that late timers do
    not slow the calls down; without slack the bound is strict.
    """

    def __init__(self, calls: int, period: float, clock: Clock, *, slack: float = 0.0) -> None:
        self._clock = clock
        self._slack = slack
        self._free_since = 0.0
        super().__init__(calls, period)

    @property
    def retry_interval(self) -> float:
        """Seconds until the oldest entry leaves the window."""
        leaves: float = self._task_logs[0] + self.period + _EDGE
        return max(0.0, leaves - self._clock.monotonic())

    @retry_interval.setter
    def retry_interval(self, value: float) -> None:
        """Keep nothing: the value is computed."""

    def flush(self) -> None:
        """Forget the entries that left the window, by our clock."""
        now = self._clock.monotonic()
        while self._task_logs and now - self._task_logs[0] > self.period:
            self._free_since = self._task_logs.popleft() + self.period

    def has_room(self) -> bool:
        """Whether a call may enter now."""
        self.flush()
        return len(self._task_logs) < self.rate_limit

    def enter(self) -> None:
        """Enter where there is room."""
        self._task_logs.append(self._entered_at())

    async def acquire(self) -> None:
        """Wait for room and enter at our clock's time."""
        await super().acquire()  # type: ignore[no-untyped-call]
        self._task_logs[-1] = self._entered_at()

    def _entered_at(self) -> float:
        now = self._clock.monotonic()
        return max(self._free_since, now - self._slack) if self._free_since < now else now


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
        spacing = burst / rate * _LEAD
        self._windows = (
            _Window(burst, spacing, clock, slack=spacing / 2),
            _Window(cap, cap / rate * _MARGIN, clock),
        )
        self._closed_until = 0.0
        self._sending = True
        self._queue: deque[tuple[asyncio.Future[None], bool]] = deque()
        """Who waits, in the order they came, and whether it is to send."""
        self._usher: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        """Return when one more call may be made."""
        await self._wait(to_send=False)

    async def wait_to_send(self) -> bool:
        """Like ``wait``, for a POST; False when sending stopped, also while it waited."""
        if self._sending:
            await self._wait(to_send=True)
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

    async def _wait(self, *, to_send: bool) -> None:
        if not self._queue and not self._is_closed and all(window.has_room() for window in self._windows):
            for window in self._windows:
                window.enter()
            return
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
        if self._usher is not None and all(turn.done() for turn, _ in self._queue):
            self._usher.cancel()

    async def _let_in(self) -> None:
        """Be the usher until nobody waits any more."""
        while self._is_anybody_waiting():
            await self._pass()
            if self._is_anybody_waiting():
                self._queue[0][0].set_result(None)

    def _is_anybody_waiting(self) -> bool:
        while self._queue and self._queue[0][0].done():
            self._queue.popleft()
        return bool(self._queue)

    async def _pass(self) -> None:
        while True:
            closed_for = self._closed_until - self._clock.monotonic()
            if closed_for > 0.0:
                await asyncio.sleep(closed_for)
            for window in self._windows:
                if window.has_room():
                    window.enter()
                else:
                    await window.acquire()
            if not self._is_closed:
                return
