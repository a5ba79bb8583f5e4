"""The run's wish to end: asked for once, seen by everybody, and able to wake who sleeps before a send."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


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
