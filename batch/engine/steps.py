"""The steps of one Clone's protocol and their data; ``decisions`` chooses the next step, ``settle`` executes it.

Send -> Poll -> End, with Look wherever an answer leaves open whether the clone was made. The resource uuid is the same
in every step. The job uuid changes with each attempt; those without a definite end are kept as open jobs, and a Clone
fails only once every one of them has ended and a last look shows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from batch.model import State
    from batch.zstack.answers import ApiError, Service

RESOURCE_UUID: Final = "ZCLONE.RESOURCE_UUID"
"""Error code: the server does not honour resourceUuid."""


class LookReason(StrEnum):
    """Why a look at the resource is needed."""

    GIVEN = "given"
    """Its uuid is the user's own and nothing was sent yet: a service that has it is not ours."""
    LOST = "lost"
    """The POST had no answer and its job is unknown."""
    ENDED = "ended"
    """The job failed: a definite end."""
    STOPPED = "stopped"
    """The job failed with an error that stops the whole run."""
    OVERDUE = "overdue"
    """The job did not end in time."""
    FORGOTTEN = "forgotten"
    """The job did not end in time, and the server, which once knew it, no longer does."""
    EMPTY = "empty"
    """The job succeeded without showing what it made."""


class Ticket(NamedTuple):
    """One attempt, as its durable record describes it. Times in seconds since the epoch."""

    attempt: int
    job_uuid: str
    sent_at: float
    first_sent_at: float
    deadline: float
    is_answered: bool = False
    """Whether the server ever confirmed that it knows the job."""
    is_resumed: bool = False
    """Whether an earlier process sent it."""
    is_reopened: bool = False
    """Whether an earlier process left it uncertain."""
    open_jobs: tuple[str, ...] = ()
    """Job uuids of earlier attempts without a definite end."""
    is_unexecuted: bool = False
    """Whether an earlier process recorded that the job ended without being executed."""
    is_repeat: bool = False
    """Whether the job uuid was sent twice, so that an answer to one POST, or one end, says nothing about the other."""
    has_repeats: bool = False
    """Whether the job uuid of any open job was sent twice."""
    is_mixed: bool = False
    """Whether an open job was sent with another body, so that a visible clone cannot be compared with this one."""
    has_predecessor: bool = False
    """Whether an attempt that is not among the open jobs, or lost lines may have recorded, may have made the clone."""
    unexecuted_jobs: tuple[str, ...] = ()
    """Those of the open jobs that did not make the clone: they were not executed, or found its uuid in use."""
    has_sent_line: bool = True
    """Whether a line of the manifest shows that it was sent; otherwise it was on lost lines."""
    api_timeout: float | None = None
    """The longest apiTimeout that the server reported for one of the jobs, in seconds; None where it reported none."""
    has_unanswered: bool = False
    """Whether an attempt before this one got no answer, neither from its POST nor about its job."""
    is_taken: bool = False
    """Whether a job found the resource uuid in use."""
    was_repeated: bool = False
    """Whether earlier processes without --at-most-once sent more than one POST."""
    uncharged: int = 0
    """Consecutive POSTs that charged no attempt."""


class Send(NamedTuple):
    """Record and POST.

    ``job_uuid`` is the old one where that had no definite end, None for a new one.
    """

    attempt: int
    job_uuid: str | None = None
    first_sent_at: float | None = None
    fallback: Step | None = None
    """The step that follows when the Clone's time is up or it cannot be sent; None for the first POST."""
    is_after_silence: bool = False
    """Whether the last POST went unanswered."""
    open_jobs: tuple[str, ...] = ()
    needs_confirmation: bool = False
    """Whether an earlier POST may have been executed: sent only to a server that honours resourceUuid."""
    is_mixed: bool = False
    has_predecessor: bool = False
    unexecuted_jobs: tuple[str, ...] = ()
    is_last_unexecuted: bool = False
    """Whether the attempt before this one was not executed, which is recorded first."""
    has_unanswered: bool = False
    """Whether an attempt before this one got no answer, neither from its POST nor about its job."""
    is_taken: bool = False
    uncharged: int = 0
    has_repeats: bool = False
    api_timeout: float | None = None
    expires_at: float | None = None
    """When the server can no longer execute the earlier POSTs, in seconds since the epoch."""

    @property
    def is_retry(self) -> bool:
        """Whether it charges another attempt."""
        return self.fallback is not None and not self.uncharged


