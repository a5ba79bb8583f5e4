"""The concurrency limiter: an AIMD window of Clones in flight.

It starts at the operator's limit, as the gate spaces the calls, and shrinks only on trouble. The duration of a clone is
not a sign of load, because it depends on the model.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from batch.engine.dispatch import Workers
from batch.zstack.answers import Done, NoAnswer, NotSent

if TYPE_CHECKING:
    from batch.clock import Clock

_STEPS: Final = 8
"""Rounds in which the limit grows back to the operator's."""
_ROUND: Final = 1.0
"""Seconds within which several signs of trouble count as one."""

_log = structlog.get_logger()


class ConcurrencyLimiter:
    """Limits the Clones in flight to the operator's limit; lower after trouble, then growing each round.

    Trouble is a server that asks to retry later, does not answer in time or accepts no connection; it halves the limit,
    once a round. A round is as many ended jobs as the limit.
    """

    def __init__(self, most: int, clock: Clock) -> None:
        """Start at ``most``, the operator's limit."""
        self._most = most
        self.workers = Workers(most)
        """Workers of the pool: their number follows the operator's limit, not trouble."""
        self._clock = clock
        self.limit = most
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ended = 0
        self._troubled_at: float | None = None

    def set_most(self, most: int) -> None:
        """Set the operator's limit; a limit that trouble lowered stays low."""
        self.limit = most if self.limit == self._most else min(self.limit, most)
        self._most = most
        self.workers.set_most(most)
        self._admit()

    async def acquire(self) -> None:
        """Wait until one more may be in flight: first come, first served."""
        if not self._waiting and self._in_flight < self.limit:
            self._in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        await turn

    def release(self) -> None:
        """Free one place."""
        self._in_flight -= 1
        self._admit()

    def note(self, answer: object) -> None:
        """Adjust the limit to an answer of the server."""
        if isinstance(answer, Done):
            self._grow()
        elif isinstance(answer, NoAnswer):
            if answer.is_push_back:
                self._shrink()
        elif isinstance(answer, NotSent) and not (answer.is_held_back or answer.is_over_limit):
            self._shrink()

    def _admit(self) -> None:
        while self._waiting and self._in_flight < self.limit:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._in_flight += 1
                turn.set_result(None)

    def _grow(self) -> None:
        self._ended += 1
        if self.limit < self._most and self._ended >= self.limit:
            self._ended = 0
            self.limit = min(self._most, self.limit + max(1, self._most // _STEPS))
            self._admit()

    def _shrink(self) -> None:
        now = self._clock.monotonic()
        if self._troubled_at is not None and now - self._troubled_at < _ROUND:
            return
        self._troubled_at = now
        self._ended = 0
        before, self.limit = self.limit, max(1, self.limit // 2)
        if self.limit < before:
            _log.info("server.busy", in_flight=self.limit)
