"""The Job: what a job file asks for, and its Targets as the file has them, not yet merged or rendered."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from batch.jobfile.problems import Complaint, RowOrigin, kind_of, quote

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import tzinfo

    from batch.jobfile.matrix import Combination
    from batch.jobfile.problems import NodeOrigin
    from batch.jobfile.rearchitect import Rearchitect
    from batch.jobfile.targets import TargetList
    from batch.model import HandOver, JsonValue, Limits, Place, Problem


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Location of a secret; exactly one of the two is set."""

    env: str | None = None
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """Credentials; exactly one of the three forms is set."""

    session: SecretRef | None = None
    account: str | None = None
    password: SecretRef | None = None
    access_key_id: str | None = None
    access_key_secret: SecretRef | None = None


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """The job file's endpoint; the ZSTACK_* settings override it."""

    url: str | None = None
    ca_file: Path | None = None
    """Relative paths are resolved against the job file's folder."""
    insecure: bool = False
    auth: AuthSettings | None = None
    folder: Path = Path()
    """The job file's folder: a secret below it is the job's own."""


class Layer(NamedTuple):
    """Checked overrides of one place: ``defaults``, a ``from:`` entry or a target."""

    params: Mapping[str, JsonValue] = {}
    """None removes the value of the layers below."""
    templates: tuple[str, ...] = ()
    """Names of the parameters that contain ``$``, which the plan renders and then checks."""
    system_tags: tuple[str, ...] = ()
    user_tags: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    """Parameters to copy from the source's inventory where no layer sets them."""
    hand_over: HandOver | None = None
    """As written: texts with ``$`` are not checked yet."""


def is_plain(layer: Layer) -> bool:
    """Return whether the layer has nothing but parameters that are sent as written."""
    return not (layer.templates or layer.system_tags or layer.user_tags or layer.keep)


@dataclass(frozen=True, slots=True)
class Entry:
    """Common part of the targets of one ``targets`` element; one Entry serves every target that adds nothing to it."""

    base: Layer
    """``defaults`` with the entry's own overrides merged in; no None left."""
    combinations: tuple[Combination, ...] = ()
    """Combinations of its matrix; empty where it has none."""
    own: Mapping[str, JsonValue] = field(default_factory=dict)
    """Values that the entry itself sets, to find the place of each."""
    origin: NodeOrigin | None = None
    defaults_origin: NodeOrigin | None = None
    is_plain: bool = field(init=False)
    """Whether ``base`` is plain, computed once for all its targets."""

    def __post_init__(self) -> None:
        """Compute ``is_plain``."""
        object.__setattr__(self, "is_plain", is_plain(self.base))


class Target(NamedTuple):
    """One row: source uuid and overrides."""

    entry: Entry
    layer: Layer
    uuid: str
    id: str | None
    columns: Mapping[str, str]
    origin: NodeOrigin | RowOrigin

    def problem(self, complaint: Complaint) -> Problem:
        """Place ``complaint`` in the layer that set the value."""
        steps = complaint.path.replace("[", ".").split(".")
        if steps[0] != "params" or len(steps) < 2 or steps[1] in self.layer.params:
            return self.origin.problem(complaint)
        if isinstance(self.origin, RowOrigin) and steps[1] in self.entry.base.templates:
            # The entry's value is wrong for the values of this row.
            message = f"{complaint.message}; in the row at {self.origin.file}:{self.origin.line}"
            complaint = complaint._replace(message=message, kind=f"{self.origin.file}: {kind_of(complaint)}")
        if steps[1] in self.entry.own and self.entry.origin is not None:
            return self.entry.origin.problem(complaint)
        if steps[1] in self.entry.base.params and self.entry.defaults_origin is not None:
            return self.entry.defaults_origin.problem(complaint)
        return self.origin.problem(complaint)

    def repeat_problem(self, what: str, shown: str, first: Target) -> Problem:
        """Return the problem that ``what`` of this target, ``shown``, is already used by ``first``."""
        place = first.origin.place
        hint = ": give one of them an `id`" if what == "key" else ""
        where = f"{place.file}:{place.line}:{place.column}"
        message = f"the {what} {quote(shown)} is already used by the target at {where}{hint}"
        return self.problem(Complaint("", message, kind=message))


class QueryEntry(NamedTuple):
    """A ``query:`` element: each source that meets all conditions is a target."""

    entry: Entry
    conditions: tuple[str, ...]
    """Conditions as the file writes them."""
    origin: NodeOrigin

    def target(self, uuid: str) -> Target:
        """Return the target of one source."""
        return Target(self.entry, Layer(), uuid, None, {}, self.origin)


@dataclass(frozen=True, slots=True)
class Job:
    """What a job file asks for; all of it is checked except the targets, which are streamed."""

    path: Path
    name: str
    run: str
    """May contain ``${date}``, ``${time}`` and ``${name}``."""
    run_place: Place
    limits: Limits
    is_rate_set: bool
    """Whether ``limits.rate`` is set in the file."""
    endpoint: EndpointSettings | None
    vars: Mapping[str, str]
    rearchitect: Rearchitect | None
    resume_within: float | None
    """Seconds since the start of an unfinished run within which the plain command resumes it; None: 12 h, 0 where
    ``run`` contains ``${time}``."""
    timezone: tzinfo
    """Timezone of ``${date}`` and ``${time}``."""
    tag: bool
    """Whether each clone of a new run gets a user tag of job, run and key."""
    targets: TargetList = field(repr=False)
