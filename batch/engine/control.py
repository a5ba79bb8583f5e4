"""What an operator can change during a run: rate, concurrency, pause and drain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.engine.gate import hard_cap
from batch.engine.stop import GRACE
from batch.errors import EndReason

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from batch.engine.dispatch import ConcurrencyLimiter
    from batch.engine.gate import Gate
    from batch.engine.readiness import Readiness
    from batch.engine.stop import Stop


class Controls:
    """The limits in force; during a pause calls in flight have ``GRACE`` seconds to settle, then no call is made."""

    def __init__(
        self,
        gate: Gate,
        stop: Stop,
        *,
        rate: float,
        concurrency: int,
        cap: Callable[[float], AbstractAsyncContextManager[object]] = hard_cap,
    ) -> None:
        """Start with the run's limits.

        ``rate``: calls a second that ``gate`` lets pass; ``concurrency``: clones in flight at most; ``cap``: makes the
        gate's cap for a rate.
        """
        self._gate = gate
        self._stop = stop
        self._cap = cap
        self.rate = rate
        self.concurrency = self._first = concurrency
        self.is_paused = False
        self._limiter: ConcurrencyLimiter | None = None
        self._readiness: Readiness | None = None

    @property
    def rate_in_force(self) -> float:
        """Current calls a second: fewer than ``rate`` while the server's own limiter refuses more."""
        return self._gate.rate.value

    @property
    def changed_concurrency(self) -> int | None:
        """``concurrency`` where it was changed during the run, else None."""
        return None if self.concurrency == self._first else self.concurrency

    def attach(self, limiter: ConcurrencyLimiter, readiness: Readiness) -> None:
        """Apply the current limits to the pool's limiter and readiness check."""
        self._limiter, self._readiness = limiter, readiness
        limiter.set_most(self.concurrency)
        if self.is_paused:
            readiness.suspend()

    def set_rate(self, rate: float) -> None:
        """Let ``rate`` calls a second pass; it must be above 0."""
        self.rate = rate
        self._gate.set_rate(rate, self._cap(rate))

    def set_concurrency(self, most: int) -> None:
        """Limit the clones in flight to ``most``; surplus ones settle."""
        self.concurrency = most
        if self._limiter is not None:
            self._limiter.set_most(most)

    def pause(self) -> None:
        """Send no POST; jobs in flight are polled for ``GRACE`` seconds more and then stay open."""
        if self.is_paused or self._stop.requested:
            return
        self.is_paused = True
        if self._readiness is not None:
            self._readiness.suspend()
        self._gate.suspend(GRACE)

    def resume(self) -> None:
        """Continue after a pause."""
        if not self.is_paused:
            return
        self.is_paused = False
        if not self._stop.requested:
            self._gate.resume()
        if self._readiness is not None:
            self._readiness.resume()

    def drain(self) -> None:
        """Send nothing new, and end once everything in flight has settled."""
        self.resume()
        self._stop.drain("drained by zclone control", EndReason.SIGNAL)
