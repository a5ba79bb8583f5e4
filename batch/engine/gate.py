"""The rate limiter: every call to the server waits here for a slot, once per try.

A next-slot time (GCRA) spaces the calls and sets their mean rate; asyncio-throttle's Throttler behind it is the hard
cap. Slots are 0.6 % further apart than the rate allows; those missed by a late timer, by up to 0.05 s, are made up for.
Each slot goes to the waiting call with the highest priority: a login, then a POST, then reads in order of arrival, and
among polls the one whose job has most likely ended. Reads that waited long alternate with POSTs.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asyncio_throttle import Throttler  # type: ignore[attr-defined] # its documented place

from batch.engine.adaptive_rate import AdaptiveRate
from batch.engine.poll_schedule import PollSchedule
from batch.model import CallKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from batch.clock import Clock

_PACE: Final = 1.006
"""Factor by which the slots are further apart than the rate allows, so that the cap rarely blocks."""
_MARGIN: Final = 1.002
"""Factor by which the cap's period is longer than the rate allows, so that the server never sees a higher rate."""
_CATCH_UP: Final = 0.05
"""Seconds: slots that a late timer missed by no more are made up for; longer gaps are idle time."""
_SHORTEST: Final = 0.01
"""Shortest sleep in seconds: a timer costs more than a call, and the slots that it misses are made up for."""
_RESOLUTION: Final = 0.001
"""Seconds below which no timer is set: event loops round to them."""
_RETRY: Final = 0.002
"""Seconds between two tries to enter a full cap; the slots make that rare."""
_REPORT_STEP: Final = 1.0
"""Seconds by which a pause must grow to be reported again."""
_SUSPENSION: Final = 3600.0
"""Seconds to the next slot to assume while all calls are suspended."""
_PATIENCE: Final = 5.0
"""Seconds for which a read or a due poll waits behind POSTs; after that it gets every other slot."""


def cap_limits(rate: float) -> tuple[int, float, float]:
    """Return Throttler's arguments for a ``rate`` in calls per second: calls, period and retry interval in seconds.

    Throttler counts whole calls: 40 in a second for 40/s, 8 in 1.07 seconds for 7.5/s, one in 3,600 for 1/h.
    """
    calls = math.ceil(rate)
    return calls, calls / rate * _MARGIN, _RETRY


def hard_cap(rate: float) -> Throttler:
    """Return the Throttler for ``rate``."""
    return Throttler(*cap_limits(rate))


@dataclass(slots=True, eq=False)
class _Waiter:
    """A waiting call."""

    kind: CallKind
    since: float
    future: asyncio.Future[bool]
    job_uuid: str = ""
    """Job of a poll that the schedule orders, else empty."""


