"""The fold of a manifest: a few bits for every settled Clone, objects for the open ones only."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError
from batch.keytable import KeyTable, digest_prefix
from batch.manifest import folds
from batch.manifest.hand_overs import HandOverFold
from batch.manifest.kinds import DeletingLine, HandOverTry, PlanLine, PlannedLine, RepairedLine, StartedLine
from batch.manifest.line import Users
from batch.manifest.operations import PinFold, UndoneFold
from batch.manifest.records import parse_line
from batch.model import HandOverRecord, Intent, Pins, Record, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batch.manifest.kinds import Line, RemoteEngine

_STATES: Final = tuple(State)
_CODE_OF: Final = {state: code for code, state in enumerate(_STATES)}
_OPEN: Final = frozenset({State.SENT, State.ACCEPTED, State.UNCERTAIN})
_PLANNED: Final = _CODE_OF[State.PLANNED]
_UNDONE: Final = _CODE_OF[State.UNDONE]
_WITHDRAWN: Final = _CODE_OF[State.WITHDRAWN]
_UNSENT: Final = frozenset({_PLANNED, _WITHDRAWN})
_RETRIABLE: Final = frozenset(_CODE_OF[state] for state in (State.FAILED, State.CONFLICT, State.WITHDRAWN))
_UNKNOWN: Final = -1
_STATE_BITS: Final = 4
_STATE: Final = (1 << _STATE_BITS) - 1
_ATTEMPT_BITS: Final = 8
_MAX_ATTEMPTS: Final = (1 << _ATTEMPT_BITS) - 1


class ManifestFold:
    """The fold of a manifest's lines, added in their order.

    A settled Clone takes 16 bytes in a table: its state, attempts and a prefix of its digest. An open one keeps its
    records; ``intents`` folds them.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.plan: PlanLine | None = None
        """The plan that the last completed ``write_plan`` recorded."""
        self._table, self._open = KeyTable(), dict[str, list[Record]]()
        self._finals = [0] * len(_STATES)
        self._uuids = folds.UuidFold()
        self.pinned = PinFold()
        """Values that the plans took from the server."""
        self._crashes, self.users = folds.Crashes(), Users()
        """Users who began and who adopted it."""
        self.remote: RemoteEngine | None = None
        """The remote engine of the last process, or of the one that writes; None where it is the engine itself."""
        self._predecessors = folds.Predecessors()
        self.was_sent = False
        """Whether any attempt was ever recorded."""
        self.api_timeout = 0.0
        """The longest apiTimeout that the server reported for a job, in seconds."""
        self.is_repaired = False
        """Whether lines were lost to damage, so that there may have been attempts without a record."""
        self.plain = folds.PlainProcesses()
        self.repeated = self.plain.repeated
        self.is_at_most_once = False
        """Whether an earlier process ran with --at-most-once."""
        self.hand_overs, self.undone = HandOverFold(), UndoneFold()
        self.outdated: list[str] = []
        """Targets written as cloned from another body than was sent last."""

    def add_written(self, record: Record) -> Record:
        """Add a record that is to be written; return it complete. Raises ManifestError if it opens a settled Clone."""
        is_given_back = record.state is State.PLANNED and bool(record.attempt or record.open_jobs)
        if (record.state in _OPEN or is_given_back) and not self._is_open(record.key):
            raise ManifestError(f"{record.key} is settled and cannot be {record.state}")
        if record.state is State.CLONED:
            record = _with_digest(record, self._open.get(record.key, ()))
            self.outdated += [record.key] * bool(record.digest)
        self.add(record)
        return record

    def add_all(self, bodies: Iterable[bytes]) -> None:
        """Parse and add unsealed lines."""
        for body in bodies:
            self.add(parse_line(body))

    def add(self, line: Line) -> None:
        """Add a line; ``finish`` must be called after the last one.

        Raises ManifestError for a settled Clone that changes its state.
        """
        if not isinstance(line, Record):
            self._add_other(line)
        elif line.state in _OPEN:
            self.was_sent = True
            self._continue(line)
        elif line.state is State.PLANNED:
            self._add_planned(line)
        else:
            self._end(line)

    def _continue(self, record: Record) -> None:
        if record.api_timeout is not None:
            self.api_timeout = max(self.api_timeout, record.api_timeout)
        self._open.setdefault(record.key, []).append(record)

    def _close(self, key: str) -> list[Record]:
        """Close an open Clone and return its records; none where it was not open."""
        self._crashes.forget(key)
        return self._open.pop(key, [])

    def _end(self, record: Record) -> None:
        """Add a record after which no attempt is in flight."""
        if record.state is State.UNDONE:
            self.undone.add(record)
            self.hand_overs.forget(record.key)
        known = self._open.get(record.key, ())
        if record.state is State.CLONED:
            self._uuids.add(record, known)
        self.plain.end(record, known)
        self._predecessors.end(record, known)
        self._settle(record, _CODE_OF[record.state])

    def finish(self) -> None:
        """Drop the open records of settled Clones. Raises ManifestError where one was sent again since."""
        for key in list(self._open):
            if not self._is_open(key):
                _require_stale(key, self._close(key), self._table.get(hash(key)) or 0)

    def _is_open(self, key: str, *, is_planned: bool = False) -> bool:
        hashed, value = hash(key), self._table.get(hash(key))
        state = _UNKNOWN if value is None else value & _STATE
        if state == _WITHDRAWN or (is_planned and state == _UNDONE):  # in the job file again, or cloned again
            self._finals[state] -= 1
        elif state != _UNKNOWN:
            return state == _PLANNED
        self._table.put(hashed, _PLANNED)
        return True

    def _add_other(self, line: Line) -> None:
        if isinstance(line, PlannedLine):
            self.expect(key for key, _ in line.targets)
        elif isinstance(line, Pins):
            self.pinned.take(line)
        elif isinstance(line, PlanLine):
            self.plan = line
        elif isinstance(line, HandOverRecord | HandOverTry):
            self.hand_overs.add(line)
        elif isinstance(line, DeletingLine):
            self.undone.add_deletion(line)
        elif isinstance(line, RepairedLine):
            self.is_repaired = self.was_sent = True  # The attempts of the lost lines are unknown.
            self._uuids.lose_lines()
        else:
            if isinstance(line, StartedLine):
                self.start(line)
            self.users.add(line)
            self._crashes.add(line, self._open)

    def start(self, line: StartedLine) -> None:
        """Add the start of a process, which may have --at-most-once."""
        self.plain.start(self._open, line)
        self.is_at_most_once, self.remote = self.is_at_most_once or line.at_most_once, line.remote

    def reserve(self, targets: int) -> None:
        """Allocate for this many targets at once."""
        self._table.reserve(targets)

    def expect(self, keys: Iterable[str]) -> None:
        """Add planned targets; known ones keep their state."""
        self._table.add(map(hash, keys), _PLANNED)

    def _add_planned(self, record: Record) -> None:
        """Add a record that an attempt was never sent; without an earlier attempt the Clone counts as never sent."""
        # A record without open jobs predates them: the attempt that it withdrew may still be executing.
        is_old = record.open_jobs is None and not record.retried and record.key in self._open
        if record.attempt or record.open_jobs or is_old:
            self._continue(record)
        elif record.retried:
            self._reopen(record.key, record.error_code)
        else:
            self._close(record.key)
            self._is_open(record.key, is_planned=True)

    def _reopen(self, key: str, code: str | None) -> None:
        """Set a target that failed with ``code`` to planned; its attempts are counted from zero."""
        records, hashed = self._close(key), hash(key)
        state = (value := self._table.get(hashed) or _PLANNED) & _STATE
        if state != _PLANNED:
            if state not in _RETRIABLE:
                raise ManifestError(f"{key} is {_STATES[state]} and cannot be retried")
            _require_stale(key, records, value)
            self._finals[state] -= 1
        self._table.put(hashed, _PLANNED)
        self._predecessors.reopen(key, code, was_sent=_attempts(value) > 0)

    def _settle(self, record: Record, code: int) -> None:
        key, records = record.key, self._close(record.key)
        digest = next((one.digest for one in (record, *reversed(records)) if one.digest), "0")
        value = (digest_prefix(digest) << _ATTEMPT_BITS | min(record.attempt, _MAX_ATTEMPTS)) << _STATE_BITS | code
        hashed, before = hash(key), self._table.get(hash(key))
        if before is None or before & _STATE in _UNSENT:
            self._finals[code] += 1
            self._finals[_WITHDRAWN] -= before is not None and before & _STATE == _WITHDRAWN
            self._table.put(hashed, value)
        else:
            self._table.put(hashed, self._settle_again(key, value, before, records))

    def _settle_again(self, key: str, value: int, before: int, records: Sequence[Record]) -> int:
        """Return the value of a Clone that had settled ``before``: only ``undone`` and then ``withdrawn`` change it."""
        _require_stale(key, records, before)
        is_state, was_state = value & _STATE, before & _STATE
        is_repeated = was_state == _UNDONE and _attempts(value) <= _attempts(before)
        is_left = (was_state, is_state) == (_UNDONE, _WITHDRAWN)
        if not is_left and (is_state in (was_state, _WITHDRAWN) or is_repeated):
            return before
        if not is_left and is_state != _UNDONE:
            raise ManifestError(f"{key} is {_STATES[was_state]} and cannot become {_STATES[is_state]}")
        self._finals[was_state] -= 1
        self._finals[is_state] += 1
        return before - was_state + is_state

    def is_planned(self, key: str) -> bool:
        """Return whether the manifest records the target."""
        return self._table.get(hash(key)) is not None

    def final(self, key: str) -> tuple[State, int] | None:
        """Return a settled Clone's state and ``digest_prefix`` (0: not recorded); None where it is not settled."""
        value = self._table.get(hash(key))
        if value is None or value & _STATE in _UNSENT:
            return None
        return _STATES[value & _STATE], value >> (_STATE_BITS + _ATTEMPT_BITS)

    @property
    def intents(self) -> Mapping[str, Intent]:
        """Every Clone with records that is not settled, by key; built at each call.

        One that is ``planned`` again has attempts that count, though none is in flight.
        """
        return folds.intents_of(self._open, self._crashes, self.has_predecessor, self.plain.repeated)

    def was_made_elsewhere(self, key: str) -> bool:
        """Return whether a target's clone existed before this manifest recorded an attempt to make it."""
        return self._predecessors.was_made_elsewhere(key)

    def has_predecessor(self, key: str, resource_uuid: str) -> bool:
        """Return whether a target without open records may have been sent before under ``resource_uuid``."""
        return self.is_repaired or self._predecessors.has(key, resource_uuid)

    @property
    def is_cut_off(self) -> bool:
        """Whether the last process before this one was killed."""
        return self._crashes.is_cut_off

    @property
    def settled_counts(self) -> Counter[State]:
        """Number of targets in each final state; cheap enough to be called at the end of every clone."""
        return Counter({_STATES[code]: n for code, n in enumerate(self._finals) if n and code != _WITHDRAWN})

    @property
    def counts(self) -> Counter[State]:
        """Number of targets in each state; states without targets are left out."""
        counts = self.settled_counts
        counts.update(records[-1].state for records in self._open.values())
        counts[State.WITHDRAWN] = self._finals[_WITHDRAWN]
        return counts + Counter({State.PLANNED: len(self._table) - counts.total()})

    @property
    def canary_passed(self) -> bool:
        """Whether the server ever made a clone under the requested uuid."""
        return self._uuids.was_honoured

    @property
    def was_uuid_ignored(self) -> bool:
        """Whether the server ever made a clone under another uuid than requested."""
        return self._uuids.was_ignored

    @property
    def uuids_without_sent(self) -> Mapping[str, str]:
        """By key the uuid of each clone whose ``sent`` line was lost to damage."""
        return self._uuids.uuids_without_sent


def _with_digest(cloned: Record, records: Sequence[Record]) -> Record:
    """Return the record of a clone with the digest of its job, if a later attempt had another one or was taken back."""
    digests = {one.job_uuid: one.digest for one in records if one.digest}
    made = digests.get(cloned.job_uuid or next((one.job_uuid for one in reversed(records) if one.job_uuid), None))
    return cloned._replace(digest=made) if made not in {None, *[*digests.values()][-1:]} else cloned


def _attempts(value: int) -> int:
    return value >> _STATE_BITS & _MAX_ATTEMPTS


def _require_stale(key: str, records: Iterable[Record], value: int) -> None:
    """Raise ManifestError where ``records`` are of a later attempt than the one that settled their Clone."""
    if any(record.attempt > _attempts(value) for record in records):
        raise ManifestError(f"{key} is {_STATES[value & _STATE]} and was sent again")
