"""Circuit breaker around the Api: while the server is unreachable all calls wait, and one at a time probes it.

Only a missing answer counts as a failure; a refusal of ZStack is an answer. It opens after ten failures in a row or
when half of the last fifty calls failed; stays open 5 s, doubling to 60 s, with jitter; then one query or poll probes,
never a POST. When that takes longer than the outage deadline, the run stops and can be resumed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog

from batch.clock import backoff_pause
from batch.engine.control import before_stop
from batch.errors import CallCutError, EndReason, RunStoppedError
from batch.zstack.answers import (
    NOT_ADMITTED,
    Accepted,
    Done,
    Duplicate,
    NoAnswer,
    NotSent,
    Refused,
    is_cut,
    is_over_limit,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batch.clock import Clock
    from batch.engine.control import Stop
    from batch.engine.poll_schedule import PollSchedule, PollWindow
    from batch.engine.ports import Api
    from batch.engine.webhooks import WebHooks
    from batch.model import Clone
    from batch.zstack.answers import FindAnswer, PollAnswer, SubmitAnswer

_IN_A_ROW = 10
_WINDOW = 50
_FIRST = 5.0
_CAP = 60.0
OUTAGE_DEADLINE = 1800.0
"""Seconds for which the server may be unreachable before the run stops with exit code 4."""

_log = structlog.get_logger()
_Answer = TypeVar("_Answer")


class Breaker:
    """The circuit breaker; closed at first."""

    def __init__(
        self,
        clock: Clock,
        stop: Stop,
        *,
        outage_deadline: float = OUTAGE_DEADLINE,
        returned: Callable[[], None] | None = None,
    ) -> None:
        """Start closed; ``returned`` is called when the server answers again, ``outage_deadline`` is in seconds."""
        self._clock = clock
        self._stop = stop
        self._returned = returned
        self._outage_deadline = outage_deadline
        self._recent: deque[bool] = deque(maxlen=_WINDOW)
        self._in_a_row = 0
        self._open_since: float | None = None
        self._tries = 0
        self._turn = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether calls wait."""
        return self._open_since is not None

    async def guard(
        self, call: Callable[[], Awaitable[_Answer]], *, probe: Callable[[], Awaitable[object]] | None = None
    ) -> _Answer | NotSent:
        """Make the call: immediately when closed, one at a time and after the pause when open.

        Where ``probe`` is given it is called instead, and without an answer, or after the Stop, the call is not made.
        Raises RunStoppedError when the outage exceeds its deadline.
        """
        if self.is_open and probe is not None:
            unsent = await self._probe(probe)
            if unsent is not None:
                return unsent
        elif self.is_open:
            async with self._turn:
                if self.is_open:
                    await asyncio.sleep(self._next_pause())
                    return self.note(await call())
        return self.note(await call())

    async def _probe(self, probe: Callable[[], Awaitable[object]]) -> NotSent | None:
        """Ask whether the server is back, in turn; return why the call is not to be made, None where it may be."""
        if not await before_stop(self._turn.acquire(), self._stop):
            return NOT_ADMITTED
        try:
            if not self.is_open:
                return None
            await self._stop.sleep(self._next_pause())
            tried = NOT_ADMITTED if self._stop.requested else self.note(await probe())
        finally:
            self._turn.release()
        return NotSent(tried.reason) if isinstance(tried, NoAnswer) else tried if isinstance(tried, NotSent) else None

    def _next_pause(self) -> float:
        since = self._open_since
        assert since is not None
        if self._clock.monotonic() - since >= self._outage_deadline:
            raise RunStoppedError(f"ZStack has not answered for {self._outage_deadline:.0f} s", EndReason.OUTAGE)
        pause = backoff_pause(self._tries, self._clock.random(), first=_FIRST, cap=_CAP)
        self._tries += 1
        return pause

    def note(self, answer: _Answer) -> _Answer:
        """Count the result of a call; return it."""
        if is_cut(answer):
            return answer
        if not isinstance(answer, NotSent | NoAnswer) or is_over_limit(answer):
            self._recent.append(False)
            self._close()
            return answer
        self._recent.append(True)
        self._in_a_row += 1
        half = len(self._recent) == _WINDOW and 2 * sum(self._recent) >= _WINDOW
        if self._open_since is None and (self._in_a_row >= _IN_A_ROW or half):
            self._open_since = self._clock.monotonic()
            _log.warning("server.lost", failures=self._in_a_row, reason=answer.reason)
        return answer

    def _close(self) -> None:
        self._in_a_row = 0
        if self._open_since is not None:
            _log.info("server.returned", seconds=round(self._clock.monotonic() - self._open_since, 1))
            self._open_since = None
            self._tries = 0
            self._recent.clear()
            if self._returned is not None:
                self._returned()


