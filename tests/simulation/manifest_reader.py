"""What the bytes of a manifest say, by a line reader of its own and without the product's fold."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from batch.errors import ManifestError
from batch.manifest import Header
from batch.manifest.chain import Scan
from batch.manifest.folds import next_intent
from batch.manifest.kinds import PlannedLine
from batch.manifest.line import parse_header
from batch.manifest.records import parse_line
from batch.model import Record, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batch.manifest.kinds import Line
    from batch.model import Clone, Intent

URL = "http://node.example/zstack"
HEADER = Header("sim", "default", URL, simulated=False)
"""The header of the manifest."""


@lru_cache(maxsize=32)
def _lines(data: bytes) -> tuple[Line, ...]:
    bodies = list(Scan(lambda offset, size: data[offset : offset + size]))
    # A repair puts the flag of any process into the header.
    if bodies and replace(parse_header(bodies[0]), at_most_once=False) != HEADER:
        raise ManifestError("the header is not ours")
    return tuple(map(parse_line, bodies[1:]))


@lru_cache(maxsize=32)
def records(data: bytes) -> tuple[Record, ...]:
    """Return the clone records. Raises ManifestError if the chain is damaged; a torn tail is left out."""
    return tuple(line for line in _lines(data) if isinstance(line, Record))


def last_states(data: bytes) -> dict[str, State]:
    """Return the last state of each key."""
    return {record.key: record.state for record in records(data)}


def known_states(data: bytes) -> dict[str, State]:
    """Return the last state of each key, also of those that are only planned, in the order of their appearance."""
    found: dict[str, State] = {}
    for line in _lines(data):
        if isinstance(line, PlannedLine):
            found |= {key: found.get(key, State.PLANNED) for key, _ in line.targets}
        elif isinstance(line, Record):
            found[line.key] = line.state
    return found


def proven(data: bytes, planned: Iterable[Clone] = ()) -> bool:
    """Return whether a manifest shows that the server made a clone under the requested uuid.

    ``planned``: targets whose derived uuids no other service has, so that a clone shows it though its sent line is
    lost.
    """
    uuids = {record.resource_uuid for record in records(data) if record.state is State.SENT}
    uuids |= {clone.resource_uuid for clone in planned if not clone.is_given}
    return any(record.state is State.CLONED and record.clone_uuid in uuids for record in records(data))


def intents(data: bytes) -> dict[str, Intent]:
    """Return the intent of each key's records, settled or not."""
    found: dict[str, Intent] = {}
    for record in records(data):
        found[record.key] = next_intent(found.get(record.key), record)
    return found
