"""The steps of one Clone's protocol and what they carry; ``decisions`` says which one follows, ``settle`` does them.

Send -> Poll -> End, and through Look wherever an answer leaves open whether the clone was made. R, the resource
uuid, is the same in every step; J, the job uuid, changes only after a definite end of the old one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from batch.model import State
    from batch.zstack.answers import ApiError, Service


class Why(StrEnum):
    """Why the resource is looked for."""

    LOST = "lost"
    """The POST had no answer and its job is not known."""
    ENDED = "ended"
    """The job failed: a definite end."""
    OVERDUE = "overdue"
    """The job did not end in time."""
    EMPTY = "empty"
    """The job succeeded without showing what it made."""


class Ticket(NamedTuple):
    """One attempt, as its durable record has it."""

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
    instead_of: Ticket | None = None
    """The one under the same attempt whose job the server knew, and ended for its dead session."""


class Send(NamedTuple):
    """Record and POST. ``job_uuid`` is the old J where that had no definite end, None for a new one."""

    attempt: int
    job_uuid: str | None = None
    first_sent_at: float | None = None
    otherwise: End | None = None
    """What the Clone settles as when its time is up; None for a first attempt."""
    is_after_silence: bool = False
    """Whether the last POST went unanswered."""
    instead_of: Ticket | None = None
    """As in the Ticket that this makes."""


@dataclass(frozen=True, slots=True)
class Resend:
    """POST again under the record already written: no byte of the last try left."""

    ticket: Ticket
    failures: int


class Poll(NamedTuple):
    """Ask the job."""

    ticket: Ticket
    polls: int = 0
    misses: int = 0
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
class Renew:
    """Log in again, then send the same attempt under a new J: the server executed nothing."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Abort:
    """No request of this run can succeed; this one was not executed."""

    ticket: Ticket
    error: ApiError


class End(NamedTuple):
    """Settled."""

    state: State
    attempt: int
    service: Service | None = None
    adopted: bool = False
    code: str | None = None
    text: str | None = None


Doing: TypeAlias = Send | Resend | Poll | Look | Renew | Abort
"""Steps after which there is another."""
Step: TypeAlias = Doing | End
