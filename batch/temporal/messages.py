"""Messages between command, workflows and workers: frozen values that ``payloads`` serialises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from batch.model import HandOverRecord, Limits, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.errors import EndReason
    from batch.model import Clone, Intent, State


@dataclass(frozen=True, slots=True)
class TriedLine:
    """A page is about to give a clone to an owner, or the server may still do so after an error."""

    of: HandOverRecord
    is_unexecuted: bool = False


PageLine: TypeAlias = Record | HandOverRecord | TriedLine
"""A line recorded by a page, which the command copies into the manifest."""


@dataclass(frozen=True, slots=True)
class Submit:
    """A POST for a worker to send."""

    clone: Clone
    job_uuid: str
    not_after: float
    """Seconds from the start of the activity after which it must no longer be sent."""
    dead: tuple[str, ...] = ()
    """Names of ended sessions; a worker that has one of them logs in again first."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A query about a job or resource uuid."""

    uuid: str
    dead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Give:
    """A hand-over: the accounts to share a resource with, or its new owner."""

    uuid: str
    accounts: tuple[str, ...]
    dead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """Reason why a run ends early."""

    text: str
    reason: EndReason | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A worker's reply to a call."""

    answer: object = None
    """An answer of ``batch.zstack.answers``; None for a successful hand-over."""
    session: str = ""
    """Name of the session that the call used."""
    ending: Ending | None = None
    """Set if the worker cannot log in again."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts known to a worker that a command needs before it starts a run."""

    rate: float
    """Rate of all workers of the endpoint together, in calls per second."""
    version: tuple[int, int, int] | None
    """Version of the server; None if it did not report it."""
    keys: tuple[str, ...] = ()
    """Names of the worker's payload keys; the first encrypts."""


@dataclass(frozen=True, slots=True)
class Page:
    """Up to 200 clones of a run, with their state in the manifest."""

    parent: str
    """Workflow id of the parent."""
    number: int
    job: str
    run: str
    clones: tuple[Clone, ...]
    """Clones to send, without ``params``, which are in the body."""
    intents: tuple[Intent, ...] = ()
    """Intents of open targets, including ones that left the job file."""
    made: Mapping[str, str] = field(default_factory=dict)
    """Uuids of finished clones that only wait for their hand-over, by key."""
    lost: tuple[str, ...] = ()
    """Keys without open attempts that may have been sent before."""
    limits: Limits = field(default_factory=Limits)
    at_most_once: bool = False
    is_cut_off: bool = False
    is_repaired: bool = False
    was_sent: bool = False
    api_timeout: float = 0.0
    repeated: tuple[str, ...] = ()
    """Keys without open attempts that processes without --at-most-once sent."""
    outside: tuple[Clone, ...] = ()
    """Open clones outside the run's part of the job file, without ``params``: queried but never sent."""
    tried: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    """By key and owner the first and the last try of a hand-over without a known end."""


@dataclass(frozen=True, slots=True)
class Orders:
    """Permission for a page to start, with its limits."""

    places: int
    """Maximum number of its clones in flight."""
    is_honoured: bool
    """Whether the server is known to honour resourceUuid."""
    deadline: float | None = None
    """Seconds left of the run."""


@dataclass(frozen=True, slots=True)
class Report:
    """Progress of a page."""

    page: int
    states: Mapping[State, int] = field(default_factory=dict)
    left: int = 0
    """Number of clones that are not settled."""
    is_honoured: bool = False
    is_over: bool = False
    """Whether it has finished."""
    is_closed: bool = False
    """Whether the command has copied all its lines."""
    ending: Ending | None = None
    """Reason why it ended early."""


@dataclass(frozen=True, slots=True)
class Lines:
    """A page's lines from a cursor."""

    lines: tuple[PageLine, ...]
    is_over: bool
    calls: int
    """Number of calls that the page has made."""


@dataclass(frozen=True, slots=True)
class Part:
    """The pages of one wave."""

    wave: int
    """Number of the wave, from 1."""
    pages: int
    is_new: bool = False
    """Whether nothing of it has started, so that the earlier waves are judged first."""


@dataclass(slots=True)
class Course:
    """State of a run in its parent workflow, carried over by continue-as-new."""

    start: str
    """Name of this start of the run, part of the ids of its pages."""
    digest: str
    """Of the plan."""
    parts: tuple[Part, ...]
    limits: Limits
    settled: Mapping[State, int] = field(default_factory=dict)
    """Number of targets settled before the start or in closed pages, by state."""
    at_most_once: bool = False
    is_honoured: bool = False
    turn: int = 250
    """Number of pages after which the parent continues as new."""
    next_page: int = 0
    open: dict[int, Report] = field(default_factory=dict)
    """Reports of pages that have started and are not closed, by number."""
    is_loaded: bool = False
    """Whether all pages were created."""
    ends_at: float | None = None
    """Deadline, seconds since the epoch."""
    ending: Ending | None = None
    stopped_pages: int = 0
    """Number of pages that were ended without having started."""

    @property
    def pages(self) -> int:
        """Number of pages."""
        return sum(part.pages for part in self.parts)


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress that the parent reports to the command."""

    start: str
    is_loaded: bool
    open: tuple[int, ...]
    """Pages that have started and are not closed."""
    is_done: bool
    ending: Ending | None = None
