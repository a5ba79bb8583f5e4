"""Untyped nodes of a YAML file: text with line and column."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from batch.model import JsonValue

MAX_DEPTH: Final = 32
TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"
NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
"""Plain scalars that mean null (YAML 1.1)."""
BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
"""Texts that mean a boolean (YAML 1.2)."""


class Scalar(NamedTuple):
    """A text as written; line and column count from 1."""

    text: str
    plain: bool
    """Written without quotes, so that it may mean null, a number or a boolean."""
    line: int
    column: int

    @property
    def is_null(self) -> bool:
        """Whether the file has null here."""
        return self.plain and self.text in NULLS


class ListNode(NamedTuple):
    """A list."""

    items: list[Node]
    line: int
    column: int
    size: int
    """Number of nodes inside after expansion of aliases."""
    height: int


class MapNode(NamedTuple):
    """A map; keys are texts and each occurs once."""

    pairs: list[tuple[Scalar, Node]]
    line: int
    column: int
    size: int
    height: int


Node: TypeAlias = Scalar | ListNode | MapNode

_STEP = re.compile(r"[^.\[\]]+")


def text_tree(node: Node) -> JsonValue:
    """Convert a node to lists, maps and texts; only a plain null is not text."""
    if node.__class__ is Scalar:
        return None if node.plain and node.text in NULLS else node.text
    if isinstance(node, MapNode):
        return {key.text: text_tree(value) for key, value in node.pairs}
    assert isinstance(node, ListNode)
    return [text_tree(item) for item in node.items]


def find_place(node: Node, path: str, *, at_key: bool = False) -> tuple[int, int]:
    """Return line and column of ``path`` (``a.b[0].c``) under ``node``, or of the deepest part of it that exists."""
    line, column = node.line, node.column
    for step in _STEP.findall(path):
        if isinstance(node, MapNode):
            pair = next(((key, value) for key, value in node.pairs if key.text == step), None)
            if pair is None:
                break
            key, node = pair
            shown: Node = key if at_key or _is_empty(node) else node
            line, column = shown.line, shown.column
        elif isinstance(node, ListNode) and step.isdecimal() and int(step) < len(node.items):
            node = node.items[int(step)]
            line, column = node.line, node.column
        else:
            break
    return line, column


def _is_empty(node: Node) -> bool:
    return isinstance(node, Scalar) and node.plain and not node.text
