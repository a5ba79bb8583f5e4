"""The targets of a manifest: the rows of ``list`` in the order of the plan, the records of one for ``show``."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch.keytable import KeyTable
from batch.manifest.hand_overs import hand_over_error
from batch.manifest.kinds import EndedLine, HandOverTry, PlannedLine, StartedLine
from batch.manifest.reader import open_reader
from batch.manifest.records import parse_line, parse_record
from batch.model import HandOverRecord, Record, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batch.manifest.kinds import Line
    from batch.manifest.line import Header
    from batch.manifest.reader import ManifestReader


@dataclass(frozen=True, slots=True)
class Row:
    """One target as lists, reports and filters show it."""

    key: str
    source_uuid: str
    state: State
    clone_uuid: str | None
    name: str | None
    attempts: int
    error_code: str | None
    error: str | None
    started_at: float | None
    settled_at: float | None


@dataclass(frozen=True, slots=True)
class Story:
    """All records of one target."""

    header: Header
    key: str
    source_uuid: str
    records: tuple[Record, ...]
    """In the order of time; none while the target is only planned."""
    hand_overs: tuple[HandOverRecord, ...] = ()
    """All hand-overs after its clone was made."""


def story(path: Path, key: str) -> Story | None:
    """Return the records of ``key``; None where the manifest does not have it."""
    records, hand_overs = [], []
    source: str | None = None
    with open_reader(path) as manifest:
        for body in manifest.bodies():
            line = parse_line(body)
            if isinstance(line, PlannedLine):
                source = source or dict(line.targets).get(key)
            elif isinstance(line, HandOverRecord) and line.key == key:
                hand_overs.append(line)
            elif isinstance(line, Record) and line.key == key:
                records.append(line)
    source = source or next((record.source_uuid for record in records if record.source_uuid), None)
    if source is None and not records:
        return None
    return Story(manifest.header, key, source or "", tuple(records), tuple(hand_overs))


def clone_lines(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield line number and record of each clone that is recorded as made."""
    with open_reader(path) as manifest:
        for number, body in enumerate(manifest.bodies(), 2):
            line = parse_line(body)
            if isinstance(line, Record) and line.state is State.CLONED:
                yield number, line


def rows(path: Path) -> Iterator[Row]:
    """Yield every target in the order of the plan, using 40 bytes of memory for each.

    Lines written after the call began are left out. Raises UsageError or ManifestError where the file cannot be read.
    """
    with open_reader(path) as manifest:
        index = _Index()
        for body in manifest.bodies():
            index.add(parse_line(body), manifest.place)
        yield from index.rows(manifest)


class _Index:
    """Offsets of the lines where a target is first named, first sent and last recorded, by ordinal; 0 for none."""

    def __init__(self) -> None:
        self._ordinals = KeyTable()
        self._named = array("Q")
        self._sent = array("Q")
        self._last = array("Q")
        self._has_no_refusal = False
        """Whether the last process ended, and found none of the hand-overs in the job file refused."""
        self._refused: dict[int, int] = {}
        """By ordinal the offset of the last hand-over line, where that records a refusal."""

    def add(self, line: Line, place: int) -> None:
        if isinstance(line, Record):
            ordinal = self._ordinal(line.key, place)
            if line.state is State.SENT and not self._sent[ordinal]:
                self._sent[ordinal] = place
            self._last[ordinal] = place
            if line.state is State.UNDONE:
                self._refused.pop(ordinal, None)
        elif isinstance(line, PlannedLine):
            for key, _ in line.targets:
                self._ordinal(key, place)
        elif isinstance(line, HandOverRecord):
            ordinal = self._ordinal(line.key, place)
            self._refused.pop(ordinal, None)
            if line.error_code is not None:
                self._refused[ordinal] = place
        elif isinstance(line, HandOverTry):
            self._refused.pop(self._ordinal(line.of.key, place), None)
        elif isinstance(line, StartedLine | EndedLine):
            self._has_no_refusal = isinstance(line, EndedLine) and line.has_no_refusal

    def _ordinal(self, key: str, place: int) -> int:
        hashed = hash(key)
        known = self._ordinals.get(hashed)
        if known is not None:
            return known
        ordinal = len(self._named)
        self._ordinals.put(hashed, ordinal)
        self._named.append(place)
        self._sent.append(0)
        self._last.append(0)
        return ordinal

    def rows(self, manifest: ManifestReader) -> Iterator[Row]:
        place, sources = 0, {}
        for ordinal, named in enumerate(self._named):
            if named != place:
                place, sources = named, self._sources(manifest, named)
            key, source = sources[ordinal]
            yield self._row(manifest, ordinal, key, source)

    def _sources(self, manifest: ManifestReader, place: int) -> dict[int, tuple[str, str]]:
        """Return the targets that the line at ``place`` names, by ordinal."""
        line = parse_line(manifest.body_at(place))
        if isinstance(line, Record):
            line = PlannedLine(((line.key, line.source_uuid or ""),))
        assert isinstance(line, PlannedLine)
        named = ((self._ordinals.get(hash(key)), key, source) for key, source in line.targets)
        return {ordinal: (key, source) for ordinal, key, source in named if ordinal is not None}

    def _row(self, manifest: ManifestReader, ordinal: int, key: str, source: str) -> Row:
        last, sent = self._last[ordinal], self._sent[ordinal]
        if not last:
            return Row(key, source, State.PLANNED, None, None, 0, None, None, None, None)
        record = parse_record(manifest.body_at(last))
        first = parse_record(manifest.body_at(sent)) if sent and record.attempt else None
        if record.state is State.CLONED and ordinal in self._refused and not self._has_no_refusal:
            line = parse_line(manifest.body_at(self._refused[ordinal]))
            assert isinstance(line, HandOverRecord)
            record = record._replace(error_code=line.error_code, error=hand_over_error(line))
        return Row(
            key=key,
            source_uuid=source,
            state=record.state,
            clone_uuid=record.clone_uuid,
            name=record.name,
            attempts=record.attempt,
            error_code=record.error_code,
            error=record.error,
            started_at=first.at if first is not None else None,
            settled_at=record.at if record.state.is_final else None,
        )
