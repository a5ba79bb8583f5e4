"""Counts how often each target's clone was undone: a deleted uuid stays occupied, so the next clone has another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.keytable import KeyTable

if TYPE_CHECKING:
    from batch.model import Record


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
        """Add a record that the clone of a target was undone."""
        self._generations.put(hash(record.key), self.generation(record.key) + 1)
        self.deleting.discard(record.key)
        for uuid in filter(None, (record.clone_uuid, record.resource_uuid)):
            self._uuids.put(hash(uuid), 1)

    def generation(self, key: str) -> int:
        """Return how often a target's clone was undone."""
        return self._generations.get(hash(key)) or 0

    def has_uuid(self, uuid: str) -> bool:
        """Return whether a clone that was undone had this uuid."""
        return self._uuids.get(hash(uuid)) is not None
