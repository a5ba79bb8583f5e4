"""The kinds of lines that stand after a manifest's header, as values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

from batch.model import HandedOver, Pins, Record, State


@dataclass(frozen=True, slots=True)
class PlanLine:
    """The plan the targets on record are of."""

    digest: str
    inputs: str
    targets: int
    at: float
    hand_overs: int = 0
    """How many of the targets have one."""


@dataclass(frozen=True, slots=True)
class PlannedLine:
    """Targets not seen in an earlier plan, as (key, source uuid)."""

    targets: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class StartedLine:
    """A process began to write."""

    at: float
    pid: int
    host: str
    tool: str
    warnings: tuple[str, ...] = ()
    """What the operator was warned of and went on with, such as a certificate that is not checked."""


@dataclass(frozen=True, slots=True)
class EndedLine:
    """A process ended in order."""

    at: float
    exit_code: int
    reason: str | None
    counts: Counter[State] = field(default_factory=Counter)
    """Targets on record by state; empty where an older zclone did not say."""


@dataclass(frozen=True, slots=True)
class TakenUpLine:
    """A process goes on with these targets, which were in flight when the one before it died."""

    keys: tuple[str, ...]
    at: float


@dataclass(frozen=True, slots=True)
class UnknownLine:
    """A kind that a later zclone of the same format version writes; left alone."""


Line: TypeAlias = (
    Record | Pins | PlanLine | PlannedLine | StartedLine | EndedLine | TakenUpLine | HandedOver | UnknownLine
)
