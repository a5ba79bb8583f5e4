"""What the command, the workflows and the workers tell each other: frozen values that ``payloads`` writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from batch.model import HandedOver, Limits, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.errors import EndReason
    from batch.model import Clone, Intent, State

Line: TypeAlias = Record | HandedOver
"""What a page writes; the command copies it into the manifest."""


@dataclass(frozen=True, slots=True)
class Submit:
    """A POST to be made by a worker."""

    clone: Clone
    job_uuid: str
    not_after: float
    """Seconds after the worker took it up: with the gate behind it later than that it must not be sent."""
    dead: tuple[str, ...] = ()
    """Names of sessions that are known to have ended: their worker logs in again first."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question about a job or resource uuid."""

    uuid: str
    dead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Give:
    """A hand-over: the accounts a resource is shared with, or the one that owns it from now on."""

    uuid: str
    accounts: tuple[str, ...]
    dead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a run ends early."""

    text: str
    reason: EndReason | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker has to say of a call."""

    answer: object = None
    """One of ``batch.zstack.answers``; None if a hand-over was done."""
    session: str = ""
    """Name of the session that the call was made with."""
    ending: Ending | None = None
    """Where the worker cannot log in again."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a worker knows that a command must know before it starts a run."""

    rate: float
    """Calls per second that all workers of the endpoint make together."""
    version: tuple[int, int, int] | None
    """The server's; None if it did not say."""
    keys: tuple[str, ...] = ()
    """Names of the keys that the worker has for payloads; the first encrypts."""


@dataclass(frozen=True, slots=True)
class Page:
    """Up to 200 clones of a run, and what the manifest says of them."""

    parent: str
    """The parent's workflow id."""
    number: int
    job: str
    run: str
    clones: tuple[Clone, ...]
    """Without ``params``, which are in the body."""
    intents: tuple[Intent, ...] = ()
    """Of the open ones, among them targets that left the job file."""
    made: Mapping[str, str] = field(default_factory=dict)
    """By key: the uuid of clones that are made already and wait for their hand-over only."""
    lost: tuple[str, ...] = ()
    """Keys that may have been sent before, though nothing on record is open."""
    limits: Limits = field(default_factory=Limits)
    at_most_once: bool = False
    is_cut_off: bool = False
    is_repaired: bool = False
    was_sent: bool = False
    api_timeout: float = 0.0
    outside: tuple[Clone, ...] = ()
    """Open ones that the run's part of the job file leaves out, without ``params``: asked about, never sent."""


@dataclass(frozen=True, slots=True)
class Orders:
    """A page may begin."""

    places: int
    """Clones that it may have in flight."""
    is_honoured: bool
    """Whether the server is known to honour resourceUuid."""
    deadline: float | None = None
    """Seconds that are left of the run."""


@dataclass(frozen=True, slots=True)
class Report:
    """How far a page is."""

    page: int
    states: Mapping[State, int] = field(default_factory=dict)
    left: int = 0
    """Clones that are not settled."""
    is_honoured: bool = False
    is_over: bool = False
    """Whether nothing more happens in it."""
    is_closed: bool = False
    """Whether the command has read all its lines."""
    ending: Ending | None = None
    """Why it ended early."""


@dataclass(frozen=True, slots=True)
class Lines:
    """A page's lines from a cursor on."""

    lines: tuple[Line, ...]
    is_over: bool
    calls: int
    """Calls that the page had made so far."""


@dataclass(frozen=True, slots=True)
class Part:
    """The pages of one wave."""

    wave: int
    """Its number, from 1."""
    pages: int
    is_new: bool = False
    """Whether the waves before it are judged first: nothing of it was begun."""


@dataclass(slots=True)
class Course:
    """A run as its parent workflow has it, and changes it; its next history begins with it."""

    start: str
    """Name of this start of the run; the ids of its pages hold it."""
    digest: str
    """Of the plan."""
    parts: tuple[Part, ...]
    limits: Limits
    settled: Mapping[State, int] = field(default_factory=dict)
    """Targets that were settled before the run began or are of closed pages, by state."""
    at_most_once: bool = False
    is_honoured: bool = False
    turn: int = 250
    """Pages after which the parent goes on with a new history."""
    next_page: int = 0
    open: dict[int, Report] = field(default_factory=dict)
    """By number: pages that have begun and are not closed."""
    is_loaded: bool = False
    """Whether all pages were made."""
    ends_at: float | None = None
    """When the deadline is, seconds since the epoch."""
    ending: Ending | None = None
    stopped_pages: int = 0
    """How many pages that never began were told to end."""

    @property
    def pages(self) -> int:
        """How many there are."""
        return sum(part.pages for part in self.parts)


@dataclass(frozen=True, slots=True)
class Progress:
    """What the parent tells the command."""

    start: str
    is_loaded: bool
    open: tuple[int, ...]
    """Pages that have begun and are not closed."""
    is_done: bool
    ending: Ending | None = None
