"""The pool: some workers on one shared iterator, so that waiting items stay data and memory stays flat."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_Item = TypeVar("_Item")


async def dispatch(
    items: Iterator[_Item | None],
    work: Callable[[_Item], Awaitable[object]],
    *,
    workers: int,
    is_stopped: Callable[[], bool],
) -> None:
    """Give every item to ``work``, at most ``workers`` at a time, until the items end or ``is_stopped`` says so.

    A None among the items lets other tasks run, so that a long search for the next item stalls nobody. The first
    exception of ``work`` cancels the others and is raised; one of ``items`` ends them, and is raised after the others.
    """
    broken: list[Exception] = []

    async def worker() -> None:
        while not is_stopped() and not broken:
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

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(worker())
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    if broken:
        raise broken[0]
