"""Work under way after a Stop."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from batch.engine.control import Stop, within_grace
from batch.errors import EndReason


async def endless(seen: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        seen.append("cut")


@pytest.mark.parametrize("is_early", [True, False])
async def test_work_is_cut_after_the_grace(*, is_early: bool) -> None:
    """Whether the Stop came before the work or during it, what outlasts the grace is cut off without an error."""
    stop, seen = Stop(), list[str]()
    if is_early:
        stop.request("signal", None)
    else:
        asyncio.get_running_loop().call_soon(stop.request, "signal", None)
    await within_grace(endless(seen), stop, 0.01)
    assert seen == ["cut"]


async def test_a_stop_after_the_end_changes_nothing() -> None:
    """Work that has ended is not waited for, and its error is the caller's."""
    stop = Stop()

    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await within_grace(fail(), stop, 60.0)
    stop.request("signal", None)
    assert stop.requested


async def test_cancelling_the_caller_cancels_the_work() -> None:
    """A cancel from outside reaches the work, and the caller."""
    seen: list[str] = []
    task = asyncio.create_task(within_grace(endless(seen), Stop(), 60.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert (task.cancelled(), seen) == (True, ["cut"])


async def test_the_first_stop_counts_and_one_after_a_drain() -> None:
    """Later reasons are not kept; a wait of no time at all is none."""
    stop = Stop()
    stop.drain("zclone control drain", EndReason.SIGNAL)
    stop.drain("again", None)
    assert (stop.is_draining, stop.reason) == (True, "zclone control drain")
    stop.request("SIGTERM", EndReason.SIGNAL)
    stop.request("SIGINT", None)
    assert (stop.is_draining, stop.reason, stop.code) == (False, "SIGTERM", EndReason.SIGNAL)
    await stop.sleep(0)
    await stop.sleep(-1.0)
