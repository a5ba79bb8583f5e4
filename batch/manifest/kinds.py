"""The kinds of lines that stand after a manifest's header, as values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from batch.model import Handed, HandedOver, Pins, Record, State

if TYPE_CHECKING:
    from batch.errors import EndReason
    from batch.model import Plan


@dataclass(frozen=True, slots=True)
class PlanLine:
    """The plan the targets on record are of."""

    digest: str
    inputs: str
    targets: int
    at: float
    hand_overs: int = 0
    """How many of the targets have one."""
    shard: str = ""
    """``K/N`` where the targets are exactly that part of a plan; empty where an older zclone did not say."""
    whole: str = ""
    """Digest of the plan that the shard is of."""

    @classmethod
    def of(cls, plan: Plan, at: float) -> PlanLine:
        """Return the line that records ``plan`` at a time in seconds since the epoch."""
        return cls(plan.digest, plan.inputs, plan.count, at, plan.hand_overs, plan.shard, plan.whole)

    def is_of(self, plan: Plan) -> bool:
        """Whether recording ``plan`` would say nothing new."""
        return (self.digest, self.inputs, self.shard) == (plan.digest, plan.inputs, plan.shard)


@dataclass(frozen=True, slots=True)
class PlannedLine:
    """Targets not seen in an earlier plan, as (key, source uuid)."""

    targets: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RemoteEngine:
    """Where the engine of a run is that goes on without the process that started it."""

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
    """What the operator was warned of and went on with, such as a certificate that is not checked."""
    user: str = ""
    """Who runs it: a name, or a number where there is none; empty where an older zclone did not say."""
    at_most_once: bool = False
    """Whether nothing is sent again that may have been executed, in this process and all later ones."""
    remote: RemoteEngine | None = None
    """The engine whose records the process writes; None where it is the engine itself."""


@dataclass(frozen=True, slots=True)
class ConnectedLine:
    """The process is about to clone."""

    at: float
    account: str | None
    """Uuid of the account that its clones belong to; None where the server did not say."""
    rate: float
    """Calls a second that it makes at most."""


@dataclass(frozen=True, slots=True)
class ControlledLine:
    """The limits of a running process were changed; what is in force from now on."""

    at: float
    order: str
    """As it was given, such as ``rate=40/s``."""
    rate: float
    """Calls a second at most."""
    concurrency: int
    """Clones in flight at most."""
    is_paused: bool
    is_draining: bool


@dataclass(frozen=True, slots=True)
class DeletingLine:
    """A DELETE of a clone is about to be sent."""

    key: str
    at: float
    clone_uuid: str
    job_uuid: str
    """Its X-Job-UUID."""


@dataclass(frozen=True, slots=True)
class MendingLine:
    """A PUT to a clone is about to be sent."""

    key: str
    at: float
    clone_uuid: str
    job_uuid: str
    """Its X-Job-UUID."""
    fields: tuple[str, ...]
    """The parameters that it sets."""
    digest: str
    """Of the source uuid and the body that the job file asks for."""


@dataclass(frozen=True, slots=True)
class MendedLine:
    """What the last PUT to a clone set is as it was asked for."""

    key: str
    at: float
    clone_uuid: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndedLine:
    """A process ended in order."""

    at: float
    exit_code: int
    reason: str | None
    counts: Counter[State] = field(default_factory=Counter)
    """Targets on record by state; empty where an older zclone did not say."""
    code: EndReason | None = None
    """The kind of ``reason``; None where that has no name, or a newer zclone's."""
    handed: Handed | None = None
    """The plan's hand-overs; None where the process did not look at the whole plan."""


@dataclass(frozen=True, slots=True)
class TakenUpLine:
    """A process goes on with these targets, which were in flight when the one before it died."""

    keys: tuple[str, ...]
    at: float


@dataclass(frozen=True, slots=True)
class RepairedLine:
    """A repair wrote this manifest; lines of the damaged one are missing."""

    at: float
    damaged: int
    """Stretches of bytes that could not be verified."""


@dataclass(frozen=True, slots=True)
class MergedLine:
    """A manifest of a shard whose lines, but for its header and plans, follow in this one."""

    path: str
    """As it was named on the command line."""
    shard: str
    """``K/N``."""
    lines: int
    """Whole lines that it had."""
    checksum: str
    """Of the last of them: 8 hex digits, which follow from all lines."""
    at: float
    """When it was merged, seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class AdoptedLine:
    """A user goes on with what another one began, by ``--adopt-manifest``."""

    user: str
    begun_by: str
    at: float


@dataclass(frozen=True, slots=True)
class UnknownLine:
    """A kind that a later zclone of the same format version writes; left alone."""


Line: TypeAlias = (
    Record
    | Pins
    | PlanLine
    | PlannedLine
    | StartedLine
    | ConnectedLine
    | ControlledLine
    | DeletingLine
    | MendingLine
    | MendedLine
    | EndedLine
    | TakenUpLine
    | HandedOver
    | AdoptedLine
    | RepairedLine
    | MergedLine
    | UnknownLine
)
