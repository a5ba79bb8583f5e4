"""The Job: what a job file asks for, its Targets as the file has them, and the layers of overrides, read and merged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.jobfile.check import check_params, check_tags, check_uuid, convert, has_template
from batch.jobfile.problems import Complaint, RowOrigin, kind_of, quote
from batch.jobfile.values import NULLS, MapNode, Scalar, YamlNode, text_tree
from batch.model import HandOver
from batch.zstack.params import BODY_PARAMS, ParamType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import tzinfo

    from batch.jobfile.matrix import Combination
    from batch.jobfile.problems import NodeOrigin
    from batch.jobfile.rearchitect import Rearchitect
    from batch.jobfile.targets import TargetList
    from batch.model import JsonValue, Limits, Place, Problem

LAYER_KEYS: Final = ("params", "systemTags", "userTags", "keep")
HAND_OVER_KEYS: Final = ("owner", "share_with")
"""Keys with the accounts that get the clone once it is made."""
KEEPABLE: Final = ("size", "system")
"""Parameters that the server resets when they are left out."""

_TYPED: Final = frozenset(
    name for name, row in BODY_PARAMS.items() if row.type in {ParamType.INTEGER, ParamType.LONG, ParamType.BOOLEAN}
)


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


def read_layer(node: MapNode, complaints: list[Complaint]) -> Layer:
    """Read the layer's keys of ``node``; other keys are left to the caller."""
    params: dict[str, JsonValue] = {}
    templates: tuple[str, ...] = ()
    tags: dict[str, tuple[str, ...]] = {}
    keep: tuple[str, ...] = ()
    for key, value in node.pairs:
        if key.text == "params":
            params = _params(value, complaints)
            templates = check_params(params, complaints)
        elif key.text in {"systemTags", "userTags"}:
            tags[key.text] = read_tags(key.text, text_tree(value), complaints)
        elif key.text == "keep":
            keep = _keep(text_tree(value), complaints)
    return Layer(params, templates, tags.get("systemTags", ()), tags.get("userTags", ()), keep)


def read_tags(path: str, value: JsonValue, complaints: list[Complaint]) -> tuple[str, ...]:
    """Check a list of tags; null is an empty one."""
    if value is None:
        return ()
    before = len(complaints)
    check_tags(path, value, complaints)
    return tuple(map(str, value)) if isinstance(value, list) and len(complaints) == before else ()


def read_hand_over(keys: dict[str, YamlNode], complaints: list[Complaint]) -> HandOver | None:
    """Check the two keys as far as they need no rendering; None where they request nothing."""
    owner, shares = (text_tree(keys[name]) if name in keys else None for name in HAND_OVER_KEYS)
    texts = [] if shares is None else [shares] if isinstance(shares, str) else shares
    if not isinstance(owner, str | None):
        complaints.append(Complaint("owner", "must be the uuid of one account"))
        return None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        complaints.append(Complaint("share_with", "must be a list of account uuids"))
        return None
    wanted = HandOver(owner, tuple(map(str, texts)))
    _check_hand_over(wanted, complaints)
    return wanted if owner is not None or texts else None


def _check_hand_over(wanted: HandOver, complaints: list[Complaint]) -> None:
    """Check that these are uuids; texts that contain ``$`` are left to the plan."""
    if wanted.owner is not None and "$" not in wanted.owner:
        check_uuid("owner", wanted.owner, complaints)
    for index, uuid in enumerate(wanted.share_with):
        if "$" not in uuid:
            check_uuid(f"share_with[{index}]", uuid, complaints)


def merge_layers(below: Layer, above: Layer) -> Layer:
    """Merge ``above`` over ``below``: parameter by parameter, null removes, tags and ``keep`` are merged."""
    params = {name: value for name, value in {**below.params, **above.params}.items() if value is not None}
    # A parameter that does not exist is in neither layer's templates: it is a problem, and is not rendered.
    templates = {*below.templates, *above.templates}
    return Layer(
        params,
        tuple(name for name, value in params.items() if name in templates and has_template(value)),
        union(below.system_tags, above.system_tags),
        union(below.user_tags, above.user_tags),
        union(below.keep, above.keep),
        above.hand_over or below.hand_over,
    )


def union(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    """Return both without repetition, in order of first appearance."""
    return tuple(dict.fromkeys((*first, *second)))


def _params(node: YamlNode, complaints: list[Complaint]) -> dict[str, JsonValue]:
    if isinstance(node, MapNode):
        return {key.text: _value(key.text, value) for key, value in node.pairs}
    if not (isinstance(node, Scalar) and node.is_null):
        complaints.append(Complaint("params", "must be a map of parameters"))
    return {}


def _value(name: str, node: YamlNode) -> JsonValue:
    if node.__class__ is not Scalar:
        return text_tree(node)
    text: str = node.text
    if not node.plain:
        return text
    if text in NULLS:
        return None
    return convert(name, text) if name in _TYPED else text


def _keep(value: JsonValue, complaints: list[Complaint]) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [value]
    known = tuple(name for name in names if isinstance(name, str) and name in KEEPABLE)
    if len(known) != len(names):
        complaints.append(Complaint("keep", f"must be a list of {' or '.join(KEEPABLE)}"))
    return known
