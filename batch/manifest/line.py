"""One line of the manifest: JSON with a batch number and a checksum chained over the line before.

``{…,"batch":7,"more":true,"crc":"0a1b2c3d"}``: the checksum is the CRC-32 of the bytes before ``,"crc":``, started from
the checksum of the line before. ``batch`` numbers the group commit that wrote the line: 8 is written only after the
fsync of 7 returned. ``more`` says that the line after belongs to the same batch. So a reader can tell a torn tail, of
which nothing was ever promised, from damage to what was durable.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import zlib
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, Final

from batch.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batch.model import JsonValue

SEAL: Final = 18
"""Length of ``,"crc":"0a1b2c3d"}``."""
MAX_LINE: Final = 4 << 20
"""Longer lines are never written, so a reader need not hold more."""
_SEAL: Final = b',"crc":"%08x"}'
_UNSAFE: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def _orjson() -> Any:
    try:
        return importlib.import_module("orjson")
    except ImportError:
        return None


_ORJSON: Final = _orjson()
"""The extra [speed] brings it; the standard library reads and writes the same lines."""


def quote(text: str) -> str:
    """Return ``text`` as a JSON string; whatever could move a terminal's cursor or is no character is escaped."""
    quoted = encode_basestring(text)
    return quoted if quoted.isascii() and "\x7f" not in quoted else _UNSAFE.sub(_escape, quoted)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def encode(fields: Iterable[tuple[str, JsonValue]]) -> bytes:
    """Return the open body of a line: a JSON object without its closing brace, fields that are None left out.

    Raises ValueError for numbers that JSON cannot hold.
    """
    parts = [f'"{name}":{encode_value(value)}' for name, value in fields if value is not None]
    return ("{" + ",".join(parts)).encode()


def encode_fast(fields: Mapping[str, JsonValue]) -> bytes | None:
    """Return what ``encode`` returns for fields without None; itself None where only ``encode`` can tell.

    Floats must be at least 1 and below 1e15: others are written in more than one way, and infinite ones as null.
    """
    if _ORJSON is None:
        return None
    try:
        body: bytes = _ORJSON.dumps(fields)[:-1]
    except TypeError:  # a lone surrogate, a huge number
        return None
    return body if body.isascii() and b"\x7f" not in body else _UNSAFE.sub(_escape, body.decode()).encode()


def encode_value(value: JsonValue) -> str:
    """Return ``value`` as JSON. Raises ValueError for numbers that it cannot hold."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no place in a manifest")
        return repr(value)
    if isinstance(value, str):
        return quote(value)
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, list):
        return "[" + ",".join(map(encode_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{quote(name)}:{encode_value(inner)}" for name, inner in value.items()) + "}"
    raise TypeError(f"a manifest line holds no {type(value).__name__}")


def seal(bodies: Sequence[bytes], crc: int, *, batch: int) -> tuple[bytes, int]:
    """Return the whole lines of a batch after a line with checksum ``crc``, and the checksum of the last of them."""
    last, more = b',"batch":%d' % batch, b',"batch":%d,"more":true' % batch
    parts: list[bytes] = []
    for left, body in zip(range(len(bodies) - 1, -1, -1), bodies, strict=True):
        number = more if left else last
        crc = zlib.crc32(number, zlib.crc32(body, crc))
        parts += (body, number, _SEAL % crc, b"\n")
    return b"".join(parts), crc


def unseal(line: bytes, crc: int) -> tuple[bytes, int] | None:
    """Return the body of a line without its newline and its checksum; None where it does not follow ``crc``."""
    body = line[:-SEAL]
    crc = zlib.crc32(body, crc)
    return (body, crc) if body and line[-SEAL:] == _SEAL % crc else None


def fields(body: bytes) -> dict[str, Any]:
    """Return the fields of an unsealed body. Raises ManifestError where it is no JSON object."""
    text = body + b"}"
    try:
        found = _loads(text)
    except (ValueError, RecursionError):
        raise ManifestError("a line with a good checksum is no JSON: it was not written by zclone") from None
    if not isinstance(found, dict):
        raise ManifestError("a line with a good checksum is no JSON object: it was not written by zclone")
    return found


def _loads(text: bytes) -> Any:
    if _ORJSON is not None:
        try:
            return _ORJSON.loads(text)
        except ValueError:
            # Lone surrogates and huge integers are read by the standard library only; both must agree.
            pass
    return json.loads(text)
