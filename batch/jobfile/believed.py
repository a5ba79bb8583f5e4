"""Rows of JSON Lines that were found good before: read again for what is in them, without another look at values."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from batch.jobfile.job import Layer, Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.jobfile.job import Entry

_DOLLAR: Final = ord("$")
_BACKSLASH: Final = ord("\\")
"""A dollar may also be written as the escape for 0024. One byte is looked for much faster than a text."""
_NO_COLUMNS: Final[dict[str, str]] = {}


def _loader() -> Callable[[bytes], Any]:
    try:
        fast: Callable[[bytes], Any] = import_module("orjson").loads
    except ImportError:
        decode = json.JSONDecoder().decode
        return lambda line: decode(line.decode())
    return fast


_load: Final = _loader()


def believed(line: bytes, entry: Entry, uuid: str | None) -> Target | None:
    """Read a row of uuid, id and parameters without templates; None for all others, which are to be read in full.

    Types and the uuid, which becomes part of a URL, are looked at all the same: the file may just be written to.
    """
    if _DOLLAR in line or (_BACKSLASH in line and b"\\u0024" in line):
        return None
    try:
        row = _load(line)
    except (ValueError, RecursionError):
        return None
    if row.__class__ is not dict:
        return None
    own, identity, params = row.pop("uuid", uuid), row.pop("id", None), row.pop("params", None)
    if row or params.__class__ is not dict or own.__class__ is not str:
        return None
    if len(own) != 32 or not own.isalnum() or not own.isascii():
        return None
    if identity is not None and (identity.__class__ is not str or not identity):
        return None
    assert entry.origin is not None
    return Target(entry, Layer(params), own, identity, _NO_COLUMNS, entry.origin)
