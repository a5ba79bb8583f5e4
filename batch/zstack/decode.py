"""Decodes bytes of a server into checked values: strict, with limits, and with one error for all problems."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from batch import jsoncodec

if TYPE_CHECKING:
    from batch.model import JsonValue

LARGEST = 4 * 1024 * 1024
"""Maximum bytes of a reply, before and after its content encoding is decoded."""
DEEPEST = 64
"""Maximum levels of nesting in a reply."""


class BadReplyError(Exception):
    """The bytes are not a usable answer; the message gives the reason and quotes nothing of them."""


def json_object(body: bytes) -> dict[str, JsonValue]:
    """Decode ``body`` as one JSON object. Raises BadReplyError."""
    if len(body) > LARGEST:
        raise BadReplyError(f"the answer is larger than {LARGEST} bytes")
    try:
        value = jsoncodec.decode(body)
    except ValueError:
        raise BadReplyError("the answer is not valid JSON") from None
    if not isinstance(value, dict):
        raise BadReplyError("the answer is not a JSON object")
    if body.count(b"{") + body.count(b"[") > DEEPEST:
        _check_depth(value)
    return value


def inflate(body: bytes, encoding: str) -> bytes:
    """Decode a Content-Encoding that was sent without being requested. Raises BadReplyError, also for bombs."""
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return body
    if name not in {"gzip", "x-gzip", "deflate"}:
        raise BadReplyError("the answer has an unknown content encoding")
    # 47: gzip or zlib, by its own header.
    undo = zlib.decompressobj(47)
    try:
        plain = undo.decompress(body, LARGEST + 1)
    except zlib.error:
        raise BadReplyError("the answer's compression is broken") from None
    if len(plain) > LARGEST:
        raise BadReplyError(f"the answer is larger than {LARGEST} bytes")
    if not undo.eof:
        raise BadReplyError("the answer was cut off")
    return plain


def as_object(value: JsonValue) -> dict[str, JsonValue] | None:
    """Return ``value`` where it is an object, else None."""
    return value if isinstance(value, dict) else None


def as_text(value: JsonValue) -> str | None:
    """Return ``value`` where it is a string, else None."""
    return value if isinstance(value, str) else None


def as_number(value: JsonValue) -> float | None:
    """Return ``value`` where it is a number and not a boolean, else None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _check_depth(value: JsonValue) -> None:
    level: list[JsonValue] = [value]
    for _ in range(DEEPEST):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise BadReplyError(f"the answer is nested more than {DEEPEST} levels deep")


def _children(node: JsonValue) -> list[JsonValue]:
    if isinstance(node, dict):
        return [child for child in node.values() if isinstance(child, dict | list)]
    return [child for child in node if isinstance(child, dict | list)] if isinstance(node, list) else []
