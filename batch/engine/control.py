"""What ends or changes a run: the request to stop it, and an operator's rate, concurrency, pause and drain.

A stop is requested once and wakes tasks that sleep before a send. Waits at the rate limiter for slots after the grace
period are cut at once, and a cut wait makes no call; other calls pass at the rate until the grace period ends. The
clone of a cut poll or look stays open. The one logout passes rate and pause. Login and plan, which leave nothing in
flight, are cancelled. A call that changes the server is not made after its own deadline.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar

from batch.engine.gate import hard_cap
from batch.errors import EndReason, ZcloneError
from batch.model import CallKind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

    from batch.clock import Clock
    from batch.engine.dispatch import ConcurrencyLimiter
    from batch.engine.gate import Gate
    from batch.engine.policy import Readiness

_Result = TypeVar("_Result")

GRACE: Final = 30.0
"""Seconds that clones in flight have to settle after a Stop."""
NOT_AFTER: Final[ContextVar[float]] = ContextVar("not_after", default=inf)
"""Monotonic seconds after which a call of this task that makes or deletes a clone must not be sent."""


class Stop:
    """The stop request of a run; the first reason is kept."""

    def __init__(self) -> None:
        """Start without a request."""
        self.reason: str | None = None
        self.code: EndReason | None = None
        """Code of ``reason``; None where it has none."""
        self._asked = asyncio.Event()
        self.is_draining = False
        """Whether clones in flight may take all the time they need."""
        self._hooks: list[Callable[[], None]] = []
        self._drain_hooks: list[Callable[[], None]] = []

    @property
    def requested(self) -> bool:
        """Whether no new clone may be started."""
        return self.reason is not None

    def on_request(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` at the request; a drain does not count as one."""
        self._hooks.append(hook)

    def on_drain(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` at the drain."""
        self._drain_hooks.append(hook)

    def request(self, reason: str, code: EndReason | None) -> None:
        """Request the end of the run; later reasons are not kept, except after a drain."""
        if not self.requested or self.is_draining:
            self.is_draining = False
            self._ask(reason, code, self._hooks)

    def drain(self, reason: str, code: EndReason | None) -> None:
        """Request the end once everything in flight has settled, however long that takes."""
        if not self.requested:
            self.is_draining = True
            self._ask(reason, code, self._drain_hooks)

    def _ask(self, reason: str, code: EndReason | None, hooks: list[Callable[[], None]]) -> None:
        self.reason, self.code = reason, code
        self._asked.set()
        for hook in hooks:
            hook()

    async def wait(self) -> None:
        """Wait until the end is requested."""
        await self._asked.wait()

    async def sleep(self, seconds: float) -> None:
        """Wait ``seconds``, or until the end is requested."""
        if seconds > 0:
            await self._wait_for(timeout=seconds)

    async def sleep_until(self, event: asyncio.Event) -> None:
        """Wait until ``event`` is set, or the end is requested."""
        await self._wait_for(event)

    async def _wait_for(self, *events: asyncio.Event, timeout: float | None = None) -> None:  # noqa: ASYNC109
        if self.requested:
            return
        waits = [asyncio.ensure_future(event.wait()) for event in (self._asked, *events)]
        try:
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


async def before_stop(work: Coroutine[None, None, _Result], stop: Stop) -> _Result | None:
    """Return the result of ``work``; at the Stop cancel it and return None: for work that leaves nothing in flight."""
    running = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        running.cancel()
    await asyncio.wait({running})
    # A call that the Stop cut may raise any error.
    is_cut = running.cancelled() or isinstance(running.exception(), ZcloneError)
    return None if is_cut and stop.requested else running.result()


async def within_grace(work: Coroutine[None, None, None], stop: Stop, grace: float) -> None:
    """Run ``work`` to its end, or until ``grace`` seconds after the Stop; the journal has what is cancelled then."""
    running, timers = asyncio.ensure_future(work), []

    def end_later() -> None:
        if not running.done():
            timers.append(asyncio.get_running_loop().call_later(grace, running.cancel))

    stop.on_request(end_later)
    if stop.requested and not stop.is_draining:
        end_later()
    try:
        await running
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
    finally:
        for timer in timers:
            timer.cancel()
        running.cancel()


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
        limiter.set_maximum(self.concurrency)
        if self.is_paused:
            readiness.suspend()

    def set_rate(self, rate: float) -> None:
        """Let ``rate`` calls a second pass; it must be above 0."""
        self.rate = rate
        self._gate.set_rate(rate, self._cap(rate))

    def set_concurrency(self, maximum: int) -> None:
        """Limit the clones in flight to ``maximum``; surplus ones settle."""
        self.concurrency = maximum
        if self._limiter is not None:
            self._limiter.set_maximum(maximum)

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
