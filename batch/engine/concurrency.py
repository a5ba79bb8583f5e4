"""The concurrency limiter: an AIMD window of Clones in flight.

It begins at what the operator allows, as the gate spaces the calls, and only shrinks on trouble. How long a clone takes
is no sign of load: it depends on the model.
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
"""Rounds in which the whole of what the operator allows is won back."""
_ROUND: Final = 1.0
"""Seconds within which several signs of trouble count as one."""

_log = structlog.get_logger()


class ConcurrencyLimiter:
    """How many Clones may be in flight: what the operator allows; fewer after trouble, then more each round.

    Trouble is a server that asks to come back later, does not answer in time or takes no connection; it halves the
    limit, once a round. A round is as many ended jobs as the limit.
    """

    def __init__(self, most: int, clock: Clock) -> None:
        """``most``: what the operator allows."""
        self._most = most
        self.workers = Workers(most)
        """Of the pool: as many as may be in flight but for trouble."""
        self._clock = clock
        self.limit = most
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ended = 0
        self._troubled_at: float | None = None

    def set_most(self, most: int) -> None:
        """Take in what the operator allows from now on; a limit that trouble lowered stays low."""
        self.limit = most if self.limit == self._most else min(self.limit, most)
        self._most = most
        self.workers.set_most(most)
        self._admit()

    async def acquire(self) -> None:
        """Return when one more may be in flight: first come, first served."""
        if not self._waiting and self._in_flight < self.limit:
            self._in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        await turn

    def release(self) -> None:
        """Give a place back."""
        self._in_flight -= 1
        self._admit()

    def note(self, answer: object) -> None:
        """Learn from any answer of the server."""
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