@dataclass(frozen=True, slots=True)
class Resend:
    """POST again under the record already written: the last try never reached the server."""

    ticket: Ticket
    failures: int
    is_limited: bool = False
    """Whether the server's own rate limiter refused it, or a pause held it back: nothing is charged."""


class Poll(NamedTuple):
    """Query the api job."""

    ticket: Ticket
    polls: int = 0
    misses: int = 0
    """Consecutive 404 answers."""
    error: ApiError | None = None
    """The error of the POST, where that left open whether it executed."""
    at_once: bool = False
    was_visible: bool = False
    """Whether the resource was visible after the deadline or after a 404: the job is polled a last time."""


@dataclass(frozen=True, slots=True)
class Look:
    """Query the resource."""

    ticket: Ticket
    reason: LookReason
    error: ApiError | None = None
    looks: int = 0
    failed_looks: int = 0
    was_visible: bool = False
    """Whether it was visible before and the job was polled since, or several polls found no job."""
    is_reviewed: bool = False
    """Whether it was visible before, and the jobs of earlier attempts were polled since."""


@dataclass(frozen=True, slots=True)
class Review:
    """Poll the jobs of earlier attempts, one after the other, before the Clone may settle; then look once more."""

    look: Look
    pending: tuple[str, ...]
    open: tuple[str, ...] = ()
    """Jobs polled so far that had no definite end."""
    is_visible: bool = False
    """Whether the resource is visible: then only a running job is open, as the server may still delete the resource."""
    is_last: bool = False
    """Whether no later process would send again."""
    misses: int = 0
    """Consecutive 404 answers about the first of ``pending``."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Log in again, then send the same attempt under a new job uuid: the server executed nothing."""

    ticket: Ticket
    error: ApiError
    is_unsent: bool = False
    """Whether the error is the POST's own answer, and not the end of its job."""


@dataclass(frozen=True, slots=True)
class Abort:
    """End the run: none of its requests can succeed."""

    ticket: Ticket
    error: ApiError
    is_unsent: bool = False
    """Whether the error is the POST's own answer and proves that nothing was executed."""
    is_job_over: bool = False
    """Whether the job ended with the error, not executed. Without either of the two the attempt stays as it is
    recorded."""


class End(NamedTuple):
    """End of a Clone's protocol."""

    state: State
    attempt: int
    service: Service | None = None
    adopted: bool = False
    code: str | None = None
    text: str | None = None
    made_elsewhere: bool = False
    """Whether the clone existed before this manifest recorded an attempt to make it."""
    is_unanswered: bool = False
    """Whether an attempt of a Clone that failed got no answer."""
    is_in_use: bool = False
    """Whether a job of an uncertain Clone found the resource uuid in use."""
    job_uuid: str | None = None
    """The job of an uncertain Clone, or an earlier attempt's that made the clone."""
    open_jobs: tuple[str, ...] = ()
    """Other open jobs of an uncertain Clone."""
    until: float | None = None
    """When an uncertain Clone waits for the operator: once the server can no longer execute the last POST, and no later
    process would send again. Seconds since the epoch."""
    is_unconfirmed: bool = False
    """Whether ``until`` holds only while it is not known that the server honours resourceUuid."""


ActiveStep: TypeAlias = Send | Resend | Poll | Look | Review | Renew | Abort
"""Steps that another one follows."""
Step: TypeAlias = ActiveStep | End