class GuardedApi:
    """An Api whose calls pass the Breaker, whose polls are scheduled, and whose answers are passed to listeners.

    A poll or look that a stop cut raises CallCutError: it says nothing about its clone, whose state is kept.
    """

    def __init__(
        self,
        api: Api,
        breaker: Breaker,
        polls: PollSchedule,
        *listeners: Callable[[object], None],
        hooks: WebHooks | None = None,
    ) -> None:
        """Guard every call of ``api`` except ``renew``, which stops the run itself where it fails.

        ``hooks``: may deliver a job's answer before its poll does; None: web hooks are not used.
        """
        self._api = api
        self._breaker = breaker
        self._polls = polls
        self._listeners = listeners
        self._hooks = hooks

    def _notify(self, answer: _Answer) -> _Answer:
        for listener in self._listeners:
            listener(answer)
        return answer

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        """POST the clone; during an outage a look at its uuid probes the server first."""
        if self._hooks is not None:
            self._hooks.expect(job_uuid, clone.resource_uuid)
        if self._breaker.is_open:
            answer = await self._breaker.guard(
                lambda: self._api.submit(clone, job_uuid), probe=lambda: self._api.find(clone.resource_uuid)
            )
        else:
            answer = self._breaker.note(await self._api.submit(clone, job_uuid))
        if isinstance(answer, Accepted | Duplicate | NoAnswer):
            self._polls.begin(job_uuid, is_accepted=isinstance(answer, Accepted))
        return self._notify(answer)

    async def poll(self, job_uuid: str, window: PollWindow | None = None) -> PollAnswer:
        """Poll the job, unless a web hook delivers its answer first; with ``window`` once it has probably ended.

        Raises CallCutError.
        """
        job = None if self._hooks is None else self._hooks.find_open_job(job_uuid)
        if self._hooks is None or job is None:
            return await self._poll(job_uuid, window)
        window, job.is_urgent = None if job.is_urgent else window, False
        answer, is_from_hook = await job.first_answer(partial(self._poll, job_uuid, window))
        if is_from_hook:
            self._polls.note(job_uuid, answer, is_exact=True)
            self._notify(answer)
        if isinstance(answer, Done | Refused):
            self._hooks.end(job)
        return answer

    async def _poll(self, job_uuid: str, window: PollWindow | None) -> PollAnswer:
        if self._breaker.is_open:
            # During an outage the poll is the probe that others wait for: it must not be delayed.
            self._polls.expect(job_uuid, None)
            answer = await self._breaker.guard(lambda: self._api.poll(job_uuid))
        else:
            self._polls.expect(job_uuid, window)
            answer = self._breaker.note(await self._api.poll(job_uuid))
        self._polls.note(job_uuid, answer)
        return self._notify(_require_uncut(answer))

    async def find(self, resource_uuid: str) -> FindAnswer:
        """Query the resource. Raises CallCutError."""
        return self._notify(_require_uncut(await self._breaker.guard(lambda: self._api.find(resource_uuid))))

    async def renew(self) -> None:
        """Replace the dead session."""
        await self._api.renew()


def _require_uncut(answer: _Answer) -> _Answer:
    if isinstance(answer, NotSent) and answer.is_held_back:
        raise CallCutError(answer.reason)
    return answer
