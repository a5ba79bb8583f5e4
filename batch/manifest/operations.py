"""Lines for what a process does besides cloning: resume, connect, change limits, delete, update; pins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from batch.errors import ManifestError
from batch.keytable import KeyTable
from batch.manifest.hand_overs import encode_try
from batch.manifest.kinds import (
    AdoptedLine,
    ConnectedLine,
    ControlledLine,
    DeletingLine,
    HandOverTry,
    TakenUpLine,
    UpdatedLine,
    UpdatingLine,
)
from batch.manifest.line import encode_line, number, require_field
from batch.model import Pins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.model import JsonValue, Record

Operation: TypeAlias = (
    AdoptedLine | TakenUpLine | ConnectedLine | ControlledLine | DeletingLine | HandOverTry | UpdatingLine | UpdatedLine
)


def encode_operation(line: Operation) -> bytes:
    """Return the line's open body."""
    if isinstance(line, AdoptedLine):
        return encode_line([("adopted_by", line.user), ("begun_by", line.begun_by), ("at", line.at)])
    if isinstance(line, TakenUpLine):
        return encode_line([("taken_up", list(line.keys)), ("at", line.at)])
    if isinstance(line, ConnectedLine):
        return encode_line([("connected", line.at), ("account", line.account), ("rate", line.rate)])
    if isinstance(line, ControlledLine):
        return encode_line(
            [
                ("controlled", line.order),
                ("at", line.at),
                ("rate", line.rate),
                ("concurrency", line.concurrency),
                ("paused", line.is_paused or None),
                ("draining", line.is_draining or None),
            ]
        )
    if isinstance(line, HandOverTry):
        return encode_try(line)
    if isinstance(line, DeletingLine):
        return encode_line([("deleting", line.key), ("at", line.at), *_uuids(line), *_flags(line)])
    fields: JsonValue = list(line.fields)
    if isinstance(line, UpdatingLine):
        what: list[tuple[str, JsonValue]] = [("fields", fields), ("digest", line.digest)]
        return encode_line([("mending", line.key), ("at", line.at), *_uuids(line), *what, *_flags(line)])
    return encode_line([("mended", line.key), ("at", line.at), ("clone_uuid", line.clone_uuid), ("fields", fields)])


def _uuids(line: DeletingLine | UpdatingLine) -> list[tuple[str, JsonValue]]:
    return [("clone_uuid", line.clone_uuid), ("job_uuid", line.job_uuid)]


def _flags(line: DeletingLine | UpdatingLine) -> list[tuple[str, JsonValue]]:
    return [("sent_before", line.was_sent_before or None), ("refused", line.is_refused or None)]


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
    was_sent_before, is_refused = _parse_flags(found)
    return DeletingLine(key, number(found, "at"), clone, job, was_sent_before, is_refused)


def parse_updating(found: Mapping[str, Any]) -> UpdatingLine:
    """Parse the fields of a line. Raises ManifestError where one has the wrong type."""
    key, clone, job, digest = (
        require_field(found, name, str) for name in ("mending", "clone_uuid", "job_uuid", "digest")
    )
    fields, (was_sent_before, is_refused) = _texts(found, "fields"), _parse_flags(found)
    return UpdatingLine(key, number(found, "at"), clone, job, fields, digest, was_sent_before, is_refused)


def _parse_flags(found: Mapping[str, Any]) -> tuple[bool, bool]:
    return found.get("sent_before") is True, found.get("refused") is True


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


class UndoneFold:
    """Generations by key, and the uuids that are used up; some 20 bytes each.

    A deleted uuid stays occupied, so that the next clone of an undone target has another one.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._generations = KeyTable(2)
        self._uuids = KeyTable(1)
        self.deleting: set[str] = set()
        """Keys of the clones with a DELETE on record that was not refused, and that are not known to be gone."""

    def __bool__(self) -> bool:
        return len(self._generations) > 0

    def add_deletion(self, line: DeletingLine) -> None:
        """Add a DELETE, or that the last one was refused."""
        if line.is_refused:
            self.deleting.discard(line.key)
        else:
            self.deleting.add(line.key)

    def add(self, record: Record) -> None:
        """Add a record that the clone of a target was undone; a repeated one changes nothing."""
        self.deleting.discard(record.key)
        uuids = [uuid for uuid in (record.clone_uuid, record.resource_uuid) if uuid is not None]
        if not uuids or not all(map(self.has_uuid, uuids)):
            self._generations.put(hash(record.key), self.generation(record.key) + 1)
        for uuid in uuids:
            self._uuids.put(hash(uuid), 1)

    def generation(self, key: str) -> int:
        """Return how often a target's clone was undone."""
        return self._generations.get(hash(key)) or 0

    def has_uuid(self, uuid: str) -> bool:
        """Return whether a clone that was undone had this uuid."""
        return self._uuids.get(hash(uuid)) is not None


class PinFold:
    """The pins so far; ``pins`` is a live view."""

    def __init__(self) -> None:
        """Start without pins."""
        self._sources: dict[str, Mapping[str, JsonValue]] = {}
        self._queries: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.pins = Pins(self._sources, self._queries)

    def take(self, more: Pins) -> None:
        """Add fields to those of their source, and found uuids to those of their query."""
        for uuid, fields in more.sources.items():
            self._sources[uuid] = {**self._sources.get(uuid, {}), **fields}
        for conditions, uuids in more.queries.items():
            self._queries[conditions] = (*self._queries.get(conditions, ()), *uuids)
