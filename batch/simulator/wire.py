"""Network data: requests, deliveries, addresses, and JSON as the server reads and writes it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping


Json: TypeAlias = dict[str, Any]
"""A decoded JSON object, validated by its reader."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request as the node receives it."""

    method: str
    path: str
    """Decoded, with the context path."""
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""

    def values(self, name: str) -> list[str]:
        """Every value of a query parameter, in order."""
        return [value for key, value in self.query if key == name]

    def value(self, name: str) -> str | None:
        """First value of a query parameter."""
        return next((value for key, value in self.query if key == name), None)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer to send ``delay`` seconds after the request came in."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    cut: int | None = None
    """Send only so many bytes of the body, then reset the connection."""


@dataclass(frozen=True, slots=True)
class Drop:
    """No answer: the connection is reset ``delay`` seconds after the request came in."""

    delay: float = 0.0


@dataclass(slots=True)
class Later:
    """The request is executed only at ``due``; ``outcome`` is set by then, whether or not the client still waits."""

    due: float
    outcome: Response | Drop | None = None


Delivery: TypeAlias = Response | Drop | Later


@dataclass(frozen=True, slots=True)
class WebHook:
    """A call the node makes itself: POST ``body`` to ``url`` (zstack/README.md 7)."""

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    attempt: int = 1


_HTML: Final = {ord(char): f"\\u{ord(char):04x}" for char in "<>&='\u2028\u2029"}
_UUID: Final = re.compile(r"[0-9a-f]{12}[1-5][0-9a-f]{3}[89ab][0-9a-f]{15}")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _without_nulls(value: Any) -> Any:
    """Drop null members of objects at every depth, as Gson does."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def event_json(value: Any, *, html_escape: bool = True) -> bytes:
    """Serialise like CloudBusGson: nulls omitted, HTML characters escaped, UTF-8 (zstack/README.md 1)."""
    text = _encode(_without_nulls(value))
    return (text.translate(_HTML) if html_escape else text).encode("utf-8", "replace")


def plain_json(value: Any) -> bytes:
    """Serialise like JSONObjectUtil, without escapes: errors of sync calls, the legacy API (zstack/README.md 1)."""
    return event_json(value, html_escape=False)


def timestamp(seconds: float, utc_offset: float) -> str:
    """Write ``seconds`` since the epoch as ``Nov 25, 2025 11:51:50 AM`` in the node's zone."""
    at = datetime.fromtimestamp(seconds + utc_offset, UTC)
    half = "AM" if at.hour < 12 else "PM"
    return f"{_MONTHS[at.month - 1]} {at.day}, {at.year} {at.hour % 12 or 12}:{at.minute:02}:{at.second:02} {half}"


def is_resource_uuid(text: str) -> bool:
    """Return whether the node accepts ``text`` as a resourceUuid: lower case, version 1-5, RFC variant."""
    return _UUID.fullmatch(text) is not None


