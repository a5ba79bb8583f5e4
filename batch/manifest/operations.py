"""Lines for what a process does besides cloning: continue targets, connect, change limits, delete, update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from batch.errors import ManifestError
from batch.manifest.kinds import (
    AdoptedLine,
    ConnectedLine,
    ControlledLine,
    DeletingLine,
    TakenUpLine,
    UpdatedLine,
    UpdatingLine,
)
from batch.manifest.line import encode, number, require_field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.model import JsonValue

Operation: TypeAlias = (
    AdoptedLine | TakenUpLine | ConnectedLine | ControlledLine | DeletingLine | UpdatingLine | UpdatedLine
)


def encode_operation(line: Operation) -> bytes:
    """Return the line's open body."""
    if isinstance(line, AdoptedLine):
        return encode([("adopted_by", line.user), ("begun_by", line.begun_by), ("at", line.at)])
    if isinstance(line, TakenUpLine):
        return encode([("taken_up", list(line.keys)), ("at", line.at)])
    if isinstance(line, ConnectedLine):
        return encode([("connected", line.at), ("account", line.account), ("rate", line.rate)])
    if isinstance(line, ControlledLine):
        return encode(
            [
                ("controlled", line.order),
                ("at", line.at),
                ("rate", line.rate),
                ("concurrency", line.concurrency),
                ("paused", line.is_paused or None),
                ("draining", line.is_draining or None),
            ]
        )
    if isinstance(line, DeletingLine):
        return encode([("deleting", line.key), ("at", line.at), *_uuids(line)])
    fields: JsonValue = list(line.fields)
    if isinstance(line, UpdatingLine):
        return encode(
            [("mending", line.key), ("at", line.at), *_uuids(line), ("fields", fields), ("digest", line.digest)]
        )
    return encode([("mended", line.key), ("at", line.at), ("clone_uuid", line.clone_uuid), ("fields", fields)])


def _uuids(line: DeletingLine | UpdatingLine) -> list[tuple[str, JsonValue]]:
    return [("clone_uuid", line.clone_uuid), ("job_uuid", line.job_uuid)]


def parse_connected(found: Mapping[str, Any]) -> ConnectedLine:
    """Parse the fields of a line. Raises ManifestError where one has the wrong type."""
    account = found.get("account")
    if not isinstance(account, str | None):
        raise ManifestError("a line has no text as account")
    return ConnectedLine(number(found, "connected"), account, number(found, "rate"))


def parse_controlled(found: Mapping[str, Any]) -> ControlledLine:
    """Parse the fields of a line. Raises ManifestError where one has the wrong type."""
    order, concurrency = require_field(found, "controlled", str), require_field(found, "concurrency", int)
    is_paused, is_draining = found.get("paused") is True, found.get("draining") is True
    rate = number(found, "rate")
    return ControlledLine(number(found, "at"), order, rate, concurrency, is_paused, is_draining)


def parse_deleting(found: Mapping[str, Any]) -> DeletingLine:
    """Parse the fields of a line. Raises ManifestError where one has the wrong type."""
    key, clone, job = (require_field(found, name, str) for name in ("deleting", "clone_uuid", "job_uuid"))
    return DeletingLine(key, number(found, "at"), clone, job)


def parse_updating(found: Mapping[str, Any]) -> UpdatingLine:
    """Parse the fields of a line. Raises ManifestError where one has the wrong type."""
    key, clone, job, digest = (
        require_field(found, name, str) for name in ("mending", "clone_uuid", "job_uuid", "digest")
    )
    return UpdatingLine(key, number(found, "at"), clone, job, _texts(found, "fields"), digest)


def parse_updated(found: Mapping[str, Any]) -> UpdatedLine:
    """Parse the fields of a line. Raises ManifestError where one has the wrong type."""
    key, clone = (require_field(found, name, str) for name in ("mended", "clone_uuid"))
    return UpdatedLine(key, number(found, "at"), clone, _texts(found, "fields"))


def parse_adopted(found: Mapping[str, Any]) -> AdoptedLine:
    """Parse the fields of a line. Raises ManifestError where one has the wrong type."""
    return AdoptedLine(
        require_field(found, "adopted_by", str), require_field(found, "begun_by", str), number(found, "at")
    )


def parse_taken_up(found: Mapping[str, Any]) -> TakenUpLine:
    """Parse the fields of a line. Raises ManifestError where one has the wrong type."""
    return TakenUpLine(_texts(found, "taken_up"), number(found, "at"))


def _texts(found: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(map(str, require_field(found, name, list)))
