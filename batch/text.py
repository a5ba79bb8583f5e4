"""Text for people: makes foreign text safe to display, fits it into a width, formats times and durations.

What is escaped, here and nowhere else: control characters (C0, DEL, C1), line and paragraph separators, bidirectional
controls, invisible and private-use characters, and noncharacters. The two joiners (U+200C, U+200D) are kept: several
scripts and emoji need them.
"""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from unicodedata import category, east_asian_width

if TYPE_CHECKING:
    from pathlib import Path

    from batch.model import JsonValue

_CLASS: Final = (
    "\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\uf8ff\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f\U000f0000-\U0010ffff"
)
_UNSAFE: Final = re.compile(f"[\x00-\x1f{_CLASS}]")
_UNSAFE_IN_JSON: Final = re.compile(f"[{_CLASS}]")
_ELLIPSIS: Final = "…"
_WITHOUT_WIDTH: Final = frozenset({"Mn", "Me", "Cf"})


def escape(text: str) -> str:
    r"""Return ``text`` as one line without control sequences; idempotent.

    >>> escape("a\x1b[2J\u202e")
    'a\\x1b[2J\\u202e'
    """
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub(_escape_char, text)


def escape_json(document: str) -> str:
    r"""Return equivalent JSON in which no string contains a character that ``escape`` escapes.

    Encoders leave no control character below U+0020 in a string; the line breaks between values are kept.
    """
    is_safe = document.isascii() and "\x7f" not in document
    return document if is_safe else _UNSAFE_IN_JSON.sub(_escape_char_in_json, document)


def to_json(value: JsonValue, *, indent: int | None = None) -> str:
    """Return JSON in which every string is safe to print; readers get back exactly the same value."""
    return escape_json(json.dumps(value, ensure_ascii=False, indent=indent))


def columns(text: str, *, ambiguous: int = 1) -> list[int]:
    """Return the number of terminal columns that each character takes.

    ``ambiguous``: columns of characters that are wide on some East-Asian terminals only.
    """
    sizes = {"W": 2, "F": 2, "A": ambiguous}
    return [0 if category(char) in _WITHOUT_WIDTH else sizes.get(east_asian_width(char), 1) for char in text]


def width(text: str) -> int:
    """Return the number of terminal columns that ``text`` takes."""
    return len(text) if text.isascii() else sum(columns(text))


def pad(text: str, size: int) -> str:
    """Return ``text`` padded with blanks to ``size`` terminal columns."""
    return text + " " * (size - width(text))


def cut(text: str, longest: int) -> str:
    """Return at most ``longest`` characters of ``text``; where some are left out, the last is an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1] + _ELLIPSIS


def fit(text: str, size: int) -> str:
    """Return the part of ``text`` that fits ``size`` terminal columns, with an ellipsis last where it was cut."""
    if width(text) <= size:
        return text
    used = 0
    for kept, one in enumerate(columns(text)):
        used += one
        if used >= size:
            return text[:kept] + _ELLIPSIS
    return text


def shell_path(path: Path | str) -> str:
    """Return a path as one word of a shell command that is not taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def iso(seconds: float | None) -> str | None:
    """Format a time as ISO 8601 in UTC with milliseconds; None stays None, a time out of range becomes a number."""
    if seconds is None:
        return None
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return repr(seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """Format a duration for people: ``45 s``, ``12 min``, ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _escape_char(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape", "surrogatepass").decode("ascii")


def _escape_char_in_json(match: re.Match[str]) -> str:
    return json.dumps(match.group())[1:-1]
