"""Time and randomness: the Protocol that client and engine receive, and its implementation on the system clock."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from typing import Protocol


class Clock(Protocol):
    """Time and randomness, injected so that tests and simulations control both."""

    def time(self) -> float:
        """Return the seconds since the epoch, for records and for deadlines stored in the manifest."""

    def monotonic(self) -> float:
        """Return the seconds of a monotonic clock, for waits."""

    async def sleep(self, seconds: float) -> None:
        """Wait for ``seconds``."""

    def random(self) -> float:
        """Return a random number in [0, 1)."""

    def uuid(self) -> str:
        """Return a new v4 uuid as 32 lower-case hex digits."""


class SystemClock:
    """The machine's clock and random generator; time spent in suspend counts."""

    def __init__(self) -> None:
        """Read the wall clock once: deadlines must not move when the clock is set."""
        self._epoch = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def time(self) -> float:
        """Return the seconds since the epoch; later changes of the wall clock have no effect."""
        return self._epoch + time.clock_gettime(time.CLOCK_BOOTTIME)

    def monotonic(self) -> float:
        """Return the seconds of a monotonic clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for ``seconds``."""
        await asyncio.sleep(seconds)

    def random(self) -> float:
        """Return a random number in [0, 1)."""
        return random.random()  # noqa: S311 - jitter, not a secret # nosec B311

    def uuid(self) -> str:
        """Return a new v4 uuid as 32 lower-case hex digits."""
        return uuid.uuid4().hex


def backoff_pause(failures: int, chance: float, *, first: float, cap: float) -> float:
    """Return a pause in seconds that doubles with each failure from ``first`` to ``cap``, with a quarter of jitter.

    ``chance``: a random number in [0, 1).
    """
    return min(cap, first * 2.0 ** min(failures, 64)) * (0.75 + 0.5 * chance)
