"""An event loop whose clock jumps to the next timer, and the engine's Clock on it: hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import heapq
import uuid
from collections import deque
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Final, TypeVar

from batch.engine.gate import Gate, cap_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_Result = TypeVar("_Result")

_RESOLUTION: Final = 1e-9
"""Seconds within which two timers are due at once."""
EPOCH = 1_700_000_000.0
"""Wall time of the virtual second 0."""


class DeadlockError(AssertionError):
    """Nothing is ready and no timer is set: the code under test waits forever."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Time starts at ``start`` and passes only when everybody waits; there are no sockets, threads or signals."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.now = start

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        """As asyncio's own, in its order, except that the clock jumps to the next timer instead of waiting for it."""
        ready, timers = self._ready, self._scheduled
        while timers and timers[0].cancelled():
            heapq.heappop(timers)
        if not ready and not self._stopping:
            if not timers:
                raise DeadlockError
            self.now = max(self.now, timers[0].when())
        due = self.now + _RESOLUTION
        while timers and timers[0].when() < due:
            ready.append(heapq.heappop(timers))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()


class VirtualClock:
    """The engine's Clock and the client's: the loop's time, a seeded generator, and a wall clock that may be wrong."""

    def __init__(self, loop: VirtualLoop, random: Random, *, error: Callable[[], float] = lambda: 0.0) -> None:
        """``error``: seconds by which the wall clock is wrong now."""
        self.loop = loop
        self._random = random
        self._error = error

    def time(self) -> float:
        return EPOCH + self.loop.now + self._error()

    def monotonic(self) -> float:
        return self.loop.now

    def random(self) -> float:
        return self._random.random()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def uuid(self) -> str:
        return uuid.UUID(int=self._random.getrandbits(128), version=4).hex


class VirtualThrottler:
    """A hard cap by Throttler's rule, on the loop's time: an entry leaves when it is older than the period."""

    def __init__(self, rate_limit: int, period: float, retry_interval: float, loop: VirtualLoop) -> None:
        self._rate_limit = rate_limit
        self._period = period
        self._retry_interval = retry_interval
        self._loop = loop
        self._entries: deque[float] = deque()

    async def __aenter__(self) -> None:
        while True:
            while self._entries and self._loop.now - self._entries[0] > self._period:
                self._entries.popleft()
            if len(self._entries) < self._rate_limit:
                break
            await asyncio.sleep(self._retry_interval)
        self._entries.append(self._loop.now)

    async def __aexit__(self, *_: object) -> None:
        return None


def virtual_gate(rate: float, loop: VirtualLoop, *, paused: Callable[[float], None] | None = None) -> Gate:
    """Make a Gate whose clock and cap are the loop's."""
    cap = VirtualThrottler(*cap_limits(rate), loop)
    return Gate(rate, cap=cap, clock=VirtualClock(loop, Random(1)), paused=paused)


def run_virtual(loop: VirtualLoop, main: Coroutine[None, None, _Result]) -> _Result:
    """Run ``main`` to its end, cancel what it left behind and close the loop."""
    try:
        return loop.run_until_complete(main)
    finally:
        end_tasks(loop)
        loop.close()


def end_tasks(loop: VirtualLoop) -> None:
    """End every task; a killed process raises SystemExit again from each of them, which no longer matters."""
    loop.set_exception_handler(lambda loop, context: None)
    while left := [task for task in asyncio.all_tasks(loop) if not task.done()]:
        for task in left:
            task.cancel()
        with suppress(SystemExit, DeadlockError):
            loop.run_until_complete(asyncio.wait(left))
    for task in asyncio.all_tasks(loop):
        if not task.cancelled():
            task.exception()
