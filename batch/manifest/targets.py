"""The targets of a manifest by key, read from the file on demand; they take some 40 bytes of memory each."""

from __future__ import annotations

import hashlib
from array import array
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from batch.errors import REPAIRED
from batch.keytable import KeyTable
from batch.manifest import kinds
from batch.manifest.line import SEAL
from batch.manifest.operations import PinFold, UndoneFold
from batch.manifest.reader import open_reader
from batch.manifest.records import parse_line, parse_record
from batch.manifest.target_state import TargetState, open_jobs_at
from batch.model import HandOverRecord, Pins, Record, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batch.manifest.kinds import Line
    from batch.manifest.line import Header
    from batch.manifest.reader import ManifestReader

_NOBODY: Final = 0
_UNKNOWN: Final = 1
"""Placeholder for an account: none was recorded, or several made attempts."""
_NEW_OWNER, _SHARED, _HANDED_OVER, _REPEATED, _LOST = 1, 2, 4, 8, 16
_COPY: Final = 1 << 20
_Call = TypeVar("_Call", kinds.DeletingLine, kinds.UpdatingLine)


class Targets:
    """Every target of a manifest, in the order in which they are first named. Created by ``open_targets``."""

    def __init__(self, manifest: ManifestReader, max_lines: int | None = None) -> None:
        """Read the first ``max_lines`` lines, all where that is None. Raises ManifestError."""
        self._manifest = manifest
        self._ordinals = KeyTable()
        self._named = array("Q")
        self._sent = array("Q")
        self._last = array("Q")
        self._maker = array("H")
        self._flags = bytearray()
        self._accounts = ["", ""]
        self._caller = _UNKNOWN
        self._page: tuple[int, dict[int, tuple[str, str]]] = (-1, {})
        self._pinned = PinFold()
        self.undone = UndoneFold()
        self.deleting: dict[str, kinds.DeletingLine] = {}
        """By key the last DELETE of a clone that is not confirmed to be gone, unless it was refused."""
        self.updating: dict[str, kinds.UpdatingLine] = {}
        """By key the last PUT to a clone whose fields are not confirmed to be set, unless it was refused."""
        self.plan: kinds.PlanLine | None = None
        """The last recorded plan."""
        self.plans: set[str] = set()
        """Digests of all recorded plans."""
        self.has_hand_overs = False
        """Whether any of them had hand-overs."""
        self.is_repaired = False
        """Whether lines were lost to damage, such as those that name accounts and owners."""
        self._lost_at = 0.0
        self.is_merged = False
        """Whether the manifest is a merge of all shards of a run."""
        self.rate: float | None = None
        """Calls a second of the last process that connected, None where it was not recorded."""
        self.api_timeout: float | None = None
        """The longest apiTimeout that the server reported for a clone, in seconds; None where it reported none."""
        self.ended: kinds.EndedLine | None = None
        """End of the last process."""
        for body in manifest.bodies():
            self._add(parse_line(body), manifest.place)
            if manifest.scan.line == max_lines:
                break

    def __len__(self) -> int:
        return len(self._named)

    @property
    def header(self) -> Header:
        """The manifest's first line."""
        return self._manifest.header

    @property
    def pins(self) -> Pins:
        """Values that the plans took from the server."""
        return self._pinned.pins

    @property
    def lines(self) -> int:
        """Number of whole lines, including the header."""
        return self._manifest.scan.line

    @property
    def checksum(self) -> str:
        """Checksum of the last whole line, 8 hex digits, which depend on all lines."""
        return self._manifest.read(self._manifest.scan.offset - SEAL - 1, SEAL)[-10:-2].decode()

    def sha256(self) -> str:
        """Return the SHA-256 of the bytes of all whole lines, 64 hex digits."""
        total, offset, end = hashlib.sha256(), 0, self._manifest.scan.offset
        while offset < end:
            data = self._manifest.read(offset, min(_COPY, end - offset))
            total.update(data)
            offset += len(data) or end
        return total.hexdigest()

    def line_of(self, ordinal: int) -> int:
        """Return the number, from 1, of the last line that records a target."""
        place, offset, line = self._last[ordinal] or self._named[ordinal], 0, 1
        while offset < place:
            data = self._manifest.read(offset, min(_COPY, place - offset))
            line += data.count(b"\n")
            offset += len(data) or place
        return line

    @property
    def later_lines(self) -> int:
        """Return the number of whole lines after those that were read."""
        offset, count = self._manifest.scan.offset, 0
        while data := self._manifest.read(offset, _COPY):
            count += data.count(b"\n")
            offset += len(data)
        return count

    def find(self, key: str) -> int | None:
        """Return the ordinal of a target, None where it is not recorded. Exact except for keys that share a hash."""
        ordinal = self._ordinals.get(hash(key))
        return ordinal if ordinal is not None and self._name_of(ordinal)[0] == key else None

    def read(self, ordinal: int) -> TargetState:
        """Return a target by its ordinal."""
        key, source = self._name_of(ordinal)
        last, sent, maker = self._last[ordinal], self._sent[ordinal], self._maker[ordinal]
        if not last:
            return TargetState(key, source, State.PLANNED, None, None, 0, "", None, None, None, has_new_owner=False)
        record = parse_record(self._manifest.body_at(last))
        attempt, flags = parse_record(self._manifest.body_at(sent)) if sent else None, self._flags[ordinal]
        return TargetState(
            key,
            source or record.source_uuid or "",
            record.state,
            record.clone_uuid or record.resource_uuid or (None if attempt is None else attempt.resource_uuid),
            record.name,
            record.attempt,
            record.digest or (None if attempt is None else attempt.digest) or "",
            record.error_code,
            record.error,
            self._accounts[maker] or None,
            has_new_owner=bool(flags & _NEW_OWNER),
            is_shared=bool(flags & _SHARED),
            is_handed_over=bool(flags & _HANDED_OVER),
            at=record.at,
            asked_uuid=None if attempt is None else attempt.resource_uuid,
            asked_at=0.0 if attempt is None else attempt.at,
            open_jobs=() if attempt is None else open_jobs_at(attempt, is_repeat=bool(flags & _REPEATED)),
            is_foreign=record.made_elsewhere is True,
            # An attempt to make what exists was recorded before the clone was, and before the loss was found.
            lost_at=min(record.at, self._lost_at) if self.is_repaired or flags & _LOST else 0.0,
        )

    def _add(self, line: Line, place: int) -> None:
        if isinstance(line, Record):
            self._add_record(line, place)
        elif isinstance(line, kinds.PlannedLine):
            for key, _ in line.targets:
                self._ordinal(key, place)
        elif isinstance(line, HandOverRecord):
            given, shared = line.wanted.owner is not None, bool(line.wanted.share_with)
            done = _HANDED_OVER * (line.error_code is None)
            self._flags[self._ordinal(line.key, place)] |= _NEW_OWNER * given | _SHARED * shared | done
        elif isinstance(line, kinds.HandOverTry):
            self._flags[self._ordinal(line.of.key, place)] |= _NEW_OWNER * (not line.is_unexecuted)
        elif isinstance(line, kinds.DeletingLine):
            _put(self.deleting, line)
        elif isinstance(line, kinds.UpdatingLine):
            _put(self.updating, line)
        elif isinstance(line, kinds.UpdatedLine):
            self.updating.pop(line.key, None)
        elif isinstance(line, Pins):
            self._pinned.take(line)
        else:
            self._add_process(line)

    def _add_process(self, line: Line) -> None:
        if isinstance(line, kinds.StartedLine):
            self._caller, self.rate, self.ended = _UNKNOWN, None, None
        elif isinstance(line, kinds.EndedLine):
            self.ended = line
        elif isinstance(line, kinds.MergedLine):
            self.is_merged = True
        elif isinstance(line, kinds.RepairedLine):
            self.is_repaired, self._lost_at = True, max(self._lost_at, line.at)
        elif isinstance(line, kinds.PlanLine):
            self.plan = line
            self.plans.add(line.digest)
            self.has_hand_overs = self.has_hand_overs or line.hand_overs > 0
        elif isinstance(line, kinds.ControlledLine):
            self.rate = line.rate
        elif isinstance(line, kinds.ConnectedLine):
            self.rate = line.rate
            if line.account:
                if line.account not in self._accounts:
                    self._accounts.append(line.account)
                self._caller = self._accounts.index(line.account)

    def _add_record(self, record: Record, place: int) -> None:
        ordinal = self._ordinal(record.key, place)
        self._last[ordinal] = place
        if record.api_timeout is not None:
            self.api_timeout = max(self.api_timeout or 0.0, record.api_timeout)
        if record.state is State.SENT:
            before, self._sent[ordinal] = self._sent[ordinal], place
            self._flags[ordinal] |= _REPEATED * (before > 0 and self._is_repeat(record, before))
            maker = self._maker[ordinal]
            self._maker[ordinal] = self._caller if maker in (_NOBODY, self._caller) else _UNKNOWN
        elif record.error_code == REPAIRED:
            self._flags[ordinal] |= _LOST
            self._lost_at = max(self._lost_at, record.at)
        elif record.state is State.UNDONE:
            self.undone.add(record)
            # Later records belong to another clone.
            self._maker[ordinal], self._flags[ordinal], self._sent[ordinal] = _NOBODY, 0, 0
            self.deleting.pop(record.key, None)
            self.updating.pop(record.key, None)

    def _is_repeat(self, record: Record, before: int) -> bool:
        """Return whether the attempt recorded at ``before`` may be open too, although ``record`` does not name it.

        It has the same job uuid, or an older zclone wrote ``record``, without open jobs.
        """
        earlier = parse_record(self._manifest.body_at(before))
        if record.job_uuid == earlier.job_uuid:
            return record.attempt > earlier.attempt
        return record.open_jobs is None

    def _ordinal(self, key: str, place: int) -> int:
        known = self._ordinals.get(hash(key))
        if known is not None:
            return known
        ordinal = len(self._named)
        self._ordinals.put(hash(key), ordinal)
        for places in (self._named, self._sent, self._last):
            places.append(0)
        self._named[ordinal] = place
        self._maker.append(_NOBODY)
        self._flags.append(0)
        return ordinal

    def _name_of(self, ordinal: int) -> tuple[str, str]:
        """Return key and source uuid; the page of planned targets that was read last is cached."""
        place = self._named[ordinal]
        if self._page[0] != place:
            line = parse_line(self._manifest.body_at(place))
            line = line.of if isinstance(line, kinds.HandOverTry) else line
            if isinstance(line, Record):
                line = kinds.PlannedLine(((line.key, line.source_uuid or ""),))
            elif isinstance(line, HandOverRecord):
                line = kinds.PlannedLine(((line.key, ""),))
            assert isinstance(line, kinds.PlannedLine)
            names = ((self._ordinals.get(hash(key)), (key, source)) for key, source in line.targets)
            self._page = place, {known: name for known, name in names if known is not None}
        return self._page[1][ordinal]


def _put(calls: dict[str, _Call], line: _Call) -> None:
    """Keep a recorded call as the last one for its key, unless it was refused."""
    if line.is_refused:
        calls.pop(line.key, None)
    else:
        calls[line.key] = line


@contextmanager
def open_targets(path: Path, max_lines: int | None = None) -> Iterator[Targets]:
    """Read the manifest at ``path``, or its first ``max_lines`` lines, and keep it open for ``read``.

    Raises UsageError, ManifestError.
    """
    with open_reader(path) as manifest:
        yield Targets(manifest, max_lines)
