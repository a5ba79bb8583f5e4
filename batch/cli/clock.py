"""Real time and chance."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Final

_DRAWN: Final = 256
_VARIANTS: Final = "89ab"


class SystemClock:
    """The clock of engine and client outside of simulations; its seconds count the time that the machine sleeps."""

    def __init__(self) -> None:
        """Read the wall clock once: deadlines must not move when somebody sets it."""
        self._epoch = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self._drawn = bytearray()

    def time(self) -> float:
        """Seconds since the epoch, steady from the first reading on."""
        return self._epoch + time.clock_gettime(time.CLOCK_BOOTTIME)

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def random(self) -> float:
        """Draw a number in [0, 1)."""
        return random.random()  # noqa: S311 - jitter, not a secret # nosec B311

    def uuid(self) -> str:
        """Draw a v4 uuid as 32 lower-case hex digits."""
        if not self._drawn:
            # Many at a time: the system call costs more than all the rest of an attempt's bookkeeping.
            self._drawn = bytearray(os.urandom(_DRAWN * 16))
        digits = self._drawn[-16:].hex()
        variant = _VARIANTS[self._drawn[-1] & 3]
        del self._drawn[-16:]
        return f"{digits[:12]}4{digits[13:16]}{variant}{digits[17:]}"
