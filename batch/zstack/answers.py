"""ZStack's answers as values: the client creates them, the engine decides on them; and the polls of one job to its end.

Source: zstack/README.md 1, 6 and 10; a 503 without a JSON error is a proxy's and never a job's result, a 404 at the
poll has three meanings and never means "not executed".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from batch.errors import IN_USE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from batch.clock import Clock
    from batch.model import JsonValue

MISSES: Final = 3
"""Consecutive 404 answers that end the wait: another node of the server may lag behind."""
_GROWTH: Final = 1.5


class ErrorClass(StrEnum):
    """Meaning of an error for the target and the run."""

    PERMANENT = "permanent"
    """The same request will fail again; nothing was executed."""
    FATAL = "fatal"
    """No request of this run can succeed: credentials, licence, clock, wrong server."""
    RENEW = "renew"
    """The session ended; not executed; log in again, new job uuid, no attempt charged."""
    TRANSIENT = "transient"
    """Not executed; retry with backoff."""
    NODE = "node"
    """Not executed; the management node starts, stops or is not ready: all POSTs wait, and no attempt is charged."""
    AMBIGUOUS = "ambiguous"
    """May have been executed: look for the resource uuid first."""


@dataclass(frozen=True, slots=True)
class ApiError:
    """A refusal or failure with ZStack's text, classified."""

    error_class: ErrorClass
    code: str
    """ZStack's code such as SYS.1006, or HTTP.<status> where the server gave none."""
    text: str
    """description, details and causes, control characters escaped, at most 2,048 characters."""
    retries: int | None = None
    """How often a target may be retried after it; None: as often as its attempts allow."""
    hint: str = ""
    """One line: what the operator can do; ``classify.hint_of`` derives it for errors on record."""
    may_go_on: bool = False
    """Whether the server may still be executing the request after it answered with this."""
    may_have_run: bool = False
    """Whether a cause below a ``FATAL`` error leaves open whether this request was executed."""
    has_cause_in_use: bool = False
    """Whether a cause has the code of a uuid in use."""

    @property
    def is_in_use(self) -> bool:
        """Whether the request found its uuid in use, so that it did not make what has it (zstack/README.md 4)."""
        return self.has_cause_in_use or self.code == IN_USE

    def __str__(self) -> str:
        """Return code, text and hint as one line."""
        return f"{self.code}: {self.text} ({self.hint})" if self.hint else f"{self.code}: {self.text}"


@dataclass(frozen=True, slots=True)
class Service:
    """A model service as the server shows it."""

    uuid: str
    name: str | None
    fields: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Accepted:
    """202 to the POST."""

    api_timeout: float | None
    """Seconds; None where the answer has none."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """400 "Duplicate job uuid": proof that this job uuid was accepted before."""


@dataclass(frozen=True, slots=True)
class Done:
    """The job succeeded. ``service`` is None where the answer had no inventory."""

    service: Service | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The request or its job failed, with ZStack's error."""

    error: ApiError


@dataclass(frozen=True, slots=True)
class NotSent:
    """Certainly not executed: no byte was sent (DNS, refused, TLS), or the server's limiter refused it; repeatable."""

    reason: str
    is_held_back: bool = False
    """The wait at the gate was cut because the run is stopping; says nothing about the server."""
    is_over_limit: bool = False
    """The server's own rate limiter refused it."""


NOT_ADMITTED: Final = NotSent("the run is stopping", is_held_back=True)
"""Result of a call whose wait, at the gate or for the server, was cut."""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No usable answer: reset, timeout, proxy page, bad body, a proxy's 429. A POST may have been executed."""

    reason: str
    retry_after: float | None = None
    """Seconds after which the server or proxy asks to retry; None where it does not."""
    is_push_back: bool = False
    """The server asked to retry later, or did not answer in time: fewer clones in flight might help."""


@dataclass(frozen=True, slots=True)
class Running:
    """202 at the poll: the row exists and is not done. Also a row left by a crashed node, which never changes."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """404 at the poll: never accepted, purged, or its row was lost though it was executed."""


@dataclass(frozen=True, slots=True)
class Found:
    """The resource uuid is visible."""

    service: Service


@dataclass(frozen=True, slots=True)
class Absent:
    """The resource uuid is not visible to this account."""


SubmitAnswer: TypeAlias = Accepted | Duplicate | Done | Refused | NotSent | NoAnswer
PollAnswer: TypeAlias = Running | Done | Refused | Unknown | NotSent | NoAnswer
FindAnswer: TypeAlias = Found | Absent | Refused | NotSent | NoAnswer


def may_go_on(answer: object) -> bool:
    """Return whether the server may still execute the request that has this answer."""
    if isinstance(answer, Refused):
        return answer.error.may_go_on or answer.error.may_have_run
    return isinstance(answer, NoAnswer | Running)


def is_cut(answer: object) -> bool:
    """Return whether a call was not made because its wait at the gate was cut."""
    return isinstance(answer, NotSent) and answer.is_held_back


def is_over_limit(answer: object) -> bool:
    """Return whether the server's own rate limiter refused the call."""
    return isinstance(answer, NotSent) and answer.is_over_limit


async def poll_to_end(
    poll: Callable[[], Awaitable[PollAnswer]],
    clock: Clock,
    *,
    seconds: float,
    first: float = 1.0,
    last: float = 15.0,
    misses: int = MISSES,
) -> PollAnswer:
    """Poll at intervals that grow from ``first`` to ``last`` seconds until the job ended; return the last answer.

    It is not an end where ``seconds`` have passed or the job was unknown ``misses`` times.
    """
    ends, pause, missed = clock.monotonic() + seconds, first, 0
    answer: PollAnswer = NoAnswer("its job did not end in time")
    while clock.monotonic() < ends and missed < misses:
        await clock.sleep(pause)
        pause = min(pause * _GROWTH, last)
        answer = await poll()
        if isinstance(answer, Done | Refused):
            break
        missed += isinstance(answer, Unknown)
    return answer
