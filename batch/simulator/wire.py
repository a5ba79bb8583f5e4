"""Network data: requests, deliveries, the schema of answers, and the JSON of the management node."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


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


def without_nulls(value: Any) -> Any:
    """Drop null members of objects at every depth, as Gson does."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def event_json(value: Any, *, html_escape: bool = True) -> bytes:
    """Serialise like CloudBusGson: nulls omitted, HTML characters escaped, UTF-8 (zstack/README.md 1)."""
    text = _encode(without_nulls(value))
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


_ENTITY: Final = "org.zstack.ai.entity"
_DATES: Final = frozenset({"createDate", "lastOpDate"})
_CLASSES: Final = {
    "modelServiceImages": f"{_ENTITY}.ModelServiceImageInventory",
    "modelServiceRefs": f"{_ENTITY}.ModelServiceRefInventory",
    "instances": f"{_ENTITY}.ModelServiceInstanceInventory",
}
"""Members of inventories that hold inventories themselves."""
NESTED: Final = {
    "modelServiceImages": frozenset({"uuid", "modelServiceUuid", "cpuArchitecture", "vmImageUuid", "dockerImage"})
    | _DATES,
    "modelServiceRefs": frozenset({"uuid", "modelUuid", "modelServiceUuid", "isDefault"}) | _DATES,
    "instances": frozenset({"uuid", "name", "status", "url", "vmInstanceUuid"}) | _DATES,
}
"""Their fields, which queries name with a dot."""


def list_schema(key: str, rows: Iterable[Json], inventory: str) -> dict[str, str]:
    """Name the class of each row below ``key`` and of the inventories within, these first."""
    schema: dict[str, str] = {}
    for number, row in enumerate(rows):
        schema |= object_schema(f"{key}[{number}]", row, inventory)
    return schema


def object_schema(path: str, row: Json, inventory: str) -> dict[str, str]:
    """Name the class of one row at ``path`` and of the inventories within, these first."""
    inner = {
        f"{path}.{name}[{number}]": class_name
        for name, class_name in _CLASSES.items()
        for number in range(len(row.get(name) or ()))
    }
    return inner | {path: inventory}
