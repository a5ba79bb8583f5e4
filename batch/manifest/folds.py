"""Folds of single facts of a manifest: the values that plans took from the server, and the uuids of its clones.

A deleted uuid stays occupied, so that the next clone of an undone target has another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.keytable import KeyTable
from batch.model import UNKNOWN_JOB, Pins

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batch.model import JsonValue, Record


class UuidFold:
    """Whether clones have the uuids that were requested for them."""

    def __init__(self) -> None:
        """Start without clones."""
        self.was_honoured = False
        self.was_ignored = False
        self.unrequested: dict[str, str] = {}
        """By key the uuid of each clone whose ``sent`` line was lost to damage, until the first that has its uuid."""

    def lose_lines(self) -> None:
        """Add a repair: a clone whose uuid no line requested may have the one that a lost line requested."""
        self.was_ignored = False

    def add(self, cloned: Record, records: Iterable[Record]) -> None:
        """Add a record that a target was cloned; ``records`` are those of its attempts."""
        known = [*records]
        wanted = {record.resource_uuid for record in known if record.resource_uuid}
        has_lost_lines = any(UNKNOWN_JOB in (record.open_jobs or ()) for record in known)
        if cloned.clone_uuid in wanted:
            self.was_honoured = True
        elif wanted and not has_lost_lines:
            self.was_ignored = True
        elif cloned.clone_uuid is not None and not self.was_honoured:
            self.unrequested[cloned.key] = cloned.clone_uuid


class UndoneFold:
    """Generations by key, and the uuids that are used up; some 20 bytes each."""

    def __init__(self) -> None:
        """Start empty."""
        self._generations = KeyTable(2)
        self._uuids = KeyTable(1)
        self.deleting: set[str] = set()
        """Keys of the clones with a DELETE on record that are not known to be gone."""

    def __bool__(self) -> bool:
        return len(self._generations) > 0

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
