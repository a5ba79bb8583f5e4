"""Real time and chance."""

from __future__ import annotations

import asyncio
import random
import time
import uuid


class SystemClock:
    """The clock of engine and client outside of simulations."""

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def random(self) -> float:
        """Draw a number in [0, 1)."""
        return random.random()  # noqa: S311 - jitter, not a secret

    def uuid(self) -> str:
        """Draw a v4 uuid as 32 lower-case hex digits."""
        return uuid.uuid4().hex
