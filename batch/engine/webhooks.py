"""Web hooks: the server's reports of ended jobs, and when one counts as the answer to a poll.

Anyone who knows the listener's path can send anything. A success counts where it names a job of this process that has
no answer yet and shows exactly the requested uuid; it then replaces the poll's answer and is recorded like it. A
failure triggers a poll, which queries the server itself. A missing web hook only delays the poll.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import structlog

from batch.engine.poll_schedule import HOOK_DOUBTFUL, HOOK_DUE
from batch.zstack.answers import Done, Refused, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from batch.engine.poll_schedule import PollSchedule
    from batch.zstack.answers import NoAnswer, PollAnswer

_MISSED_IN_A_ROW: Final = 3
"""Consecutive ends reported by polls alone after which web hooks are no longer awaited."""
_MAX_REMEMBERED: Final = 65536

_log = structlog.get_logger()


class HookVerdict(StrEnum):
    """Effect of a received web hook."""

    ANSWER = "answer"
    """It is the answer to a poll of its job."""
    POLL = "poll"
    """Its job is polled at once."""
    IGNORED = "ignored"


def judge_hook(hook: Done | NoAnswer, resource_uuid: str) -> HookVerdict:
    """Decide on a web hook of a job that was to make ``resource_uuid``; for a failure it shows no service."""
    match hook:
        case Done(Service(uuid)) if uuid == resource_uuid:
            return HookVerdict.ANSWER
        case Done(None):
            return HookVerdict.POLL
    return HookVerdict.IGNORED


@dataclass(slots=True, eq=False)
class HookedJob:
    """One job uuid that was sent with the URL of a web hook."""

    resource_uuid: str
    hook_answer: asyncio.Future[Done]
    """The answer, once a web hook delivers it."""
    is_urgent: bool = False
    """Whether a web hook reported its end, and no poll was made since."""
    has_hook: bool = False
    """Whether any web hook of it arrived."""
    has_known_end: bool = False
    """Whether its end is known."""

    async def first_answer(self, poll: Callable[[], Coroutine[None, None, PollAnswer]]) -> tuple[PollAnswer, bool]:
        """Return the first answer of the web hook and ``poll``, and whether it is the web hook's.

        The slower poll is cancelled and awaited; ``poll`` may raise by itself.
        """
        if self.hook_answer.done():
            return self.hook_answer.result(), True
        polled = asyncio.ensure_future(poll())
        either: set[asyncio.Future[Any]] = {self.hook_answer, polled}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not polled.done():
                polled.cancel()
                await asyncio.wait({polled})
        if self.hook_answer.done() and not _has_end(polled):
            return self.hook_answer.result(), True
        return polled.result(), False


def _has_end(polled: asyncio.Future[PollAnswer]) -> bool:
    return not polled.cancelled() and polled.exception() is None and isinstance(polled.result(), Done | Refused)


class WebHooks:
    """The jobs of one process whose ends the server reports."""

    def __init__(self, polls: PollSchedule) -> None:
        """Start to await web hooks: tell ``polls`` which polls may be delayed, and which are due."""
        self._polls = polls
        self._jobs: dict[str, HookedJob] = {}
        self._missed = 0
        self._has_warned = False
        polls.set_hook_chance(HOOK_DUE)

    def expect(self, job_uuid: str, resource_uuid: str) -> None:
        """Register a job whose recorded POST is about to be sent."""
        job = self._jobs.get(job_uuid)
        if job is not None:
            job.has_known_end = False
            return
        self._jobs[job_uuid] = HookedJob(resource_uuid, asyncio.get_running_loop().create_future())
        if len(self._jobs) > _MAX_REMEMBERED:
            del self._jobs[next(iter(self._jobs))]

    def end(self, job: HookedJob) -> None:
        """Record that the end of a job is known, by its web hook or by a poll."""
        job.has_known_end = True
        if job.has_hook:
            return
        self._missed += 1
        self._polls.set_hook_chance(HOOK_DOUBTFUL if self._missed < _MISSED_IN_A_ROW else None)
        if self._missed == _MISSED_IN_A_ROW and not self._has_warned:
            self._has_warned = True
            hint = "jobs are polled: can the server reach --webhook-listen, or --webhook-url?"
            _log.warning("webhook.missing", jobs=self._missed, hint=hint)

    def find_open_job(self, job_uuid: str) -> HookedJob | None:
        """Return the job where a web hook may still deliver its answer."""
        job = self._jobs.get(job_uuid)
        return None if job is None or job.has_known_end else job

    def knows(self, job_uuid: str) -> bool:
        """Return whether a web hook of that job should be read."""
        return job_uuid in self._jobs

    def receive(self, job_uuid: str, hook: Done | NoAnswer) -> HookVerdict:
        """Process a web hook; return its effect."""
        job = self._jobs.get(job_uuid)
        verdict = HookVerdict.IGNORED if job is None else judge_hook(hook, job.resource_uuid)
        if job is None or not isinstance(hook, Done) or verdict is HookVerdict.IGNORED:
            return HookVerdict.IGNORED
        # A web hook that arrives after the poll also shows that web hooks work.
        self._missed, job.has_hook = 0, True
        self._polls.set_hook_chance(HOOK_DUE)
        if job.has_known_end or job.hook_answer.done():
            return HookVerdict.IGNORED
        if verdict is HookVerdict.ANSWER:
            job.hook_answer.set_result(hook)
        else:
            job.is_urgent = not self._polls.make_due(job_uuid)
        return verdict
