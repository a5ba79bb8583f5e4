"""Reading and merging layers: ``params``, ``systemTags``, ``userTags`` and ``keep`` of one place in a YAML file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.jobfile.check import check_params, check_tags, has_template, typed
from batch.jobfile.job import Layer
from batch.jobfile.nodes import NULLS, Mapping, Node, Scalar, text_tree
from batch.jobfile.problems import Complaint
from batch.zstack.params import BODY_PARAMS, ParamType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batch.model import JsonValue

LAYER_KEYS: Final = ("params", "systemTags", "userTags", "keep")
KEEPABLE: Final = ("size", "system")
"""Parameters that the server resets when they are left out."""

_TYPED: Final = frozenset(
    name for name, row in BODY_PARAMS.items() if row.type in {ParamType.INTEGER, ParamType.LONG, ParamType.BOOLEAN}
)


def read_layer(node: Mapping, complaints: list[Complaint]) -> Layer:
    """Read the layer's keys of ``node``; other keys are the caller's."""
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


def merge(below: Layer, above: Layer) -> Layer:
    """Put ``above`` over ``below``: parameter by parameter, null takes away, tags and ``keep`` are united."""
    params = {name: value for name, value in {**below.params, **above.params}.items() if value is not None}
    return Layer(
        params,
        tuple(name for name, value in params.items() if has_template(value)),
        united(below.system_tags, above.system_tags),
        united(below.user_tags, above.user_tags),
        united(below.keep, above.keep),
        above.hand_over or below.hand_over,
    )


def united(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    """Return both without repetition, in order of first appearance."""
    return tuple(dict.fromkeys((*first, *second)))


def _params(node: Node, complaints: list[Complaint]) -> dict[str, JsonValue]:
    if isinstance(node, Mapping):
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
    return typed(name, text) if name in _TYPED else text


def _keep(value: JsonValue, complaints: list[Complaint]) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [value]
    known = tuple(name for name in names if isinstance(name, str) and name in KEEPABLE)
    if len(known) != len(names):
        complaints.append(Complaint("keep", f"must be a list of {' or '.join(KEEPABLE)}"))
    return known
