"""The kinds of lines after a manifest's header, as values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from batch.model import HandOverCounts, HandOverRecord, Pins, Record, State

if TYPE_CHECKING:
    from batch.errors import EndReason
    from batch.model import Plan


@dataclass(frozen=True, slots=True)
class PlanLine:
    """The plan that the recorded targets belong to."""

    digest: str
    inputs: str
    targets: int
    at: float
    hand_overs: int = 0
    """Number of targets that have a hand-over."""
    shard: str = ""
    """``K/N`` where the targets are exactly that shard of a plan; empty where an older zclone did not record it."""
    whole: str = ""
    """Digest of the whole plan of which this is a shard."""

    @classmethod
    def of(cls, plan: Plan, at: float) -> PlanLine:
        """Return the line that records ``plan`` at a time in seconds since the epoch."""
        return cls(plan.digest, plan.inputs, plan.count, at, plan.hand_overs, plan.shard, plan.whole)

    def is_of(self, plan: Plan) -> bool:
        """Return whether ``plan`` is already recorded by this line."""
        return (self.digest, self.inputs, self.shard) == (plan.digest, plan.inputs, plan.shard)


@dataclass(frozen=True, slots=True)
class PlannedLine:
    """Targets that no earlier plan had, as (key, source uuid)."""

    targets: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RemoteEngine:
    """The engine of a run that continues without the process that started it."""

    engine: str
    address: str
    namespace: str
    workflow_id: str


@dataclass(frozen=True, slots=True)
class StartedLine:
    """A process began to write."""

    at: float
    pid: int
    host: str
    tool: str
    warnings: tuple[str, ...] = ()
    """Warnings that the operator accepted, such as a certificate that is not verified."""
    user: str = ""
    """The user who runs it: a name, or a number where there is none; empty where an older zclone did not record it."""
    at_most_once: bool = False
    """Whether nothing that may have been executed is sent again, in this process and all later ones."""
    remote: RemoteEngine | None = None
    """The remote engine whose records the process writes; None where it is the engine itself."""


@dataclass(frozen=True, slots=True)
class ConnectedLine:
    """The process is about to clone."""

    at: float
    account: str | None
    """Uuid of the account that its clones belong to; None where the server did not report it."""
    rate: float
    """Maximum calls a second."""


@dataclass(frozen=True, slots=True)
class ControlledLine:
    """The limits of a running process were changed; the fields are the limits from now on."""

    at: float
    order: str
    """The order as given, such as ``rate=40/s``."""
    rate: float
    """Maximum calls a second."""
    concurrency: int
    """Maximum clones in flight."""
    is_paused: bool
    is_draining: bool


@dataclass(frozen=True, slots=True)
class DeletingLine:
    """A DELETE of a clone is about to be sent, or was refused."""

    key: str
    at: float
    clone_uuid: str
    job_uuid: str
    """Its X-Job-UUID."""
    was_sent_before: bool = False
    """Whether it was sent before without a definite end, so that the end of its job is none."""
    is_refused: bool = False
    """Whether the answer to the call refused it: it has no job, and was not executed."""


@dataclass(frozen=True, slots=True)
class UpdatingLine:
    """A PUT to a clone is about to be sent, or was refused."""

    key: str
    at: float
    clone_uuid: str
    job_uuid: str
    """Its X-Job-UUID."""
    fields: tuple[str, ...]
    """The parameters that it sets."""
    digest: str
    """Digest of the source uuid and the body that the job file requests."""
    was_sent_before: bool = False
    """Whether one was sent before without a definite end, so that the end of its job is none."""
    is_refused: bool = False
    """Whether the answer to the call refused it: it has no job, and was not executed."""


@dataclass(frozen=True, slots=True)
class UpdatedLine:
    """The fields that the last PUT to a clone set have the requested values."""

    key: str
    at: float
    clone_uuid: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndedLine:
    """A process ended; one that was killed has no such line."""

    at: float
    exit_code: int
    reason: str | None
    counts: Counter[State] = field(default_factory=Counter)
    """Recorded targets by state; empty where an older zclone did not record them."""
    code: EndReason | None = None
    """Code of ``reason``; None where it has none, or one of a newer zclone."""
    handed: HandOverCounts | None = None
    """The plan's hand-overs; None where the process did not read the whole plan."""

    @property
    def has_no_refusal(self) -> bool:
        """Whether the process counted the hand-overs of the whole plan, and none of them was refused."""
        return self.handed is not None and not self.handed.refused


@dataclass(frozen=True, slots=True)
class HandOverTry:
    """A clone is about to be given to an owner, or the server may still do so although it answered with an error."""

    of: HandOverRecord
    is_unexecuted: bool = False
    """Whether it is known that it was not and will not be executed."""


@dataclass(frozen=True, slots=True)
class TakenUpLine:
    """A process continues these targets, which were in flight when the one before it was killed."""

    keys: tuple[str, ...]
    at: float


@dataclass(frozen=True, slots=True)
class RepairedLine:
    """A repair wrote this manifest; lines of the damaged one are missing."""

    at: float
    damaged: int
    """Number of byte ranges that could not be verified."""


@dataclass(frozen=True, slots=True)
class MergedLine:
    """A manifest of a shard whose lines, except its header and last plan, follow in this one."""

    path: str
    """Path as given on the command line."""
    shard: str
    """``K/N``."""
    lines: int
    """Number of its whole lines."""
    checksum: str
    """Checksum of the last of them: 8 hex digits, which depend on all lines."""
    at: float
    """When it was merged, seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class AdoptedLine:
    """A user continues a run that another user began, by ``--adopt-manifest``."""

    user: str
    begun_by: str
    at: float


@dataclass(frozen=True, slots=True)
class UnknownLine:
    """A kind that a later zclone of the same format version writes; ignored."""


Line: TypeAlias = (
    Record
    | Pins
    | PlanLine
    | PlannedLine
    | StartedLine
    | ConnectedLine
    | ControlledLine
    | DeletingLine
    | UpdatingLine
    | UpdatedLine
    | EndedLine
    | TakenUpLine
    | HandOverRecord
    | HandOverTry
    | AdoptedLine
    | RepairedLine
    | MergedLine
    | UnknownLine
)
