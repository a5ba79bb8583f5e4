"""JSON to and from text and bytes, and decoded values by type, for manifest, log, client and reports.

orjson decodes where it is installed, else the standard library: both return the same values and reject the same bytes.
The standard library encodes, so that the output never depends on what is installed.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.model import JsonValue

_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1

encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
"""Return compact JSON text. Raises ValueError for NaN and infinity."""
encode_canonical: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), sort_keys=True).encode
"""Return compact JSON text in ASCII with sorted keys: equal values have equal texts, so that it can be hashed."""


def _refuse(text: str) -> None:
    raise ValueError(text)


def _integer(text: str) -> int | float:
    """Return an integer; beyond 64 bits a float, as orjson does."""
    value = int(text)
    return value if _LEAST <= value <= _MOST else _finite(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_decode: Final = json.JSONDecoder(parse_constant=_refuse, parse_int=_integer, parse_float=_finite).decode


def decode_with_stdlib(body: bytes) -> Any:
    """Decode JSON with the standard library, as strictly as orjson does. Raises ValueError."""
    try:
        value = _decode(body.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if b"\\ud" in body or b"\\uD" in body:
        # Lone surrogates decode, but cannot be encoded as UTF-8.
        encode(value).encode("utf-8")
    return value


def _decoder() -> Callable[[bytes], Any]:
    try:
        import orjson  # noqa: PLC0415 - optional: the extra "speed" brings it
    except ImportError:
        return decode_with_stdlib
    return orjson.loads


decode: Final = _decoder()
"""Decode UTF-8 JSON; NaN, numbers beyond a double and lone surrogates are rejected. Raises ValueError."""


def decode_own(body: bytes) -> Any:
    """Decode JSON that this project wrote: like ``decode``, but with lone surrogates, which file names may contain."""
    try:
        return decode(body)
    except ValueError:
        return json.loads(body)


def as_object(value: JsonValue) -> dict[str, JsonValue] | None:
    """Return ``value`` where it is an object, else None."""
    return value if isinstance(value, dict) else None


def as_text(value: JsonValue) -> str | None:
    """Return ``value`` where it is a string, else None."""
    return value if isinstance(value, str) else None


def as_number(value: JsonValue) -> float | None:
    """Return ``value`` where it is a number and not a boolean, else None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
