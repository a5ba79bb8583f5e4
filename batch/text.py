"""Text from elsewhere made fit to be shown: escaping, JSON that is safe to print, width on a terminal, cutting.

What is escaped, here and nowhere else: control characters (C0, DEL, C1), line and paragraph separators, marks that turn
the direction of writing, characters that nobody can see, private ones, and what is no character. The two joiners
(U+200C, U+200D) stay as they are: several scripts and emoji are written with them.
"""

from __future__ import annotations

import json
import re
import shlex
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
    r"""Return ``text`` as one line that steers no terminal; applied twice it changes nothing more.

    >>> escape("a\x1b[2J\u202e")
    'a\\x1b[2J\\u202e'
    """
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub(_escape_char, text)


def escape_json(document: str) -> str:
    r"""Return JSON of the same meaning in which no string has what ``escape`` escapes.

    Encoders leave no control character below U+0020 in a string; the line breaks between its values are kept.
    """
    is_safe = document.isascii() and "\x7f" not in document
    return document if is_safe else _UNSAFE_IN_JSON.sub(_escape_char_in_json, document)


def to_json(value: JsonValue, *, indent: int | None = None) -> str:
    """Return JSON of which every string is safe to print; readers get back exactly what went in."""
    return escape_json(json.dumps(value, ensure_ascii=False, indent=indent))


def columns(text: str, *, ambiguous: int = 1) -> list[int]:
    """Return the columns of a terminal that each character takes.

    ``ambiguous``: those of characters that are wide on some East-Asian terminals only.
    """
    sizes = {"W": 2, "F": 2, "A": ambiguous}
    return [0 if category(char) in _WITHOUT_WIDTH else sizes.get(east_asian_width(char), 1) for char in text]


def width(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes."""
    return len(text) if text.isascii() else sum(columns(text))


def pad(text: str, size: int) -> str:
    """Return ``text`` with blanks behind it up to ``size`` columns of a terminal."""
    return text + " " * (size - width(text))


def cut(text: str, longest: int) -> str:
    """Return at most ``longest`` characters of ``text``, the last of them an ellipsis where some are left out."""
    return text if len(text) <= longest else text[: longest - 1] + _ELLIPSIS


def fit(text: str, size: int) -> str:
    """Return what of ``text`` takes at most ``size`` columns of a terminal, an ellipsis last where some is left out."""
    if width(text) <= size:
        return text
    used = 0
    for kept, one in enumerate(columns(text)):
        used += one
        if used >= size:
            return text[:kept] + _ELLIPSIS
    return text


def shell_path(path: Path | str) -> str:
    """Return a path as one word of a shell command that is no option, whatever it begins with."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def _escape_char(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape", "surrogatepass").decode("ascii")


def _escape_char_in_json(match: re.Match[str]) -> str:
    return json.dumps(match.group())[1:-1]
