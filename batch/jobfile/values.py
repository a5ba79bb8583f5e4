"""Values of a job file: untyped nodes with line and column; rates, durations, shares and waves written as text."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from batch.model import Wave

if TYPE_CHECKING:
    from batch.model import JsonValue

MAX_DEPTH: Final = 32
TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"
NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
"""Plain scalars that mean null (YAML 1.1)."""
BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
"""Texts that mean a boolean (YAML 1.2)."""
_RATE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)/(s|min|h)")
_RATE_SECONDS: Final = {"s": 1, "min": 60, "h": 3600}
_DURATION: Final = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")
_DURATION_SECONDS: Final = (86400, 3600, 60, 1)
PERCENTAGE: Final = r"(?=[^%]*[1-9])(100(\.0+)?|[0-9]{1,2}(\.[0-9]{1,9})?)%"
WHOLE: Final = r"[0-9]{1,9}(\.0+)?"
MAX_RATE: Final = 100_000.0


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

    items: list[YamlNode]
    line: int
    column: int
    size: int
    """Number of nodes inside after expansion of aliases."""
    height: int


class MapNode(NamedTuple):
    """A map; keys are texts and each occurs once."""

    pairs: list[tuple[Scalar, YamlNode]]
    line: int
    column: int
    size: int
    height: int


YamlNode: TypeAlias = Scalar | ListNode | MapNode

_STEP = re.compile(r"[^.\[\]]+")


def text_tree(node: YamlNode) -> JsonValue:
    """Convert a node to lists, maps and texts; only a plain null is not text."""
    if node.__class__ is Scalar:
        return None if node.plain and node.text in NULLS else node.text
    if isinstance(node, MapNode):
        return {key.text: text_tree(value) for key, value in node.pairs}
    assert isinstance(node, ListNode)
    return [text_tree(item) for item in node.items]


def find_place(node: YamlNode, path: str, *, at_key: bool = False) -> tuple[int, int]:
    """Return line and column of ``path`` (``a.b[0].c``) under ``node``, or of the deepest part of it that exists."""
    line, column = node.line, node.column
    for step in _STEP.findall(path):
        if isinstance(node, MapNode):
            pair = next(((key, value) for key, value in node.pairs if key.text == step), None)
            if pair is None:
                break
            key, node = pair
            shown: YamlNode = key if at_key or _is_empty(node) else node
            line, column = shown.line, shown.column
        elif isinstance(node, ListNode) and step.isdecimal() and int(step) < len(node.items):
            node = node.items[int(step)]
            line, column = node.line, node.column
        else:
            break
    return line, column


def _is_empty(node: YamlNode) -> bool:
    return isinstance(node, Scalar) and node.plain and not node.text


def read_rate(text: str) -> float:
    """Return calls per second of a text such as 20/s, 600/min or 5000/h. Raises ValueError."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"must be calls per time, such as 20/s or 600/min, not {text!r:.60}")
    rate = float(match[1]) / _RATE_SECONDS[match[2]]
    if not 0 < rate <= MAX_RATE:
        raise ValueError(f"must be above 0 and at most {MAX_RATE:.0f}/s, not {text!r:.60}")
    return rate


def read_duration(text: str) -> float:
    """Return seconds of a text such as 90s, 45m, 2h or 1h30m. Raises ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise ValueError(f"must be a duration such as 90s, 45m, 2h or 1h30m, not {text!r:.60}")
    seconds = sum(int(part or 0) * unit for part, unit in zip(match.groups(), _DURATION_SECONDS, strict=True))
    if not 0 < seconds <= 365 * 86400:
        raise ValueError(f"must be above 0 and at most 365d, not {text!r:.60}")
    return float(seconds)


def read_time(text: str) -> float:
    """Return seconds of a duration, or of 0. Raises ValueError."""
    return 0.0 if text.strip() == "0" else read_duration(text)


def read_max_failures(text: str) -> float:
    """Return a count unchanged, a percentage as a share below 1, inf where nothing can exceed it. Raises ValueError."""
    text = text.strip()
    if re.fullmatch(WHOLE, text):
        return float(text)
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?%", text) and float(text[:-1]) <= 100:
        share = float(text[:-1]) / 100
        return math.inf if share >= 1 else share
    raise ValueError(f"must be a number or 0% to 100%, not {text!r:.60}")


def read_waves(value: Any) -> tuple[Wave, ...]:
    """Return the waves without ``rest``, which is the remainder anyway. Raises ValueError."""
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list such as [1, 5, 20%, rest]")
    if "rest" in value[:-1]:
        raise ValueError("`rest` must come last, and only once")
    return tuple(map(_wave, value[:-1] if value[-1] == "rest" else value))


def _wave(text: Any) -> Wave:
    if isinstance(text, str) and re.fullmatch(WHOLE, text) and float(text) > 0:
        return Wave(count=int(float(text)))
    if isinstance(text, str) and re.fullmatch(PERCENTAGE, text):
        return Wave(share=float(text[:-1]) / 100)
    raise ValueError(f"a wave must be a number from 1, a percentage of the targets above 0%, or rest, not {text!r:.60}")
