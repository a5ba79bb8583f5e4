"""Secrets, and every encoded form in which foreign text may contain one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REDACTED: Final = "[redacted]"
_SHORTEST_SECRET: Final = 4
_GRAM: Final = 12
"""Length of the substrings of a long form that are searched: of 23 characters in a row, 12 start at a multiple of
12."""
_LONG: Final = 2 * _GRAM
_PERCENT: Final = re.compile("%[0-9A-F]{2}")
_COLON: Final = r"(?::|%3[Aa]|\\u003[Aa])"
_SIGNATURE: Final = r"""[^\s"'<>,;]+"""


class Secrets:
    r"""Values that must not leave the process, and every form they could leave in.

    Covered are the value itself; its SHA-512 and its bytes in hexadecimal digits; base64, also of a longer text such as
    a whole header; percent, JSON, ``\u`` and Python escapes. Of a form of 24 characters or more any 23 in a row are
    found, of one of more than 48 characters any half of it.
    """

    def __init__(self) -> None:
        """Start without secrets."""
        self._values: set[str] = set()
        self._forms: dict[str, None] = {}
        self._grams: dict[str, list[tuple[str, int]]] = {}
        self._followed: list[re.Pattern[str]] = []

    def add(self, value: str) -> None:
        """Redact ``value`` from now on, in every form; values under 4 characters are ignored."""
        if len(value) < _SHORTEST_SECRET or value in self._values:
            return
        self._values.add(value)
        forms = {form for form in _forms(value) if len(form) >= _SHORTEST_SECRET} - self._forms.keys()
        self._forms |= dict.fromkeys(sorted(forms))
        for form in sorted(forms):
            for offset, gram in _grams(form):
                self._grams.setdefault(gram, []).append((form, offset))

    def add_all(self, values: Iterable[str]) -> None:
        """Add each of ``values``."""
        for value in values:
            self.add(value)

    def add_key_id(self, key_id: str) -> None:
        """Redact from now on what follows an access key's id and a colon: the signature; also in base64 and hex."""
        if len(key_id) < _SHORTEST_SECRET or key_id in self._values:
            return
        self._values.add(key_id)
        head = f"{key_id}:".encode()
        cores = "|".join(map(re.escape, sorted(_base64_cores(head))))
        hexadecimal = f"(?i:{head.hex()})"
        self._followed += [
            re.compile(f"({re.escape(key_id)}{_COLON}){_SIGNATURE}"),
            re.compile(f"({cores})[A-Za-z0-9+/_=-]+"),
            re.compile(f"({hexadecimal})[0-9a-fA-F]+"),
        ]

    def redact(self, text: str) -> str:
        """Replace every registered secret in ``text``."""
        for pattern in self._followed:
            text = pattern.sub(rf"\1{REDACTED}", text)
        parts: list[str] = []
        end = 0
        for start, stop in _merge(self._spans(text)):
            parts += (text[end:start], REDACTED)
            end = stop
        return "".join((*parts, text[end:])) if parts else text

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        for gram, places in self._grams.items():
            at = text.find(gram)
            while at >= 0:
                grown = [_extend(text, at, form, offset, len(gram)) for form, offset in places]
                yield from grown
                at = text.find(gram, max(at + 1, max(stop for _, stop in grown) - len(gram) + 1))


SECRETS: Final = Secrets()
"""The secrets of this process: code that resolves a secret setting registers it here before it is used."""


def _extend(text: str, at: int, form: str, offset: int, size: int) -> tuple[int, int]:
    """Return start and end of a part of ``form``, of which ``size`` characters from ``offset`` were found at ``at``."""
    start, stop = at, at + size
    low, high = offset, offset + size
    while start and low and text[start - 1] == form[low - 1]:
        start, low = start - 1, low - 1
    while stop < len(text) and high < len(form) and text[stop] == form[high]:
        stop, high = stop + 1, high + 1
    return start, stop


def _merge(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    last: tuple[int, int] | None = None
    for start, stop in sorted(spans):
        if last is None:
            last = start, stop
        elif start <= last[1]:
            last = last[0], max(stop, last[1])
        else:
            yield last
            last = start, stop
    if last is not None:
        yield last


def _grams(form: str) -> Iterator[tuple[int, str]]:
    """Yield substrings of ``form`` with their offsets: each long enough part of it contains one of them."""
    if len(form) < _LONG:
        yield 0, form
        return
    size = max(_GRAM, len(form) // 4)
    for offset in (*range(0, len(form) - size, size), len(form) - size):
        yield offset, form[offset : offset + size]


def _forms(value: str) -> Iterator[str]:
    raw = value.encode("utf-8", "surrogateescape")
    digest = hashlib.sha512(raw).hexdigest()
    yield from (digest, digest.upper(), raw.hex(), raw.hex().upper())
    for quoted in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield from (quoted, _PERCENT.sub(lambda match: match.group().lower(), quoted))
    for encoded in (base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()):
        yield from (encoded, encoded.rstrip("="))
    yield from _base64_cores(raw)
    yield from (value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
    yield from (repr(value)[1:-1], ascii(value)[1:-1], repr(raw)[2:-1])
    # As the log and the terminal escape it.
    yield "".join(char if char.isprintable() else ascii(char)[1:-1] for char in value)
    units = value.encode("utf-16-be", "surrogatepass").hex()
    escaped = "".join(rf"\u{units[at : at + 4]}" for at in range(0, len(units), 4))
    yield from (escaped, re.sub(r"(?<=\\u)[0-9a-f]{4}", lambda match: match.group().upper(), escaped))


def _base64_cores(raw: bytes) -> set[str]:
    """Return the base64 of ``raw`` at each alignment in a longer text, without what depends on its neighbours."""
    cores: set[str] = set()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).decode()
        core = encoded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        cores |= {core, core.translate(str.maketrans("+/", "-_"))}
    return cores
