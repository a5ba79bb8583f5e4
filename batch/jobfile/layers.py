"""Reads and merges layers: parameters, tags, ``keep`` and hand-over of one place in a YAML file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.jobfile.check import check_params, check_tags, check_uuid, convert, has_template
from batch.jobfile.job import Layer
from batch.jobfile.nodes import NULLS, MapNode, Node, Scalar, text_tree
from batch.jobfile.problems import Complaint
from batch.model import HandOver
from batch.zstack.params import BODY_PARAMS, ParamType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batch.model import JsonValue

LAYER_KEYS: Final = ("params", "systemTags", "userTags", "keep")
HAND_OVER_KEYS: Final = ("owner", "share_with")
"""Keys with the accounts that get the clone once it is made."""
KEEPABLE: Final = ("size", "system")
"""Parameters that the server resets when they are left out."""

_TYPED: Final = frozenset(
    name for name, row in BODY_PARAMS.items() if row.type in {ParamType.INTEGER, ParamType.LONG, ParamType.BOOLEAN}
)


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


def read_hand_over(keys: dict[str, Node], complaints: list[Complaint]) -> HandOver | None:
    """Check the two keys as far as they need no rendering; None where they request nothing."""
    owner, shares = (text_tree(keys[name]) if name in keys else None for name in HAND_OVER_KEYS)
    texts = [] if shares is None else [shares] if isinstance(shares, str) else shares
    if not isinstance(owner, str | None):
        complaints.append(Complaint("owner", "must be the uuid of one account"))
        return None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        complaints.append(Complaint("share_with", "must be a list of account uuids"))
        return None
    found = HandOver(owner, tuple(map(str, texts)))
    _check_hand_over(found, complaints)
    return found if owner is not None or texts else None


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


def _params(node: Node, complaints: list[Complaint]) -> dict[str, JsonValue]:
    if isinstance(node, MapNode):
        return {key.text: _value(key.text, value) for key, value in node.pairs}
    if not (isinstance(node, Scalar) and node.is_null):
        complaints.append(Complaint("params", "must be a map of parameters"))
    return {}


def _value(name: str, node: Node) -> JsonValue:
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
