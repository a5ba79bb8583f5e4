"""What a manifest says about every Clone: bits for those that are settled, objects for the others only."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError
from batch.keytable import KeyTable
from batch.manifest.handovers import HandOverFold
from batch.manifest.header import Users
from batch.manifest.intents import Deaths, intent_of
from batch.manifest.kinds import PlanLine, PlannedLine, RepairedLine, StartedLine
from batch.manifest.pins import PinFold
from batch.manifest.records import parse_line
from batch.manifest.undone import UndoneFold
from batch.model import HandedOver, Intent, Pins, Record, State, waits_for_operator

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
_MOST_ATTEMPTS: Final = (1 << _ATTEMPT_BITS) - 1
_PREFIX_DIGITS: Final = 12


def digest_prefix(digest: str) -> int:
    """Return as much of a Clone's digest as is kept of a settled one."""
    return int(digest[:_PREFIX_DIGITS], 16)


class ManifestFold:
    """The fold of a manifest's lines, added in their order.

    A settled Clone is 16 bytes of a table: its state, attempts and a prefix of its digest. An open one keeps its
    records; they become an Intent when asked for.
    """

    def __init__(self) -> None:
        """Nothing known."""
        self.plan: PlanLine | None = None
        """The plan that the last finished ``write_plan`` recorded."""
        self._table = KeyTable()
        self._open: dict[str, list[Record]] = {}
        self._finals = [0] * len(_STATES)
        self._was_honoured = False
        self.pinned = PinFold()
        """What the plans so far took from the server."""
        self._deaths = Deaths()
        self.users = Users()
        """Who began and who adopted it."""
        self.remote: RemoteEngine | None = None
        """The engine that the last process on record followed; None where it was the engine itself.

        Whoever opens the manifest to write sets its own, which the first line then has.
        """
        self._retried: set[int] = set()
        self._made_elsewhere: set[int] = set()
        self.was_sent = False
        """Whether any attempt was ever recorded."""
        self.was_dishonoured = False
        """Whether the server ever made a clone under another uuid than it was asked for."""
        self.unasked: dict[str, str] = {}
        """By key: the uuid of a clone of which no line shows that it was asked for, as that was lost to damage."""
        self.api_timeout = 0.0
        """The longest time that the server said it may work on a job, in seconds."""
        self.is_repaired = False
        """Whether lines were lost to damage, so that there may have been attempts that are not on record."""
        self.is_at_most_once = False
        """Whether a process before this one ran with --at-most-once."""
        self.hand_overs = HandOverFold()
        self.undone = UndoneFold()

    def take_in(self, record: Record) -> None:
        """Take in a record as it is written. Raises ManifestError where it opens a settled Clone."""
        is_given_back = record.state is State.PLANNED and (record.attempt or record.open_jobs)
        if (record.state in _OPEN or is_given_back) and not self._is_open(record.key):
            raise ManifestError(f"{record.key} is settled and cannot be {record.state}")
        self.add(record)

    def add_all(self, bodies: Iterable[bytes]) -> None:
        """Take in unsealed lines, as ``add`` does each."""
        for body in bodies:
            self.add(parse_line(body))

    def add(self, line: Line) -> None:
        """Take in a line; ``finish`` must be called after the last one that was read.

        Raises ManifestError for a settled Clone that changes its state.
        """
        if not isinstance(line, Record):
            self._add_other(line)
        elif line.state in _OPEN:
            self.was_sent = True
            self._go_on(line)
        elif line.state is State.PLANNED:
            self._give_back(line)
        else:
            self._end(line)

    def _go_on(self, record: Record) -> None:
        if record.api_timeout is not None:
            self.api_timeout = max(self.api_timeout, record.api_timeout)
        self._open.setdefault(record.key, []).append(record)

    def _close(self, key: str) -> list[Record]:
        """Return the records of a Clone that is open no longer; none where it was not."""
        self._deaths.forget(key)
        return self._open.pop(key, [])

    def _end(self, record: Record) -> None:
        """Take in a record after which no attempt is under way."""
        if record.state is State.UNDONE and (self.final(record.key) or (None,))[0] is not State.UNDONE:
            self.undone.add(record)
            self.hand_overs.forget(record.key)
        if record.state is State.CLONED and not self._was_honoured:
            wanted = {one.resource_uuid for one in self._open.get(record.key, ()) if one.resource_uuid}
            self._was_honoured = record.clone_uuid in wanted
            if not wanted and record.clone_uuid is not None:
                self.unasked[record.key] = record.clone_uuid
            self.was_dishonoured = self.was_dishonoured or (bool(wanted) and not self._was_honoured)
        if record.made_elsewhere:
            self._made_elsewhere.add(hash(record.key))
        self._settle(record.key, _CODE_OF[record.state], record.attempt)

    def finish(self) -> None:
        """Look at what the lines left open: a Clone that was settled before is not, unless it was sent once more."""
        for key in list(self._open):
            if not self._is_open(key):
                _require_stale(key, self._close(key), self._table.get(hash(key)) or 0)

    def _is_open(self, key: str, *, is_planned: bool = False) -> bool:
        hashed = hash(key)
        value = self._table.get(hashed)
        state = _UNKNOWN if value is None else value & _STATE
        if state == _WITHDRAWN or (is_planned and state == _UNDONE):  # in the job file again, or made again
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
        elif isinstance(line, HandedOver):
            self.hand_overs.add(line)
        elif isinstance(line, RepairedLine):
            # What was sent on the lost lines is unknown.
            self.is_repaired = self.was_sent = True
        else:
            if isinstance(line, StartedLine):
                self.is_at_most_once = self.is_at_most_once or line.at_most_once
                self.remote = line.remote
            self.users.add(line)
            self._deaths.add(line, self._open)

    def reserve(self, targets: int) -> None:
        """Allocate for so many at once."""
        self._table.reserve(targets)

    def expect(self, keys: Iterable[str]) -> None:
        """Take in planned targets; those already known stay as they are."""
        self._table.add(map(hash, keys), _PLANNED)

    def _give_back(self, record: Record) -> None:
        """Take in that an attempt was never sent; with none before it the Clone is as if nothing had been."""
        # Without a word of open jobs it was written before they were on record, and took back what may be at work.
        is_old = record.open_jobs is None and not record.retried and record.key in self._open
        if record.attempt or record.open_jobs or is_old:
            self._go_on(record)
        elif record.retried:
            self._reopen(record.key)
        else:
            self._close(record.key)
            self._is_open(record.key, is_planned=True)

    def _reopen(self, key: str) -> None:
        """Take in that a target that had failed is as if nothing had been: its attempts count from the start."""
        records, hashed = self._close(key), hash(key)
        value = self._table.get(hashed) or _PLANNED
        state = value & _STATE
        if state != _PLANNED:
            if state not in _RETRIABLE:
                raise ManifestError(f"{key} is {_STATES[state]} and cannot be retried")
            _require_stale(key, records, value)
            self._finals[state] -= 1
        self._table.put(hashed, _PLANNED)
        self._retried.add(hashed)

    def _settle(self, key: str, code: int, attempt: int) -> None:
        records = self._close(key)
        digest = next((record.digest for record in reversed(records) if record.digest), "0")
        value = (digest_prefix(digest) << _ATTEMPT_BITS | min(attempt, _MOST_ATTEMPTS)) << _STATE_BITS | code
        hashed = hash(key)
        before = self._table.get(hashed)
        if before is None or before & _STATE in _UNSENT:
            self._finals[code] += 1
            self._finals[_WITHDRAWN] -= before is not None and before & _STATE == _WITHDRAWN
            self._table.put(hashed, value)
        else:
            self._table.put(hashed, self._settle_again(key, value, before, records))

    def _settle_again(self, key: str, value: int, before: int, records: Sequence[Record]) -> int:
        """Return the value of a Clone that had settled ``before``: only ``undone`` changes it."""
        _require_stale(key, records, before)
        is_state, was_state = value & _STATE, before & _STATE
        is_repeated = was_state == _UNDONE and _attempts(value) <= _attempts(before)
        if is_state in (was_state, _WITHDRAWN) or is_repeated:
            return before
        if is_state != _UNDONE:
            raise ManifestError(f"{key} is {_STATES[was_state]} and then {_STATES[is_state]}")
        self._finals[was_state] -= 1
        self._finals[is_state] += 1
        return before - was_state + is_state

    def is_planned(self, key: str) -> bool:
        """Whether the manifest knows the target at all."""
        return self._table.get(hash(key)) is not None

    def final(self, key: str) -> tuple[State, int] | None:
        """Return a settled Clone's state and ``digest_prefix`` (0: not on record); None where it is not settled."""
        value = self._table.get(hash(key))
        if value is None or value & _STATE in _UNSENT:
            return None
        return _STATES[value & _STATE], value >> (_STATE_BITS + _ATTEMPT_BITS)

    @property
    def intents(self) -> Mapping[str, Intent]:
        """Every Clone that is neither settled nor untouched, made anew at each call.

        One that is ``planned`` again has attempts that count, though none of them is under way.
        """
        return {
            key: intent_of(records, deaths=self._deaths.of(key, records), has_predecessor=self.has_predecessor(key))
            for key, records in self._open.items()
        }

    def was_made_elsewhere(self, key: str) -> bool:
        """Whether a target's clone existed before this manifest knew of an attempt to make it."""
        return hash(key) in self._made_elsewhere

    def has_predecessor(self, key: str) -> bool:
        """Whether a target that is as if nothing had been sent may have been sent before."""
        return self.is_repaired or hash(key) in self._retried

    def overdue(self, now: float, *, is_refused: bool = False) -> list[str]:
        """Return the keys of the uncertain Clones that no rerun settles by itself; ``now``: seconds since the epoch."""
        return [key for key, intent in self.intents.items() if waits_for_operator(intent, now, is_refused=is_refused)]

    @property
    def is_cut_off(self) -> bool:
        """Whether the last process before this one died."""
        return self._deaths.is_cut_off

    @property
    def settled(self) -> Counter[State]:
        """How many targets are in each final state; cheap enough to be asked at every clone's end."""
        found = ((_STATES[code], number) for code, number in enumerate(self._finals) if number)
        return Counter({state: number for state, number in found if state is not State.WITHDRAWN})

    @property
    def counts(self) -> Counter[State]:
        """How many targets are in each state; states with none are left out."""
        counts = self.settled
        counts.update(records[-1].state for records in self._open.values())
        counts[State.WITHDRAWN] = self._finals[_WITHDRAWN]
        return counts + Counter({State.PLANNED: len(self._table) - counts.total()})

    @property
    def canary_passed(self) -> bool:
        """Whether the server ever made a clone under the uuid it was asked for."""
        return self._was_honoured


def _attempts(value: int) -> int:
    return value >> _STATE_BITS & _MOST_ATTEMPTS


def _require_stale(key: str, records: Iterable[Record], value: int) -> None:
    """Raise ManifestError where ``records`` are of a later attempt than the one that settled their Clone."""
    if any(record.attempt > _attempts(value) for record in records):
        raise ManifestError(f"{key} is {_STATES[value & _STATE]} and was sent again")
