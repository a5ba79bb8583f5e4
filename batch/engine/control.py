"""What an operator changes while a run goes on: the rate, how many clones are in flight, and whether any is begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.engine.gate import hard_cap
from batch.engine.stop import GRACE
from batch.errors import EndReason

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from batch.engine.concurrency import ConcurrencyLimiter
    from batch.engine.gate import Gate
    from batch.engine.readiness import Readiness
    from batch.engine.stop import Stop


class Controls:
    """The limits in force. A pause lets what is in flight settle for ``GRACE`` seconds; then no call is made."""

    def __init__(
        self,
        gate: Gate,
        stop: Stop,
        *,
        rate: float,
        concurrency: int,
        cap: Callable[[float], AbstractAsyncContextManager[object]] = hard_cap,
    ) -> None:
        """Change nothing yet.

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
        """Calls a second that pass just now: fewer than ``rate`` while the server's own limiter refuses more."""
        return self._gate.rate.value

    @property
    def changed_concurrency(self) -> int | None:
        """``concurrency`` where it is not what the run began with."""
        return None if self.concurrency == self._first else self.concurrency

    def attach(self, limiter: ConcurrencyLimiter, readiness: Readiness) -> None:
        """Take in what a pool that begins asks before it starts a clone, or sends one."""
        self._limiter, self._readiness = limiter, readiness
        limiter.set_most(self.concurrency)
        if self.is_paused:
            readiness.hold()

    def set_rate(self, rate: float) -> None:
        """Let ``rate`` calls a second pass, above 0."""
        self.rate = rate
        self._gate.set_rate(rate, self._cap(rate))

    def set_concurrency(self, most: int) -> None:
        """Let ``most`` clones be in flight; what is in flight beyond that settles."""
        self.concurrency = most
        if self._limiter is not None:
            self._limiter.set_most(most)

    def pause(self) -> None:
        """Send no POST; what is in flight is asked about for ``GRACE`` seconds more and then stays open."""
        if self.is_paused or self._stop.requested:
            return
        self.is_paused = True
        if self._readiness is not None:
            self._readiness.hold()
        self._gate.hold(GRACE)

    def resume(self) -> None:
        """Go on after a pause."""
        if not self.is_paused:
            return
        self.is_paused = False
        if not self._stop.requested:
            self._gate.release()
        if self._readiness is not None:
            self._readiness.release()

    def drain(self) -> None:
        """Send nothing new, and end once all that is in flight has settled."""
        self.resume()
        self._stop.drain("drained by zclone control", EndReason.SIGNAL)
