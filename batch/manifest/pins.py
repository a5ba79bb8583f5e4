"""The pins of a run, merged from the lines that added to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.model import Pins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.model import JsonValue


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
