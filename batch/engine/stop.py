"""The run's wish to end: asked for once, seen by everybody, and able to wake who sleeps before a send."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


GRACE: Final = 30.0
"""Seconds that what is in flight gets to settle after a Stop."""


class Stop:
    """Not asked for at first; the first reason stays."""

    def __init__(self) -> None:
        """Nothing asked for yet."""
        self.reason: str | None = None
        self._asked = asyncio.Event()
        self._hooks: list[Callable[[], None]] = []

    @property
    def requested(self) -> bool:
        """Whether no new clone may be started."""
        return self.reason is not None

    def on_request(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` at the request, such as the Gate's ``stop_sending``."""
        self._hooks.append(hook)

    def request(self, reason: str) -> None:
        """Ask for the end; later reasons are not kept."""
        if self.requested:
            return
        self.reason = reason
        self._asked.set()
        for hook in self._hooks:
            hook()

    async def wait(self) -> None:
        """Return once the end was asked for."""
        await self._asked.wait()

    async def sleep(self, seconds: float) -> None:
        """Wait ``seconds``, or less when the end is asked for."""
        if seconds <= 0 or self.requested:
            return
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait((asked,), timeout=seconds)
        finally:
            asked.cancel()


async def within_grace(work: Coroutine[None, None, None], stop: Stop, grace: float) -> None:
    """Run ``work`` to its end, or until ``grace`` seconds after the Stop; what is cut off then is in the journal."""
    running = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({running}, timeout=grace)
    finally:
        stopping.cancel()
        running.cancel()
    with suppress(asyncio.CancelledError):
        await running
