"""The pool: some workers on one shared iterator, so that waiting items stay data and memory stays flat."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_Item = TypeVar("_Item")


class Workers:
    """How many workers there are at most; may change while they work."""

    def __init__(self, most: int) -> None:
        """Begin with ``most``."""
        self.most = most
        self.on_growth: Callable[[], None] = _do_nothing
        """Called where there may be more than before."""

    def set_most(self, most: int) -> None:
        """Let there be ``most``: new ones begin at once, surplus ones end after the item they have."""
        self.most = most
        self.on_growth()


def _do_nothing() -> None:
    """Nobody works just now."""


async def dispatch(
    items: Iterator[_Item | None],
    work: Callable[[_Item], Awaitable[object]],
    *,
    workers: Workers | int,
    is_stopped: Callable[[], bool],
) -> None:
    """Give every item to ``work``, at most ``workers`` at a time, until the items end or ``is_stopped`` says so.

    A None among the items lets other tasks run, so that a long search for the next item stalls nobody. The first
    exception of ``work`` cancels the others and is raised; one of ``items`` ends them, and is raised after the others.
    """
    crew, broken, busy = Workers(workers) if isinstance(workers, int) else workers, list[Exception](), 0

    async def worker() -> None:
        nonlocal busy
        try:
            while busy <= crew.most and not is_stopped() and not broken:
                try:
                    item = next(items)
                except StopIteration:
                    return
                except Exception as error:  # noqa: BLE001 - raised below
                    broken.append(error)
                    return
                if item is None:
                    await asyncio.sleep(0)
                else:
                    await work(item)
        finally:
            busy -= 1

    def begin() -> None:
        nonlocal busy
        while busy < crew.most:
            busy += 1
            group.create_task(worker())

    try:
        async with asyncio.TaskGroup() as group:
            begin()
            # A group of which no worker is left takes no new one.
            crew.on_growth = lambda: begin() if busy else None
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    finally:
        crew.on_growth = _do_nothing
    if broken:
        raise broken[0]
