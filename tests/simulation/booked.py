"""What the bytes of a manifest say, by its own line reader and without its fold."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from batch.errors import ManifestError
from batch.manifest import Header
from batch.manifest.chain import Scan
from batch.manifest.header import parse_header
from batch.manifest.intents import follow
from batch.manifest.records import parse_line
from batch.model import Record

if TYPE_CHECKING:
    from batch.model import Intent, State

URL = "http://node.example/zstack"
HEADER = Header("sim", "default", URL, simulated=False)
"""Whose manifest it is."""


@lru_cache(maxsize=32)
def records(data: bytes) -> tuple[Record, ...]:
    """Return the clone records. Raises ManifestError where the chain is damaged; a torn tail is left out."""
    bodies = list(Scan(lambda offset, size: data[offset : offset + size]))
    if bodies and parse_header(bodies[0]) != HEADER:
        raise ManifestError("the header is not ours")
    lines = map(parse_line, bodies[1:])
    return tuple(line for line in lines if isinstance(line, Record))


def last_states(data: bytes) -> dict[str, State]:
    """Give the last state of each key."""
    return {record.key: record.state for record in records(data)}


def intents(data: bytes) -> dict[str, Intent]:
    """Give what each key's records come to, settled or not."""
    found: dict[str, Intent] = {}
    for record in records(data):
        found[record.key] = follow(found.get(record.key), record)
    return found
