"""How many Clones are in flight: fewer where the server groans, more again while it answers (AIMD)."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from batch.zstack.answers import Done, NoAnswer

if TYPE_CHECKING:
    from batch.engine.ports import Clock

_FIRST: Final = 4
_ROUND: Final = 1.0
"""Seconds in which several signs of trouble are one."""

_log = structlog.get_logger()


class Flight:
    """Room for Clones in flight: 4 at first; one more for each job that ended, after the first trouble for each round.

    Trouble is a server that asks to come back later or does not answer in time; it halves the room, once a round.
    """

    def __init__(self, most: int, clock: Clock) -> None:
        """``most``: what the operator allows."""
        self._most = most
        self._clock = clock
        self.room = min(_FIRST, most)
        self._flying = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ended = 0
        self._troubled_at: float | None = None

    async def enter(self) -> None:
        """Return when there is room for one more: first come, first served."""
        if not self._waiting and self._flying < self.room:
            self._flying += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        await turn

    def leave(self) -> None:
        """Give a place back."""
        self._flying -= 1
        self._admit()

    def note(self, answer: object) -> None:
        """Learn from any answer of the server."""
        if isinstance(answer, Done):
            self._grow()
        elif isinstance(answer, NoAnswer) and answer.is_push_back:
            self._shrink()

    def _admit(self) -> None:
        while self._waiting and self._flying < self.room:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._flying += 1
                turn.set_result(None)

    def _grow(self) -> None:
        self._ended += 1
        if self.room < self._most and (self._troubled_at is None or self._ended >= self.room):
            self._ended = 0
            self.room += 1
            self._admit()

    def _shrink(self) -> None:
        now = self._clock.monotonic()
        if self._troubled_at is not None and now - self._troubled_at < _ROUND:
            return
        self._troubled_at = now
        self._ended = 0
        before, self.room = self.room, max(1, self.room // 2)
        if self.room < before:
            _log.info("server.busy", in_flight=self.room)
