"""The steps of one Clone's protocol and what they carry; ``decisions`` says which one follows, ``settle`` does them.

Send -> Poll -> End, and through Look wherever an answer leaves open whether the clone was made. The resource uuid is
the same in every step. The job uuid changes with each attempt; those that had no definite end are kept as open jobs,
and a Clone fails only once every one of them has ended and a last look shows nothing.
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


class Why(StrEnum):
    """Why the resource is looked for."""

    GIVEN = "given"
    """Its uuid is the user's own and nothing was sent yet: whatever has it is not ours."""
    LOST = "lost"
    """The POST had no answer and its job is not known."""
    ENDED = "ended"
    """The job failed: a definite end."""
    STOPPED = "stopped"
    """The job failed with what stops the whole run."""
    OVERDUE = "overdue"
    """The job did not end in time."""
    FORGOTTEN = "forgotten"
    """The job did not end in time, and the server, which knew it once, knows it no more."""
    EMPTY = "empty"
    """The job succeeded without showing what it made."""


class Ticket(NamedTuple):
    """One attempt, as its durable record has it. Times in seconds since the epoch."""

    attempt: int
    job_uuid: str
    sent_at: float
    first_sent_at: float
    deadline: float
    answered: bool = False
    """Whether the server ever admitted to know the job."""
    resumed: bool = False
    """Whether an earlier process sent it."""
    reopened: bool = False
    """Whether an earlier process left it uncertain."""
    open_jobs: tuple[str, ...] = ()
    """Job uuids of earlier attempts that had no definite end."""
    is_repeat: bool = False
    """Whether the job uuid was sent twice, so that an answer to one POST, or one end, says nothing about the other."""
    has_repeats: bool = False
    """Whether that is so of any open job."""
    is_mixed: bool = False
    """Whether an open job was sent with another body, so that what is found cannot be compared with this one."""
    has_predecessor: bool = False
    """Whether the manifest knows of an earlier attempt, or lost lines that may have held one."""
    has_sent_line: bool = True
    """Whether a line of the manifest shows that it was sent; without one, lost lines may have held it."""
    api_timeout: float | None = None
    """The longest time that the server said it may work on one of the jobs, in seconds; None where it did not say."""
    free: int = 0
    """POSTs in a row that charged no attempt."""


class Send(NamedTuple):
    """Record and POST. ``job_uuid`` is the old one where that had no definite end, None for a new one."""

    attempt: int
    job_uuid: str | None = None
    first_sent_at: float | None = None
    otherwise: Step | None = None
    """What follows when the Clone's time is up or it cannot be sent; None for the first one."""
    is_after_silence: bool = False
    """Whether the last POST went unanswered."""
    open_jobs: tuple[str, ...] = ()
    needs_proof: bool = False
    """Whether something sent before may have been executed: sent only to a server that honours resourceUuid."""
    is_mixed: bool = False
    has_predecessor: bool = False
    free: int = 0
    has_repeats: bool = False
    api_timeout: float | None = None
    over_at: float | None = None
    """When the server can no longer execute what was sent before, in seconds since the epoch."""

    @property
    def is_retry(self) -> bool:
        """Whether it charges another attempt."""
        return self.otherwise is not None and not self.free


@dataclass(frozen=True, slots=True)
class Resend:
    """POST again under the record already written: no byte of the last try left."""

    ticket: Ticket
    failures: int
    is_limited: bool = False
    """Whether the server's own rate limiter refused it, or a pause held it back: nothing is charged."""


class Poll(NamedTuple):
    """Ask the job."""

    ticket: Ticket
    polls: int = 0
    misses: int = 0
    """404 answers in a row."""
    error: ApiError | None = None
    """What the POST itself was refused with, where that left open whether it ran."""
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """Ask for the resource."""

    ticket: Ticket
    why: Why
    error: ApiError | None = None
    looks: int = 0
    blind: int = 0


@dataclass(frozen=True, slots=True)
class Review:
    """Ask the jobs of earlier attempts, one after the other, before the Clone may fail; then look once more."""

    look: Look
    pending: tuple[str, ...]
    open: tuple[str, ...] = ()
    """Those asked so far that had no definite end."""
    is_last: bool = False
    """Whether no later process would send again."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Log in again, then send the same attempt under a new job uuid: the server executed nothing."""

    ticket: Ticket
    error: ApiError


@dataclass(frozen=True, slots=True)
class Abort:
    """No request of this run can succeed."""

    ticket: Ticket
    error: ApiError
    is_unsent: bool = False
    """Whether this is the POST's own answer and proves that nothing was executed."""
    is_job_over: bool = False
    """Whether the job ended with it, not executed. Without either of the two the attempt stays as it is on record."""


class End(NamedTuple):
    """Settled."""

    state: State
    attempt: int
    service: Service | None = None
    adopted: bool = False
    code: str | None = None
    text: str | None = None
    made_elsewhere: bool = False
    """Whether the clone existed before this manifest knew of an attempt to make it."""
    job_uuid: str | None = None
    open_jobs: tuple[str, ...] = ()
    """The uncertain ones' other open jobs."""
    until: float | None = None
    """When an uncertain one waits for the operator: once the server can no longer execute the last POST, and where no
    later process would send again. Seconds since the epoch."""
    is_unproven: bool = False
    """Whether ``until`` stands only as long as it is not known that the server honours resourceUuid."""


Doing: TypeAlias = Send | Resend | Poll | Look | Review | Renew | Abort
"""Steps after which there is another."""
Step: TypeAlias = Doing | End
