"""Time and chance: the Protocol that client and engine are given, and the real one."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from typing import Protocol


class Clock(Protocol):
    """Time and chance, injected so that tests and simulations own both."""

    def time(self) -> float:
        """Return the seconds since the epoch, for records and for deadlines anchored in the manifest."""

    def monotonic(self) -> float:
        """Return the seconds of a clock that never jumps, for waits."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    def random(self) -> float:
        """Draw a number in [0, 1)."""

    def uuid(self) -> str:
        """Draw a v4 uuid as 32 lower-case hex digits."""


class SystemClock:
    """The machine's clock and generator; its seconds count the time that the machine sleeps."""

    def __init__(self) -> None:
        """Read the wall clock once: deadlines must not move when somebody sets it."""
        self._epoch = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def time(self) -> float:
        """Return the seconds since the epoch, steady from the first reading on."""
        return self._epoch + time.clock_gettime(time.CLOCK_BOOTTIME)

    def monotonic(self) -> float:
        """Return the seconds of a clock that never jumps."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def random(self) -> float:
        """Draw a number in [0, 1)."""
        return random.random()  # noqa: S311 - jitter, not a secret # nosec B311

    def uuid(self) -> str:
        """Draw a v4 uuid as 32 lower-case hex digits."""
        return uuid.uuid4().hex
