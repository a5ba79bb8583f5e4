"""One line of the manifest: JSON with a batch number and a checksum chained over the line before.

``{…,"batch":7,"more":true,"crc":"0a1b2c3d"}``: the checksum is the CRC-32 of the bytes before ``,"crc":``, started from
the checksum of the line before. ``batch`` numbers the group commit that wrote the line: 8 is written only after the
fsync of 7 returned. ``more`` says that the next line belongs to the same batch. So a reader can distinguish a torn
tail, which was never promised to be durable, from damage to durable lines.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Any, Final

from batch import jsoncodec
from batch.errors import ManifestError
from batch.text import escape_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batch.model import JsonValue

SEAL: Final = 18
"""Length of ``,"crc":"0a1b2c3d"}``."""
MAX_LINE: Final = 4 << 20
"""Longer lines are never written, so a reader need not buffer more."""
MIN_TIME: Final = -62_135_596_800
"""Seconds since the epoch of the year 1. A wrong clock may show years before 1970, and they are recorded."""
MAX_TIME: Final = 253_402_300_800
"""Seconds since the epoch of the year 10000."""
_BATCH: Final = re.compile(rb',"batch":\d+(?:,"more":true)?$')
_SEAL: Final = b',"crc":"%08x"}'


def encode(fields: Iterable[tuple[str, JsonValue]]) -> bytes:
    """Return the open body of a line: a JSON object without its closing brace and without fields that are None.

    Control sequences and noncharacters are escaped. Raises ValueError for numbers that JSON cannot represent.
    """
    present = {name: value for name, value in fields if value is not None}
    try:
        return escape_json(jsoncodec.encode(present))[:-1].encode()
    except ValueError:
        raise ValueError("a manifest cannot hold NaN or infinity") from None


def seal(bodies: Sequence[bytes], crc: int, *, batch: int) -> tuple[bytes, int]:
    """Return the sealed lines of a batch after a line with checksum ``crc``, and the checksum of the last of them."""
    last, more = b',"batch":%d' % batch, b',"batch":%d,"more":true' % batch
    parts: list[bytes] = []
    for left, body in zip(range(len(bodies) - 1, -1, -1), bodies, strict=True):
        number = more if left else last
        crc = zlib.crc32(number, zlib.crc32(body, crc))
        parts += (body, number, _SEAL % crc, b"\n")
    return b"".join(parts), crc


def unseal(line: bytes, crc: int) -> tuple[bytes, int] | None:
    """Return the body of a line without its newline, and its checksum; None where it does not follow ``crc``."""
    body = line[:-SEAL]
    crc = zlib.crc32(body, crc)
    return (body, crc) if body and line[-SEAL:] == _SEAL % crc else None


def without_batch(body: bytes) -> bytes:
    """Return an unsealed body without its batch number, to be sealed in another file."""
    return _BATCH.sub(b"", body)


def decode(body: bytes) -> dict[str, Any]:
    """Return the fields of an unsealed body. Raises ManifestError where it is not a JSON object."""
    try:
        # Only an object ends with a brace.
        found: dict[str, Any] = jsoncodec.decode_own(body + b"}")
    except (ValueError, RecursionError):
        raise ManifestError("a line with a good checksum is not a JSON object: it was not written by zclone") from None
    return found


def require_field(found: Mapping[str, Any], name: str, kind: type) -> Any:
    """Return the field ``name``. Raises ManifestError where it is not a ``kind``, or negative."""
    value = found.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ManifestError(f"a line has no {kind.__name__} as {name}")
    if isinstance(value, int) and value < 0:
        raise ManifestError(f"a line has a negative {name}: it was not written by zclone")
    return value


def number(found: Mapping[str, Any], name: str) -> float:
    """Return the number ``name``, a time in seconds. Raises ManifestError."""
    value = found.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ManifestError(f"a line has no number as {name}")
    if not (0 if name == "api_timeout" else MIN_TIME) <= value < MAX_TIME:
        raise ManifestError(f"a line has an impossible time as {name}: it was not written by zclone")
    return float(value)
