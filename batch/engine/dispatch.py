"""The worker pool: workers share one iterator, so that waiting items are not tasks and memory stays constant."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_Item = TypeVar("_Item")


class Workers:
    """The maximum number of workers; may be changed while they work."""

    def __init__(self, most: int) -> None:
        """Start with ``most``."""
        self.most = most
        self.on_growth: Callable[[], None] = _do_nothing
        """Called where the number may have grown."""

    def set_most(self, most: int) -> None:
        """Set the maximum to ``most``: new workers start at once, surplus ones end after their current item."""
        self.most = most
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
        while self._busy < self._limit.most:
            self._busy += 1
            self._group.create_task(self._work_on())

    async def _work_on(self) -> None:
        """Process items until none is left or there are too many workers."""
        try:
            while self._busy <= self._limit.most and not self._is_stopped() and self._broken is None:
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
