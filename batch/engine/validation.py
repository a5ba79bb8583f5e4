"""Checks every clone on the server without making it; the first alone, as a server that ignores the tag would clone.

With the system tag ``ephemeral::validationOnly`` a message passes every check and is not executed, and its job ends as
``{}`` (zstack/README.md 5). Every request has a resource uuid of its own that no run ever uses, so that a clone made by
mistake can be found and deleted, and no target's own uuid is used up.

These uuids are derived, so that repeating the check finds such a clone instead of making a second. Nothing is
journalled.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.engine.dispatch import dispatch
from batch.errors import RunStoppedError
from batch.zstack.answers import (
    Absent,
    Accepted,
    Done,
    Duplicate,
    ErrorClass,
    Found,
    NoAnswer,
    Refused,
    Unknown,
    poll_to_end,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch.clock import Clock
    from batch.engine.ports import Api
    from batch.model import Clone
    from batch.zstack.answers import ApiError, NotSent, SubmitAnswer

_TRIES: Final = 4
_BACK_OFF: Final = 1.0
_POLL_FIRST: Final = 0.2
_POLL_LAST: Final = 5.0
_POLL_TIME: Final = 300.0
"""Seconds after which a job that only checks is given up; the checks themselves take milliseconds."""


class CheckOutcome(StrEnum):
    """Result of the check of one clone."""

    OK = "ok"
    REFUSED = "refused"
    UNCLEAR = "unclear"
    """No usable answer."""


class CheckResult(NamedTuple):
    """The outcome and, unless it is ok, ZStack's code, its message and a hint."""

    outcome: CheckOutcome
    code: str | None = None
    error: str | None = None
    hint: str | None = None


class UnexpectedCloneError(Exception):
    """The server made a model service although the request was only a check."""

    def __init__(self, key: str, uuid: str) -> None:
        """Name the target by ``key`` and the model service that was made by ``uuid``."""
        super().__init__(uuid)
        self.key = key
        self.uuid = uuid


async def check_all(
    requests: Iterator[Clone], report: Callable[[Clone, CheckResult], None], *, api: Api, clock: Clock, workers: int
) -> None:
    """Check every request, which carries the tag and a uuid of its own, and report each result.

    Until one was ok and its resource verified to be absent, requests go one by one. Raises UnexpectedCloneError at the
    first clone made, RunStoppedError where it is unknown whether one was made, or no request can succeed.
    """
    check = _Check(api, clock)
    for request in requests:
        verdict = await check.ask(request)
        report(request, verdict)
        if verdict.outcome is CheckOutcome.UNCLEAR:
            raise RunStoppedError(f"server check of {request.key}: {verdict.error}: nothing more was sent")
        if verdict.outcome is CheckOutcome.OK:
            await check.require_absent(request)
            break

    async def ask(request: Clone) -> None:
        report(request, await check.ask(request))

    await dispatch(requests, ask, workers=workers, is_stopped=lambda: False)


class _Check:
    """Checks one request after another, each repeated under the same resource uuid until its answer is clear."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self._api = api
        self._clock = clock

    async def ask(self, request: Clone) -> CheckResult:
        verdict = CheckResult(CheckOutcome.UNCLEAR)
        for number in range(_TRIES):
            await self._back_off(number)
            answer = await self._await_end(request)
            if isinstance(answer, Done):
                if answer.service is not None:
                    raise UnexpectedCloneError(request.key, answer.service.uuid)
                return CheckResult(CheckOutcome.OK)
            if not isinstance(answer, Refused):
                await self.require_absent(request)
                verdict = CheckResult(CheckOutcome.UNCLEAR, error=getattr(answer, "reason", "its job is unknown"))
                continue
            verdict = _refusal(answer.error)
            if not await self._may_repeat(request, answer.error, number):
                break
        return verdict

    async def _may_repeat(self, request: Clone, error: ApiError, number: int) -> bool:
        if error.error_class is ErrorClass.FATAL:
            raise RunStoppedError(f"server check of {request.key}: {error}")
        if error.error_class is ErrorClass.RENEW:
            await self._api.renew()
            return True
        if error.error_class is ErrorClass.AMBIGUOUS:
            await self.require_absent(request)
        return error.error_class is not ErrorClass.PERMANENT and (error.retries is None or number < error.retries)

    async def require_absent(self, request: Clone) -> None:
        """Raise UnexpectedCloneError where the request's resource exists, RunStoppedError where that is unknown."""
        answer = await self._api.find(request.resource_uuid)
        for number in range(1, _TRIES):
            if isinstance(answer, Absent | Found):
                break
            await self._back_off(number)
            answer = await self._api.find(request.resource_uuid)
        if isinstance(answer, Found):
            raise UnexpectedCloneError(request.key, request.resource_uuid)
        if not isinstance(answer, Absent):
            raise RunStoppedError(
                f"server check of {request.key}: it is unknown whether the server made {request.resource_uuid}: "
                "look for it and delete it"
            )

    async def _await_end(self, request: Clone) -> Done | Refused | NotSent | NoAnswer | Unknown:
        job = self._clock.uuid()
        answer: SubmitAnswer = await self._api.submit(request, job)
        if not isinstance(answer, Accepted | Duplicate | NoAnswer):
            return answer
        polled = await poll_to_end(
            lambda: self._api.poll(job),
            self._clock,
            seconds=_POLL_TIME,
            first=_POLL_FIRST,
            last=_POLL_LAST,
            misses=1,
        )
        return polled if isinstance(polled, Done | Refused | Unknown) else NoAnswer("its job did not end in time")

    async def _back_off(self, number: int) -> None:
        if number:
            await asyncio.sleep(_BACK_OFF * 2.0 ** (number - 1) * (0.5 + self._clock.random() / 2))


def _refusal(error: ApiError) -> CheckResult:
    return CheckResult(CheckOutcome.REFUSED, error.code, error.text, error.hint or None)