def derive_uuid(*parts: object) -> str:
    """Derive a v4-shaped uuid from ``parts``: the same parts give the same uuid."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()
    return f"{digest[:12]}4{digest[13:16]}{'89ab'[int(digest[16], 16) % 4]}{digest[17:]}"


def is_loopback(address: str | None) -> bool:
    """Return whether an address is a loopback one, or the name ``localhost``."""
    if address is None:
        return False
    if address.casefold() == "localhost":
        return True
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    """Return whether a URL has a loopback address or ``localhost`` as host; other names may resolve anywhere."""
    try:
        return is_loopback(urlsplit(url).hostname)
    except ValueError:
        return False


_SPACE: Final = re.compile(r"[ \t\r\n]*")
_SPACE_AND_COMMENTS: Final = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|#[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_UNQUOTED: Final = re.compile(r"[^/\\;#={}\[\]:, \t\f\r\n]+")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_ESCAPES: Final = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f"}
_SAME: Final = frozenset("\n'\"\\/")
_KEYWORDS: Final = {"true": True, "false": False, "null": None}


class MalformedJsonError(ValueError):
    """Text that the lenient parser rejects."""


def parse_json(text: str) -> Any:
    """Parse ``text`` like Gson in lenient mode; None if it is blank. Raises MalformedJsonError, RecursionError."""
    text = text.removeprefix("\ufeff")
    try:
        return json.loads(text, strict=False, parse_constant=str)
    except ValueError:
        return _JsonReader(text).document()


class _JsonReader:
    """Reads one document from its start to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def document(self) -> Any:
        """Read the whole text; only whitespace may follow the value."""
        if self._text.startswith(")]}'\n"):
            self._at = 5
        if not self._peek():
            return None
        value = self._value()
        self._skip(_SPACE)
        if self._at < len(self._text):
            raise self._malformed("Use JsonReader.setLenient(true) to accept malformed JSON")
        return value

    def _value(self) -> Any:
        char = self._peek()
        if char == "{":
            return self._object()
        if char == "[":
            return self._array()
        if char in {'"', "'"}:
            return self._quoted()
        return self._literal(self._unquoted("Expected value"))

    def _object(self) -> dict[str, Any]:
        self._at += 1
        members: dict[str, Any] = {}
        if self._peek() == "}":
            self._at += 1
            return members
        while True:
            name = self._quoted() if self._peek() in {'"', "'"} else self._unquoted("Expected name")
            self._separator()
            members[name] = self._value()
            if self._take("}", ",", ";", reason="Unterminated object") == "}":
                return members

    def _separator(self) -> None:
        if self._take(":", "=", reason="Expected ':'") == "=" and self._text.startswith(">", self._at):
            self._at += 1

    def _array(self) -> list[Any]:
        """Read an array; a missing element is null, even after a trailing comma."""
        self._at += 1
        items: list[Any] = []
        if self._peek() == "]":
            self._at += 1
            return items
        while True:
            items.append(None if self._peek() in {",", ";", "]"} else self._value())
            if self._take("]", ",", ";", reason="Unterminated array") == "]":
                return items

    def _quoted(self) -> str:
        quote = self._text[self._at]
        self._at += 1
        parts: list[str] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            self._at += 1
            if char == quote:
                return "".join(parts)
            parts.append(self._escape() if char == "\\" else char)
        raise self._malformed("Unterminated string")

    def _escape(self) -> str:
        char = self._text[self._at : self._at + 1]
        self._at += 1
        if char == "u":
            digits = self._text[self._at : self._at + 4]
            self._at += 4
            if not re.fullmatch("[0-9a-fA-F]{4}", digits):
                raise self._malformed(f"\\u{digits}")
            return chr(int(digits, 16))
        if char in _ESCAPES:
            return _ESCAPES[char]
        if char in _SAME:
            return char
        raise self._malformed("Invalid escape sequence")

    def _unquoted(self, reason: str) -> str:
        match = _UNQUOTED.match(self._text, self._at)
        if match is None:
            raise self._malformed(reason)
        self._at = match.end()
        return match[0]

    def _literal(self, word: str) -> Any:
        if word.lower() in _KEYWORDS:
            return _KEYWORDS[word.lower()]
        number = _NUMBER.fullmatch(word)
        if number is None:
            return word
        return float(word) if number[1] or number[2] else int(word)

    def _take(self, *wanted: str, reason: str) -> str:
        char = self._peek()
        if char not in wanted:
            raise self._malformed(reason)
        self._at += 1
        return char

    def _peek(self) -> str:
        """Return the next character that is neither whitespace nor comment; empty at the end."""
        self._skip(_SPACE_AND_COMMENTS)
        return self._text[self._at : self._at + 1]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match is not None else self._at

    def _malformed(self, reason: str) -> MalformedJsonError:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - self._text.rfind("\n", 0, self._at)
        return MalformedJsonError(f"{reason} at line {line} column {column}")