class Gate:
    """The rate limiter that every call to the server passes, once per try; only the logout does not wait."""

    def __init__(
        self,
        rate: float,
        *,
        cap: AbstractAsyncContextManager[object],
        clock: Clock,
        paused: Callable[[float], None] | None = None,
    ) -> None:
        """Let the first call pass immediately; ``rate``: calls per second, above 0.

        ``cap``: entered before each call; waits as ``cap_limits`` defines. ``paused``: called with the seconds of a
        pause that the server requested.
        """
        if not rate > 0:
            raise ValueError(f"the rate must be above 0, not {rate}")
        self.rate = AdaptiveRate(rate, clock)
        self._interval = _PACE / rate
        self._cap = cap
        self._clock = clock
        self._paused = paused
        self._next = -math.inf
        self._closed_until = -math.inf
        self._ends = self._suspended_from = math.inf
        """``_suspended_from``: when all calls are suspended; while it is finite, POSTs are already."""
        self._arrival = asyncio.Event()
        """Set when the next slot may be wanted sooner than computed."""
        self.polls = PollSchedule(clock, self._arrival.set)
        self._logins: dict[_Waiter, None] = {}
        self._posts: dict[_Waiter, None] = {}
        self._questions: dict[_Waiter, None] = {}
        """Waiting calls in order of arrival; polls only where the schedule does not know their job."""
        self._scheduled: dict[str, _Waiter] = {}
        """Polls that the schedule orders, by job uuid."""
        self._is_posts_turn = False
        self._dispatcher: asyncio.Task[None] | None = None
        """Hands out the slots while calls wait."""
        self.calls = 0
        """Number of calls that passed."""

    async def wait(self, kind: CallKind, job_uuid: str = "") -> bool:
        """Return True when the call may be made, False when the wait was cut: then it must not be made.

        ``job_uuid``: the job of a poll.
        """
        if kind is not CallKind.LOGOUT and not await self._admit(kind, job_uuid):
            return False
        self.calls += 1
        return True

    def pause(self, seconds: float) -> None:
        """Let no call pass for ``seconds`` from now; a longer pause in force stays."""
        until = self._clock.monotonic() + seconds
        if self._paused is not None and until > self._closed_until + _REPORT_STEP:
            self._paused(seconds)
        self._closed_until = max(self._closed_until, until)
        self._cut_late()

    def slow_down(self) -> bool:
        """Handle a refusal of the server's own limiter: pause all calls and lower the rate for a while.

        Returns True: the refused call may be repeated, as the pause comes first.
        """
        if pause := self.rate.slow_down():
            self.pause(pause)
        return True

    def set_rate(self, rate: float, cap: AbstractAsyncContextManager[object]) -> None:
        """Let ``rate`` calls per second pass from now on; ``cap``: as in the constructor, for that rate."""
        last, self._cap = self._next - self._interval, cap
        self._interval = _PACE / self.rate.set_maximum(rate)
        self._next = last + self._interval
        self._restart_turns()

    def suspend(self, grace: float) -> None:
        """Cut the waits of all present and later POSTs; let other calls pass for ``grace`` seconds more."""
        self._suspended_from = self._clock.monotonic() + grace
        self._cut_late()
        self._restart_turns()

    def resume(self) -> None:
        """Let all calls pass again."""
        self._suspended_from = math.inf
        self._restart_turns()

    def stop(self, grace: float) -> None:
        """Cut the waits of POSTs, and of calls whose slot comes after ``grace`` seconds; later arrivals too."""
        self._suspended_from = math.inf
        self._ends = min(self._ends, self._clock.monotonic() + grace)
        self._cut_late()
        self._restart_turns()

    async def _admit(self, kind: CallKind, job_uuid: str) -> bool:
        """Wait for a slot; return False when the wait was cut."""
        if self._is_late(kind, len(self._logins) + len(self._posts) + len(self._questions)):
            return False
        waiter = _Waiter(kind, self._clock.monotonic(), asyncio.get_running_loop().create_future())
        self._enqueue(waiter, job_uuid)
        try:
            is_passed = await waiter.future
        except asyncio.CancelledError:
            self._remove(waiter)
            self._stop_if_empty()
            raise
        # The stop may have come in the same moment as the slot.
        return is_passed and not self._is_forbidden(kind)

    def _enqueue(self, waiter: _Waiter, job_uuid: str) -> None:
        if waiter.kind is CallKind.POLL and job_uuid not in self._scheduled and self.polls.is_known(job_uuid):
            waiter.job_uuid = job_uuid
            self._scheduled[job_uuid] = waiter
            self.polls.add(job_uuid)
        else:
            self._queue_of(waiter.kind)[waiter] = None
        if waiter.kind is CallKind.CLONE:
            self.polls.note_post()
        self._arrival.set()
        if self._dispatcher is None:
            self._dispatcher = asyncio.get_running_loop().create_task(self._dispatch())

    def _queue_of(self, kind: CallKind) -> dict[_Waiter, None]:
        if kind is CallKind.CLONE:
            return self._posts
        return self._logins if kind is CallKind.LOGIN else self._questions

    def _remove(self, waiter: _Waiter) -> None:
        """Take a call that no longer waits out of its queue."""
        if not waiter.job_uuid:
            self._queue_of(waiter.kind).pop(waiter, None)
        elif self._scheduled.get(waiter.job_uuid) is waiter:
            del self._scheduled[waiter.job_uuid]
            self.polls.remove(waiter.job_uuid)

    def _end(self, waiter: _Waiter, *, is_passed: bool) -> None:
        """End a wait; it may have been cancelled in the same moment."""
        self._remove(waiter)
        if not waiter.future.done():
            waiter.future.set_result(is_passed)

    def _restart_turns(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.cancel()
            self._dispatcher = asyncio.get_running_loop().create_task(self._dispatch())

    def _stop_if_empty(self) -> None:
        if self._is_empty and self._dispatcher is not None:
            self._dispatcher.cancel()
            self._dispatcher = None

    @property
    def _is_empty(self) -> bool:
        return not (self._logins or self._posts or self._questions or self._scheduled)

    async def _dispatch(self) -> None:
        """Hand out slots until no call waits: sleep until the next slot, enter the cap, set the slot after it."""
        while not self._is_empty:
            await self._sleep_until_due()
            if (idle := self._idle_seconds()) > 0:
                await self._sleep_until_arrival(idle)
                continue
            async with self._cap:
                pass
            # A pause may have started while the cap was full.
            await self._sleep_until_due()
            if (waiter := self._choose()) is not None:
                now, due = self._clock.monotonic(), self._due
                self._interval = _PACE / self.rate.note_call()
                self._next = (due if now - due <= _CATCH_UP else now) + self._interval
                self._end(waiter, is_passed=True)
        self._dispatcher = None

    def _idle_seconds(self) -> float:
        """Return for how many seconds no slot is wanted: only polls wait, and none is due."""
        if self._logins or self._posts or self._questions:
            return 0.0
        return self.polls.next_due() - self._clock.monotonic()

    async def _sleep_until_arrival(self, seconds: float) -> None:
        self._arrival.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, _RESOLUTION)):
                await self._arrival.wait()

    def _choose(self) -> _Waiter | None:
        """Return the call that gets the slot; None where those that waited are gone."""
        if self._logins:
            return next(iter(self._logins))
        post, question = next(iter(self._posts), None), next(iter(self._questions), None)
        since = math.inf if question is None else question.since
        due, now = self.polls.next_due(), self._clock.monotonic()
        is_long = min(since, due) + _PATIENCE <= now
        if post is not None and (self._is_posts_turn or not is_long):
            self._is_posts_turn = False
            return post
        self._is_posts_turn = is_long
        if question is not None and since <= due:
            return question
        picked = self.polls.pick() if due <= now else None
        return self._scheduled[picked] if picked is not None else None

    async def _sleep_until_due(self) -> None:
        while (early := self._due - self._clock.monotonic()) > _RESOLUTION:  # noqa: ASYNC110 - no event is set
            await asyncio.sleep(max(early, _SHORTEST))

    @property
    def _due(self) -> float:
        now = self._clock.monotonic()
        return max(self._next, self._closed_until, now + _SUSPENSION if now >= self._suspended_from else -math.inf)

    def _is_forbidden(self, kind: CallKind) -> bool:
        return kind is CallKind.CLONE and min(self._ends, self._suspended_from) < math.inf

    def _is_late(self, kind: CallKind, before: int) -> bool:
        """Return whether the call can no longer be made, after a stop or in a pause, with ``before`` others first."""
        turn = max(self._due, self._clock.monotonic()) + before * self._interval
        return self._is_forbidden(kind) or turn >= self._ends

    def _cut_late(self) -> None:
        kept = 0
        for waiter in (*self._logins, *self._posts, *self._questions, *self._scheduled.values()):
            if self._is_late(waiter.kind, kept):
                self._end(waiter, is_passed=False)
            else:
                kept += 1
        self._stop_if_empty()
