"""The nouns of zclone: frozen, slotted, standard library only. Times are seconds since the epoch, durations seconds.

A Target is a row of a job file, a Clone a planned request, a Record a line of the manifest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

QUARANTINED: Final = "ZCLONE.QUARANTINED"
"""Error code of an uncertain Clone that no run queries until the operator retries it."""
UNKNOWN_JOB: Final = "unknown"
"""Placeholder among a Clone's open jobs for job uuids that were lost with damaged lines of the manifest."""

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"


class State(StrEnum):
    """State of a Clone: planned -> sent -> accepted -> one of the settled ones."""

    PLANNED = "planned"
    SENT = "sent"
    ACCEPTED = "accepted"
    CLONED = "cloned"
    FAILED = "failed"
    UNCERTAIN = "uncertain"
    CONFLICT = "conflict"
    WITHDRAWN = "withdrawn"
    """Its target left the job file while it had no clone; once it is in the file again, it is planned again."""
    UNDONE = "undone"

    @property
    def is_final(self) -> bool:
        """Return whether the Clone's attempts have ended; a rerun repeats undone ones and queries uncertain ones."""
        return self in _FINAL


_FINAL = frozenset({State.CLONED, State.FAILED, State.CONFLICT, State.UNDONE})


class CallKind(StrEnum):
    """Purpose of a call to the server, as the Gate distinguishes them."""

    LOGIN = "login"
    CLONE = "clone"
    """A call that changes the server: the POST of a clone, the PUT or DELETE of one. Not made after a stop."""
    POLL = "poll"
    QUESTION = "question"
    """Any other call that reads or may be repeated: made after a stop within the grace period, like polls, logins."""
    LOGOUT = "logout"
    """The call that ends a session of our own: never waits."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in an input file; line and column count from 1."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One problem of an input, printed as ``file:line:column: path: message``."""

    place: Place
    path: str
    message: str
    kind: str = field(default="", compare=False)
    """Problems of one kind are shown as one, the first of them; empty: always shown."""

    def __str__(self) -> str:
        """Return the problem in compiler style, so that editors can open its place."""
        where = f"{self.place.file}:{self.place.line}:{self.place.column}"
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


@dataclass(frozen=True, slots=True)
class Wave:
    """Number of targets that run together; one of the two fields is set."""

    count: int = 0
    share: float = 0.0
    """Share of the plan's targets, above 0 and up to 1."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of what a run requests from the server."""

    rate: float = 10.0
    """Calls per second: submits, polls, queries and retries together."""
    concurrency: int = 8
    """Clones in flight on the server."""
    attempts: int = 4
    """POSTs per target, over all resumes."""
    timeout: float | None = None
    """Seconds per clone from its first POST; None: the server's apiTimeout plus one minute."""
    deadline: float | None = None
    """Seconds for the whole run; None: no deadline."""
    max_failures: float | None = None
    """How many settled clones may fail: a count when >= 1, a share of the settled ones below 1."""
    waves: tuple[Wave, ...] = ()
    """Waves in order; targets left after the last of them form one more wave. Empty: all targets at once."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """What is done with a clone once it exists: shares and a new owner."""

    owner: str | None = None
    """Account uuid of the new owner."""
    share_with: tuple[str, ...] = ()
    """Account uuids that the clone is shared with."""


class Clone(NamedTuple):
    """One planned request."""

    key: str
    source_uuid: str
    resource_uuid: str
    """The uuid that the clone is to have: 32 lower-case hex digits in the form of a v4 uuid."""
    body: bytes
    """The POST body, UTF-8 JSON, resourceUuid inside params."""
    digest: str
    """32 hex digits over source uuid and body, without the tag of the run."""
    params: Mapping[str, JsonValue] = MappingProxyType({})
    """The requested parameters, for comparison with what the server shows."""
    hand_over: HandOver | None = None
    """Not part of ``digest``: it may be corrected after the clone was made."""
    is_given: bool = False
    """Whether ``resource_uuid`` is the user's own and not derived."""


