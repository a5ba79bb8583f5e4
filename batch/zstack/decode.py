"""From bytes of a server to checked values: strict, bounded, and with one error for everything that is wrong.

orjson reads where it is installed, the standard library otherwise; both give the same values and refuse the same bytes.
"""

from __future__ import annotations

import json
import math
import zlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.model import JsonValue

LARGEST = 4 * 1024 * 1024
"""Bytes of a reply, before and after its content encoding is undone."""
DEEPEST = 64
"""Levels of nesting in a reply."""
_INTS: Final = range(-(2**63), 2**64)
_LONGEST_INT = 400


class BadReplyError(Exception):
    """The bytes are no usable answer; the message says why and repeats nothing of them."""


def json_object(body: bytes) -> dict[str, JsonValue]:
    """Decode ``body`` as one JSON object. Raises BadReplyError."""
    if len(body) > LARGEST:
        raise BadReplyError(f"the answer is larger than {LARGEST} bytes")
    value = _load(body)
    if not isinstance(value, dict):
        raise BadReplyError("the answer is not a JSON object")
    if body.count(b"{") + body.count(b"[") > DEEPEST:
        _check_depth(value)
    return value


def inflate(body: bytes, encoding: str) -> bytes:
    """Undo a Content-Encoding that was sent although none was asked for. Raises BadReplyError, also for bombs."""
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
        raise BadReplyError("the answer broke off")
    return plain


def as_object(value: JsonValue) -> dict[str, JsonValue] | None:
    """``value`` where it is an object."""
    return value if isinstance(value, dict) else None


def as_text(value: JsonValue) -> str | None:
    """``value`` where it is a string."""
    return value if isinstance(value, str) else None


def as_number(value: JsonValue) -> float | None:
    """``value`` where it is a number and not a boolean."""
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


def load_with_stdlib(body: bytes) -> Any:
    """Decode JSON with the standard library, as strictly as orjson does. Raises BadReplyError."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse, parse_int=_integer, parse_float=_finite)
        if b"\\ud" in body or b"\\uD" in body:
            # Lone surrogates decode but can never be written again.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise BadReplyError("the answer is not valid JSON") from None
    return value


def _refuse(text: str) -> None:
    raise ValueError(text)


def _integer(text: str) -> int | float:
    """Integers beyond 64 bits become floats, as orjson has it."""
    if len(text) > _LONGEST_INT:
        raise ValueError("too long")
    value = int(text)
    return value if value in _INTS else _finite(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _loader() -> Callable[[bytes], Any]:
    try:
        import orjson  # noqa: PLC0415 - optional: the extra "speed" brings it
    except ImportError:
        return load_with_stdlib

    def load(body: bytes) -> Any:
        try:
            return orjson.loads(body)
        except ValueError:
            raise BadReplyError("the answer is not valid JSON") from None

    return load


_load = _loader()
