"""Tracks whether the management node executes requests: while it starts or stops, POSTs wait.

A node that is not ready accepts a POST and ends its job at once without executing it, so that only jobs show its state.
After a few such ends in a row no POST is sent for a while; then one POST at a time probes, and the first job
that ends otherwise lets all POSTs pass.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from batch.errors import EndReason, RunStoppedError
from batch.zstack.answers import Done, ErrorClass, Refused, Running

if TYPE_CHECKING:
    from batch.clock import Clock
    from batch.engine.control import Stop

_IN_A_ROW: Final = 3
"""Consecutive refusals for the node's state, with no other end of a job between them, after which POSTs wait."""
_FIRST: Final = 2.0
_CAP: Final = 60.0
_STEP: Final = 0.25
"""Seconds between two checks of a waiting POST."""
LONGEST: Final = 1800.0
"""Seconds for which the node may be unready before the run stops with exit code 4."""

_log = structlog.get_logger()


class Readiness:
    """State of the management node; ready at first."""

    def __init__(self, clock: Clock, *, longest: float = LONGEST) -> None:
        """Start ready; the run stops after ``longest`` seconds without a ready node."""
        self._clock = clock
        self._longest = longest
        self._since: float | None = None
        self._next_at = 0.0
        self._in_a_row = 0
        self._tries = 0
        self._counted_from = 0.0
        """Ends of POSTs sent before this belong to an earlier probe. Seconds since the epoch."""
        self._suspended_at: float | None = None
        self._resumed = asyncio.Event()

    def suspend(self) -> None:
        """Let no POST pass until ``resume``, whatever the node's state."""
        self._suspended_at = self._clock.monotonic() if self._suspended_at is None else self._suspended_at
        self._resumed.clear()

    def resume(self) -> None:
        """Let POSTs pass again; the suspended time does not count as unready."""
        if self._suspended_at is not None and self._since is not None:
            self._since += self._clock.monotonic() - self._suspended_at
        self._suspended_at = None
        self._resumed.set()

    async def wait(self, stop: Stop) -> float:
        """Wait until a POST may be sent, or until the Stop; return the seconds waited.

        Raises RunStoppedError when the node stays unready too long.
        """
        began = self._clock.monotonic()
        while not stop.requested:
            if self._suspended_at is not None:
                await stop.sleep_until(self._resumed)
                continue
            if self._since is None:
                break
            now = self._clock.monotonic()
            if now - self._since >= self._longest:
                text = f"the management node has not been ready for {self._longest:.0f} s"
                raise RunStoppedError(text, EndReason.OUTAGE)
            if now >= self._next_at:
                self._try_now(now)
                break
            await stop.sleep(min(_STEP, self._next_at - now))
        return self._clock.monotonic() - began

    def _try_now(self, now: float) -> None:
        """Let one POST pass; the next one only after a pause, as its answer may be lost."""
        self._tries += 1
        self._counted_from = self._clock.time()
        self._next_at = now + self._pause()

    def _pause(self) -> float:
        return min(_CAP, _FIRST * 2.0**self._tries) * (0.75 + 0.5 * self._clock.random())

    def note(self, answer: object, *, sent_at: float) -> None:
        """Evaluate the answer to a POST of ``sent_at``, or to a poll of its job."""
        if _is_unready(answer):
            self._in_a_row += 1
            if self._since is None and self._in_a_row >= _IN_A_ROW:
                self._since = self._clock.monotonic()
                self._tries = 0
                self._next_at = self._since + self._pause()
                self._counted_from = self._clock.time()
                _log.warning("server.unready", reason=_reason(answer))
        elif sent_at >= self._counted_from and self._was_taken(answer, sent_at):
            self._in_a_row = 0
            if self._since is not None:
                _log.info("server.returned", seconds=round(self._clock.monotonic() - self._since, 1))
                self._since = None

    def _was_taken(self, answer: object, sent_at: float) -> bool:
        """Return whether the answer shows that the node executes requests."""
        if isinstance(answer, Running):
            return self._clock.time() - sent_at >= _FIRST
        return isinstance(answer, Done | Refused)


def _is_unready(answer: object) -> bool:
    return isinstance(answer, Refused) and answer.error.error_class is ErrorClass.NODE


def _reason(answer: object) -> str:
    return str(answer.error) if isinstance(answer, Refused) else getattr(answer, "reason", "")
