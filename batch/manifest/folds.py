"""Folds of single facts of a manifest: the Intent of an open Clone, pinned values, and whether uuids were honoured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.errors import UNANSWERED
from batch.manifest.kinds import EndedLine, StartedLine, TakenUpLine
from batch.model import UNKNOWN_JOB, Pins, Record, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batch.manifest.kinds import Line
    from batch.model import JsonValue

MAY_BE_OURS: Final = frozenset({None, UNANSWERED, "ZCLONE.CONFLICT"})
"""Error codes after which a service under the uuid may be an earlier attempt's clone; None: not recorded."""
_RETRIABLE: Final = frozenset({State.FAILED, State.CONFLICT})
_RESTARTS: Final = frozenset({State.PLANNED, State.UNCERTAIN})


class UuidFold:
    """Whether clones have the uuids that were requested for them."""

    def __init__(self) -> None:
        """Start without clones."""
        self.was_honoured = False
        self.was_ignored = False
        self.uuids_without_sent: dict[str, str] = {}
        """By key the uuid of each clone whose ``sent`` line was lost to damage, until the first that has its uuid."""

    def lose_lines(self) -> None:
        """Add a repair: a clone whose uuid no line requested may have the one that a lost line requested."""
        self.was_ignored = False

    def add(self, cloned: Record, records: Iterable[Record]) -> None:
        """Add a record that a target was cloned; ``records`` are those of its attempts."""
        known = [*records]
        wanted = {record.resource_uuid for record in known if record.resource_uuid}
        sent = {record.job_uuid for record in known if record.state is State.SENT}
        named = {uuid for record in known for uuid in (record.job_uuid, *(record.open_jobs or ()))} - {None}
        # A look may show what a lost line requested; a job shows what its own line requested.
        is_known = named <= ({*sent, UNKNOWN_JOB} if not cloned.adopted else sent)
        if cloned.clone_uuid in wanted:
            self.was_honoured = True
        elif wanted and is_known:
            self.was_ignored = True
        elif cloned.clone_uuid is not None and not self.was_honoured:
            self.uuids_without_sent[cloned.key] = cloned.clone_uuid


class Predecessors:
    """Attempts that are not open any more and may have made what appears under their uuids; by target, as hashes."""

    def __init__(self) -> None:
        """Start without attempts."""
        self._ended: dict[int, int] = {}
        """Hashes of the uuids, 0 where it was on lost lines, of targets that failed and may be retried."""
        self._left: dict[int, int] = {}
        """The same of targets that are planned again."""
        self._elsewhere: set[int] = set()

    def end(self, record: Record, known: Sequence[Record]) -> None:
        """Add the end of a Clone; ``known``: the records of its attempts."""
        key = hash(record.key)
        uuid = next((one.resource_uuid for one in reversed(known) if one.resource_uuid), "")
        may_be_ours = record.unanswered or record.error_code in MAY_BE_OURS
        if record.state is State.UNDONE:
            self._elsewhere.discard(key)
            self._left.pop(key, None)
        if record.made_elsewhere:
            self._elsewhere.add(key)
        if record.state is State.WITHDRAWN and is_unanswered(known):
            self._left[key] = hash(uuid)
        elif record.state in _RETRIABLE and record.attempt and may_be_ours:
            self._ended[key] = hash(uuid)

    def reopen(self, key: str, code: str | None, *, was_sent: bool) -> None:
        """Add the retry of a target that failed with ``code``; ``was_sent``: whether it had attempts."""
        hashed = hash(key)
        if (hashed in self._ended or (was_sent and code in MAY_BE_OURS)) and hashed not in self._elsewhere:
            self._left[hashed] = self._ended.get(hashed, 0)
        self._ended.pop(hashed, None)
        self._elsewhere.discard(hashed)

    def was_made_elsewhere(self, key: str) -> bool:
        """Return whether a target's clone existed before the manifest recorded an attempt to make it."""
        return hash(key) in self._elsewhere

    def has(self, key: str, uuid: str) -> bool:
        """Return whether a planned target had such an attempt under ``uuid``; empty: under any."""
        known = self._left.get(hash(key))
        return known is not None and (not known or not uuid or known == hash(uuid))


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


class PlainProcesses:
    """What processes without --at-most-once sent, before and between processes with it."""

    def __init__(self) -> None:
        """Start without processes."""
        self.is_last = False
        """Whether the last process was one of them."""
        self.repeated: set[str] = set()
        """Keys of Clones of which they sent more than one POST, or one that is no longer open."""

    def end(self, record: Record, sent: Sequence[Record]) -> None:
        """Add the end of a Clone; ``sent``: its records so far.

        A conflict after a POST counts for any process: the uuid was in use, and the server may give the clone another.
        """
        if record.state is State.UNDONE:
            self.repeated.discard(record.key)
        is_denied = record.state is State.FAILED and record.attempt > 0
        is_left = record.state is State.WITHDRAWN and len(sent) > 0
        is_conflict = record.state is State.CONFLICT and record.attempt > 0
        if is_conflict or (self.is_last and (is_denied or is_left)):
            self.repeated.add(record.key)

    def start(self, records: Mapping[str, Sequence[Record]], line: StartedLine) -> None:
        """Add the start of a process; ``records`` are those of the open Clones."""
        if self.is_last and line.at_most_once:
            self.repeated |= {key for key, found in records.items() if _was_repeated(found)}
        self.is_last = not line.at_most_once


def _was_repeated(records: Sequence[Record]) -> bool:
    posts = {(record.job_uuid, record.attempt) for record in records if record.state is State.SENT}
    return len(posts) > 1 or (records[-1].state is State.PLANNED and records[-1].attempt > 0)


def is_unanswered(records: Sequence[Record]) -> bool:
    """Return whether a planned Clone's last attempt ended only because its time was over."""
    return bool(records) and records[-1].state is State.PLANNED and records[-1].error_code == UNANSWERED


class Crashes:
    """The number of processes that were killed with a Clone in flight; only Clones continued after it use memory."""

    def __init__(self) -> None:
        """Start without crashes."""
        self.is_cut_off = False
        """Whether the last recorded process has no end."""
        self._taken_up: dict[str, tuple[int, int]] = {}

    def add(self, line: Line, records: Mapping[str, Sequence[Record]]) -> None:
        """Add a line that is not a clone record; ``records`` are those of the open Clones."""
        if isinstance(line, TakenUpLine):
            for key in line.keys:
                known = records.get(key, ())
                self._taken_up[key] = self.of(key, known) + 1, len(known)
        elif isinstance(line, StartedLine):
            # With a remote engine nothing was in flight in the process itself.
            self.is_cut_off = line.remote is None
        elif isinstance(line, EndedLine):
            self.is_cut_off = False

    def forget(self, key: str) -> None:
        """Forget a Clone that is no longer open: if it is reopened, its crashes count from zero."""
        self._taken_up.pop(key, None)

    def of(self, key: str, records: Sequence[Record]) -> int:
        """Return the number of crashes since the Clone's last ``uncertain``, which only a running process records."""
        count, seen = self._taken_up.get(key, (0, 0))
        return 0 if any(record.state is State.UNCERTAIN for record in records[seen:]) else count