@dataclass(frozen=True, slots=True)
class Pins:
    """Values that a plan took from the server, kept so that a resumed run has the same plan if they change there."""

    sources: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    """The used fields of each source, by its uuid."""
    queries: Mapping[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    """The uuids that each ``query:`` returned, by its conditions as the job file writes them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The Clones of a job and run, streamed from the start at each call of ``clones``."""

    job: str
    run: str
    digest: str
    """32 hex digits over all (key, digest, hand-over), independent of the order of the rows."""
    count: int
    clones: Callable[[], Iterator[Clone]]
    inputs: str = ""
    """Digest of the bytes of every input file: while it is unchanged, a finished run has nothing left to do."""
    hand_overs: int = 0
    """Number of Clones that have a hand-over."""
    warnings: tuple[Problem, ...] = ()
    """Warnings of the job file's check."""
    shard: str = ""
    """``K/N`` where this is exactly that shard of a plan; empty for a whole plan and for other parts."""
    whole: str = ""
    """Digest of the whole plan of which this is a shard."""

    def listing(self) -> Iterator[tuple[str, str]]:
        """Yield key and source uuid of each Clone, in the order of ``clones``."""
        return ((clone.key, clone.source_uuid) for clone in self.clones())


class Record(NamedTuple):
    """One manifest line about one Clone; fields that do not apply are None. A NamedTuple, as it is cheap to make."""

    state: State
    key: str
    at: float
    attempt: int = 0
    source_uuid: str | None = None
    resource_uuid: str | None = None
    job_uuid: str | None = None
    """The X-Job-UUID of this attempt."""
    digest: str | None = None
    deadline: float | None = None
    """When polling of the job ends."""
    clone_uuid: str | None = None
    name: str | None = None
    adopted: bool | None = None
    """True when the clone was found by its uuid and not by its job's answer."""
    error_code: str | None = None
    error: str | None = None
    retried: bool | None = None
    """True: reopened by the operator: planned where it had failed, with ``error_code``; uncertain where set aside."""
    open_jobs: tuple[str, ...] | None = None
    """Job uuids of earlier attempts that had no definite end, beside ``job_uuid``; for sent, planned and uncertain."""
    api_timeout: float | None = None
    """Seconds that the server said it may work on the job; for accepted."""
    until: float | None = None
    """When the server can no longer execute the last POST; for uncertain."""
    made_elsewhere: bool | None = None
    """True when the clone existed before this manifest recorded an attempt to make it."""
    unanswered: bool | None = None
    """True when an attempt got no answer at all; for failed."""
    in_use: bool | None = None
    """True when a job found the resource uuid in use; for planned and uncertain."""


@dataclass(frozen=True, slots=True)
class HandOverRecord:
    """A manifest line: a hand-over is done, or refused with ``error_code``; before ``until`` a try may be executed."""

    key: str
    at: float
    wanted: HandOver
    clone_uuid: str
    error_code: str | None = None
    error: str | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class HandOverCounts:
    """Numbers of hand-overs of the clones that exist."""

    done: int = 0
    open: int = 0
    """Not tried yet, or without an answer."""
    refused: int = 0
    """Tried again by every run."""


class SentJob(NamedTuple):
    """What the manifest records of one of an Intent's open jobs; ``attempt`` sent it last."""

    job_uuid: str
    digest: str
    attempt: int
    is_answered: bool = False
    """Whether the server ever confirmed that it knows the job."""
    is_repeat: bool = False
    is_unexecuted: bool = False
    """Whether its end is on record: it was not executed, and its attempt not charged."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What the manifest knows of a Clone that is not final: enough to continue with it."""

    key: str
    state: State
    source_uuid: str
    resource_uuid: str
    digest: str
    attempt: int
    job_uuid: str | None
    sent_at: float
    """When the last attempt was recorded."""
    first_sent_at: float
    """When the first attempt since the start or since the last ``uncertain`` was recorded."""
    deadline: float | None = None
    error_code: str | None = None
    error: str | None = None
    deaths: int = 0
    """Recorded crashes of processes with it in flight, without the last one; histories of Temporal fix the name."""
    open_jobs: tuple[str, ...] = ()
    api_timeout: float | None = None
    until: float | None = None
    seen_at: float = math.inf
    """The earliest time of any later record: more reliable than a ``sent_at`` that lies in the future."""
    is_answered: bool = False
    is_repeat: bool = False
    has_repeats: bool = False
    is_mixed: bool = False
    """Whether an open job was sent with a body that ``digest`` does not match."""
    has_predecessor: bool = False
    """Whether an attempt before a retry may have made the clone, or lines that may have recorded one were lost."""
    sent_jobs: tuple[SentJob, ...] = ()
    is_taken: bool = False
    """Whether a job found the resource uuid in use."""
    was_repeated: bool = False
    """Whether processes without --at-most-once sent it twice, or its end leaves open whether it was executed."""


def waits_for_operator(clone: Record | Intent, now: float, *, is_refused: bool = False) -> bool:
    """Return whether no rerun settles an uncertain Clone by itself: it was set aside, or its time was over at ``now``.

    ``is_refused``: the server refuses every request, so that those sent or accepted wait too once they are overdue.
    """
    if clone.state in (State.SENT, State.ACCEPTED):
        return is_refused and clone.deadline is not None and clone.deadline <= now
    is_over = clone.until is not None and clone.until <= now
    return clone.state is State.UNCERTAIN and (clone.error_code == QUARANTINED or is_over)
