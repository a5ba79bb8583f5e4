"""The worker pool, and the AIMD window of Clones in flight.

Workers share one iterator, so that waiting items are not tasks and memory stays constant. The window starts at the
operator's limit, as the gate spaces the calls, and shrinks only on trouble. The duration of a clone is not a sign of
load, because it depends on the model.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import structlog

from batch.zstack.answers import Done, NoAnswer, NotSent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from batch.clock import Clock

_Item = TypeVar("_Item")


class Workers:
    """The maximum number of workers; may be changed while they work."""

    def __init__(self, maximum: int) -> None:
        """Start with ``maximum``."""
        self.maximum = maximum
        self.on_growth: Callable[[], None] = _do_nothing
        """Called where the number may have grown."""

    def set_maximum(self, maximum: int) -> None:
        """Set the maximum to ``maximum``: new workers start at once, surplus ones end after their current item."""
        self.maximum = maximum
        self.on_growth()


def _do_nothing() -> None:
    """Ignore the change: no workers are running."""


async def dispatch(
    items: Iterator[_Item | None],
    work: Callable[[_Item], Awaitable[object]],
    *,
    workers: Workers | int,
    is_stopped: Callable[[], bool],
) -> None:
    """Call ``work`` with every item, at most ``workers`` at a time, until the items end or ``is_stopped`` returns True.

    A None among the items yields to other tasks, so that a long search for the next item does not block the loop. The
    first exception of ``work`` cancels the others and is raised; one of ``items`` ends the iteration, and is raised
    after the workers have ended.
    """
    limit = Workers(workers) if isinstance(workers, int) else workers
    await _Dispatch(items, work, limit, is_stopped).run()


class _Dispatch(Generic[_Item]):
    """The workers of one call of ``dispatch``."""

    def __init__(
        self,
        items: Iterator[_Item | None],
        work: Callable[[_Item], Awaitable[object]],
        limit: Workers,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._items = items
        self._work = work
        self._limit = limit
        self._is_stopped = is_stopped
        self._group = asyncio.TaskGroup()
        self._busy = 0
        self._broken: Exception | None = None
        """Exception raised by the iterator of items."""

    async def run(self) -> None:
        """Work until all workers have ended."""
        try:
            async with self._group:
                self._begin()
                # A TaskGroup whose tasks have all ended accepts no new one.
                self._limit.on_growth = lambda: self._begin() if self._busy else None
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            self._limit.on_growth = _do_nothing
        if self._broken is not None:
            raise self._broken

    def _begin(self) -> None:
        while self._busy < self._limit.maximum:
            self._busy += 1
            self._group.create_task(self._work_on())

    async def _work_on(self) -> None:
        """Process items until none is left or there are too many workers."""
        try:
            while self._busy <= self._limit.maximum and not self._is_stopped() and self._broken is None:
                try:
                    item = next(self._items)
                except StopIteration:
                    return
                except Exception as error:  # noqa: BLE001 - raised by run
                    self._broken = error
                    return
                if item is None:
                    await asyncio.sleep(0)
                else:
                    await self._work(item)
        finally:
            self._busy -= 1


_STEPS: Final = 8
"""Rounds in which the limit grows back to the operator's."""
_ROUND: Final = 1.0
"""Seconds within which several signs of trouble count as one."""

_log = structlog.get_logger()


class ConcurrencyLimiter:
    """Limits the Clones in flight to the operator's limit; lower after trouble, then growing each round.

    Trouble is a server that asks to retry later, does not answer in time or accepts no connection; it halves the limit,
    once a round. A round is as many ended jobs as the limit.
    """

    def __init__(self, maximum: int, clock: Clock) -> None:
        """Start at ``maximum``, the operator's limit."""
        self._maximum = maximum
        self.workers = Workers(maximum)
        """Workers of the pool: their number follows the operator's limit, not trouble."""
        self._clock = clock
        self.limit = maximum
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ended = 0
        self._troubled_at: float | None = None

    def set_maximum(self, maximum: int) -> None:
        """Set the operator's limit; a limit that trouble lowered stays low."""
        self.limit = maximum if self.limit == self._maximum else min(self.limit, maximum)
        self._maximum = maximum
        self.workers.set_maximum(maximum)
        self._admit()

    async def acquire(self) -> None:
        """Wait until one more may be in flight: first come, first served."""
        if not self._waiting and self._in_flight < self.limit:
            self._in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        await turn

    def release(self) -> None:
        """Free one place."""
        self._in_flight -= 1
        self._admit()

    def note(self, answer: object) -> None:
        """Adjust the limit to an answer of the server."""
        if isinstance(answer, Done):
            self._grow()
        elif isinstance(answer, NoAnswer):
            if answer.is_push_back:
                self._shrink()
        elif isinstance(answer, NotSent) and not (answer.is_held_back or answer.is_over_limit):
            self._shrink()

    def _admit(self) -> None:
        while self._waiting and self._in_flight < self.limit:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._in_flight += 1
                turn.set_result(None)

    def _grow(self) -> None:
        self._ended += 1
        if self.limit < self._maximum and self._ended >= self.limit:
            self._ended = 0
            self.limit = min(self._maximum, self.limit + max(1, self._maximum // _STEPS))
            self._admit()

    def _shrink(self) -> None:
        now = self._clock.monotonic()
        if self._troubled_at is not None and now - self._troubled_at < _ROUND:
            return
        self._troubled_at = now
        self._ended = 0
        before, self.limit = self.limit, max(1, self.limit // 2)
        if self.limit < before:
            _log.info("server.busy", in_flight=self.limit)
