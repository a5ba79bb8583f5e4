"""A JSON parser equivalent to the server's, Gson in lenient mode (zstack/README.md 1)."""

from __future__ import annotations

import json
import re
from typing import Any, Final

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_COMMENT: Final = re.compile(r"//[^\r\n]*|#[^\r\n]*|/\*.*?\*/", re.DOTALL)
_UNQUOTED: Final = re.compile(r"[^/\\;#={}\[\]:, \t\f\r\n]+")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_ESCAPES: Final = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f"}
_SAME: Final = frozenset("\n'\"\\/")
_KEYWORDS: Final = {"true": True, "false": False, "null": None}


class MalformedJsonError(ValueError):
    """Text that the lenient parser rejects."""


def parse_json(text: str) -> Any:
    """Parse ``text``; None if there is nothing but blanks. Raises MalformedJsonError, RecursionError."""
    text = text.removeprefix("\ufeff")
    try:
        return json.loads(text, strict=False, parse_constant=str)
    except ValueError:
        return _Reader(text).document()


class _Reader:
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
        self._blanks()
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
        found: dict[str, Any] = {}
        if self._peek() == "}":
            self._at += 1
            return found
        while True:
            name = self._quoted() if self._peek() in {'"', "'"} else self._unquoted("Expected name")
            self._separator()
            found[name] = self._value()
            end = self._take("}", ",", ";", reason="Unterminated object")
            if end == "}":
                return found

    def _separator(self) -> None:
        if self._take(":", "=", reason="Expected ':'") == "=" and self._text.startswith(">", self._at):
            self._at += 1

    def _array(self) -> list[Any]:
        """Read an array; a missing element is null, even after a trailing comma."""
        self._at += 1
        found: list[Any] = []
        if self._peek() == "]":
            self._at += 1
            return found
        while True:
            found.append(None if self._peek() in {",", ";", "]"} else self._value())
            if self._take("]", ",", ";", reason="Unterminated array") == "]":
                return found

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
        self._blanks()
        while (comment := _COMMENT.match(self._text, self._at)) is not None:
            self._at = comment.end()
            self._blanks()
        return self._text[self._at : self._at + 1]

    def _blanks(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match is not None else self._at

    def _malformed(self, reason: str) -> MalformedJsonError:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - self._text.rfind("\n", 0, self._at)
        return MalformedJsonError(f"{reason} at line {line} column {column}")
