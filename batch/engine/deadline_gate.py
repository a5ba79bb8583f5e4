"""A gate that rejects calls which waited too long."""

from __future__ import annotations

from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, Final

from batch.model import CallKind

if TYPE_CHECKING:
    from batch.clock import Clock
    from batch.engine.gate import Gate

NOT_AFTER: Final[ContextVar[float]] = ContextVar("not_after", default=inf)
"""Monotonic seconds after which a call of this task that makes or deletes a clone must not be sent."""


class DeadlineGate:
    """A Gate that rejects calls that make or delete a clone after their deadline."""

    def __init__(self, gate: Gate, clock: Clock) -> None:
        """Wait at ``gate``; ``clock`` is the clock of ``NOT_AFTER``."""
        self._gate = gate
        self._clock = clock

    async def wait(self, kind: CallKind, job_uuid: str = "") -> bool:
        """Return True when the call may be made."""
        is_due = await self._gate.wait(kind, job_uuid)
        return is_due and (kind is not CallKind.CLONE or self._clock.monotonic() < NOT_AFTER.get())

    def pause(self, seconds: float) -> None:
        """Let no call pass for ``seconds`` from now."""
        self._gate.pause(seconds)

    def slow_down(self) -> bool:
        """Handle a refusal of the server's own rate limiter."""
        return self._gate.slow_down()
