"""What a manifest says about every Clone: bits for those that are settled, objects for the others only."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError
from batch.keytable import KeyTable, hash_key
from batch.manifest.handovers import HANDED_OVER, HandOvers
from batch.manifest.intents import Deaths, intent_of
from batch.manifest.kinds import PlanLine
from batch.manifest.line import fields
from batch.manifest.pinned import Pinned
from batch.manifest.records import head, parse_line, parse_record
from batch.model import Intent, Pins, Record, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_STATES: Final = tuple(State)
_CODE_OF: Final = {state: code for code, state in enumerate(_STATES)}
_CODES: Final = {state.value.encode(): code for state, code in _CODE_OF.items()}
_OPEN: Final = frozenset(map(_STATES.index, (State.SENT, State.ACCEPTED, State.UNCERTAIN)))
_PLANNED: Final = _STATES.index(State.PLANNED)
_CLONED: Final = _STATES.index(State.CLONED)
_UNDONE: Final = _STATES.index(State.UNDONE)
_RETRIABLE: Final = frozenset(map(_STATES.index, (State.FAILED, State.CONFLICT)))
RETRIED: Final = b'"retried":true'
"""In the body of a record that opens a failed Clone again; inside a JSON string its quotes would be escaped."""
_UNKNOWN: Final = len(_STATES)
_STATE_BITS: Final = 4
_STATE: Final = (1 << _STATE_BITS) - 1
_ATTEMPT_BITS: Final = 8
_MOST_ATTEMPTS: Final = (1 << _ATTEMPT_BITS) - 1
_PREFIX_DIGITS: Final = 12
_SENT: Final = b'{"state":"sent","key":"'
_ACCEPTED: Final = b'{"state":"accepted","key":"'
_CLONED_KEY: Final = b'{"state":"cloned","key":"'
_ATTEMPT: Final = b',"attempt":'
_ONE_DIGIT: Final = {b"%d%b" % (digit, after): digit for digit in range(10) for after in (b"", b",")}
_CLONE_UUID: Final = b'"clone_uuid":"'
_DIGEST: Final = b'"digest":"'


def digest_prefix(digest: str) -> int:
    """Return as much of a Clone's digest as is kept of a settled one."""
    return int(digest[:_PREFIX_DIGITS], 16)


class Past:
    """The fold of a manifest's lines, added in their order.

    A settled Clone is 16 bytes of a table: its state, attempts and a prefix of its digest. An open one keeps its
    lines as they are; they become an Intent when asked for.
    """

    def __init__(self) -> None:
        """Nothing known."""
        self.plan: PlanLine | None = None
        """The plan that the last finished ``write_plan`` recorded."""
        self._table = KeyTable()
        self._open: dict[bytes, bytes] = {}
        self._finals = [0] * len(_STATES)
        self._was_honoured = False
        self.pinned = Pinned()
        """What the plans so far took from the server."""
        self._deaths = Deaths()
        self.hand_overs = HandOvers()

    def take_in(self, record: Record, body: bytes) -> None:
        """Take in a record as it is written, as ``body``. Raises ManifestError where it opens a settled Clone."""
        key = record.key.encode("utf-8", "surrogatepass")
        code = _CODE_OF[record.state]
        if code in _OPEN or (code == _PLANNED and record.attempt):
            if not self._is_open(key):
                raise ManifestError(f"{record.key} is settled and cannot be {record.state}")
            self._go_on(key, body)
        else:
            self._end(key, code, record.attempt, body)

    def add_all(self, bodies: Iterable[bytes]) -> None:
        """Take in unsealed lines. Raises ManifestError for an unknown state or a settled Clone that changes its own.

        ``finish`` must be called after the last one.
        """
        opened, sent, accepted, cloned = self._open, len(_SENT), len(_ACCEPTED), len(_CLONED_KEY)
        for body in bodies:
            # What nearly every line is, read where ``encode_record`` puts it: a manifest has millions of lines.
            if body[:cloned] == _CLONED_KEY:
                key = body[cloned : body.find(b'"', cloned)]
                start = body.find(_ATTEMPT, cloned) + len(_ATTEMPT)
                attempt = _ONE_DIGIT.get(body[start : start + 2])
                if attempt is not None and self._was_honoured and b"\\" not in key:
                    self._settle(key, _CLONED, attempt)
                    continue
            elif body[:sent] == _SENT or body[:accepted] == _ACCEPTED:
                start = sent if body[:sent] == _SENT else accepted
                key = body[start : body.find(b'"', start)]
                if b"\\" not in key:
                    lines = opened.get(key)
                    opened[key] = body if lines is None else lines + b"\n" + body
                    continue
            self._add_unusual(body)

    def _add_unusual(self, body: bytes) -> None:
        found = head(body)
        if found is None:
            self._add_other(body)
            return
        state, key, attempt = found
        code = _CODES.get(state, _UNKNOWN)
        if code in _OPEN:
            self._go_on(key, body)
        else:
            self._end(key, code, int(attempt), body)

    def _go_on(self, key: bytes, body: bytes) -> None:
        lines = self._open.get(key)
        self._open[key] = body if lines is None else lines + b"\n" + body

    def _end(self, key: bytes, code: int, attempt: int, body: bytes) -> None:
        """Take in a record after which no attempt is under way."""
        if code == _PLANNED:
            self._give_back(key, body, attempt)
        elif code == _UNKNOWN:
            raise ManifestError("unknown state: written by a newer zclone")
        else:
            if code == _CLONED and not self._was_honoured:
                self._was_honoured = _is_honoured(self._open.get(key, b""), body)
            self._settle(key, code, attempt)

    def finish(self) -> None:
        """Look at what the lines left open: a Clone that was settled before is not, unless it was sent once more."""
        for key, lines in list(self._open.items()):
            if not self._is_open(key):
                self._require_stale(key, lines, self._table.get(hash_key(key)) or 0)
                del self._open[key]

    def _is_open(self, key: bytes) -> bool:
        hashed = hash_key(key)
        value = self._table.get(hashed)
        if value is None:
            self._table.put(hashed, _PLANNED)
            return True
        return value & _STATE == _PLANNED

    def _add_other(self, body: bytes) -> None:
        if body.startswith(b'{"planned":'):
            keys = [entry if isinstance(entry, str) else entry[0] for entry in fields(body)["planned"]]
            if body.isascii() and b"\\" not in body:
                # An ASCII text has the hash of its bytes.
                self._table.add(map(hash, keys), _PLANNED)
            else:
                self.expect(keys)
        elif body.startswith((b'{"pinned":', b'{"plan":')):
            line = parse_line(body)
            if isinstance(line, Pins):
                self.pinned.take(line)
            elif isinstance(line, PlanLine):
                self.plan = line
        elif body.startswith(HANDED_OVER):
            self.hand_overs.add(body)
        else:
            self._deaths.add(body, self._open)

    def reserve(self, targets: int) -> None:
        """Make room for so many."""
        self._table.reserve(targets)

    def expect(self, keys: Iterable[str]) -> None:
        """Take in planned targets; those already known stay as they are."""
        self._table.add((hash(key.encode("utf-8", "surrogatepass")) for key in keys), _PLANNED)

    def _give_back(self, key: bytes, body: bytes, attempt: int) -> None:
        """Take in that an attempt was never sent; with none before it the Clone is as if nothing had been."""
        if attempt:
            self._go_on(key, body)
        elif RETRIED in body:
            self._reopen(key)
        else:
            self._open.pop(key, None)
            self._table.add((hash_key(key),), _PLANNED)

    def _reopen(self, key: bytes) -> None:
        """Take in that a target that had failed is as if nothing had been: its attempts count from the start."""
        lines, hashed = self._open.pop(key, None), hash_key(key)
        value = self._table.get(hashed)
        state = _PLANNED if value is None else value & _STATE
        if state not in _RETRIABLE and state != _PLANNED:
            raise ManifestError(f"{key.decode(errors='replace')} is {_STATES[state]} and cannot be retried")
        if lines is not None and value is not None and state != _PLANNED:
            self._require_stale(key, lines, value)
        if state != _PLANNED:
            self._finals[state] -= 1
        self._table.put(hashed, _PLANNED)

    def _settle(self, key: bytes, code: int, attempt: int) -> None:
        lines = self._open.pop(key, None)
        prefix = 0 if lines is None else _prefix(lines)
        value = (prefix << _ATTEMPT_BITS | min(attempt, _MOST_ATTEMPTS)) << _STATE_BITS | code
        hashed = hash(key)
        before = self._table.swap(hashed, value)
        if before is None or before & _STATE == _PLANNED:
            self._finals[code] += 1
        else:
            self._table.put(hashed, before)
            self._table.put(hashed, self._settle_again(key, value, before, lines))

    def _settle_again(self, key: bytes, value: int, before: int, lines: bytes | None) -> int:
        """Return the value of a Clone that had settled ``before``: only ``undone`` changes it."""
        if lines is not None:
            self._require_stale(key, lines, before)
        is_state, was_state = value & _STATE, before & _STATE
        is_repeated = was_state == _UNDONE and _attempts(value) <= _attempts(before)
        if is_state == was_state or is_repeated:
            return before
        if is_state != _UNDONE:
            raise ManifestError(f"{key.decode(errors='replace')} is {_STATES[was_state]} and then {_STATES[is_state]}")
        self._finals[was_state] -= 1
        self._finals[is_state] += 1
        return before - was_state + is_state

    def _require_stale(self, key: bytes, lines: bytes, value: int) -> None:
        """Raise ManifestError where ``lines`` are of a later attempt than the one that settled their Clone."""
        if any(parse_record(body).attempt > _attempts(value) for body in lines.split(b"\n")):
            raise ManifestError(f"{key.decode(errors='replace')} is {_STATES[value & _STATE]} and was sent again")

    def is_planned(self, key: str) -> bool:
        """Whether the manifest knows the target at all."""
        return self._table.get(hash_key(key.encode("utf-8", "surrogatepass"))) is not None

    def final(self, key: str) -> tuple[State, int] | None:
        """Return a settled Clone's state and ``digest_prefix`` (0: not on record); None where it is not settled."""
        value = self._table.get(hash_key(key.encode("utf-8", "surrogatepass")))
        if value is None or value & _STATE == _PLANNED:
            return None
        return _STATES[value & _STATE], value >> (_STATE_BITS + _ATTEMPT_BITS)

    @property
    def intents(self) -> Mapping[str, Intent]:
        """Every Clone that is neither settled nor untouched, made anew at each call.

        One that is ``planned`` again has attempts that count, though none of them is under way.
        """
        found = (intent_of(lines, deaths=self._deaths.of(key, lines)) for key, lines in self._open.items())
        return {intent.key: intent for intent in found}

    @property
    def is_cut_off(self) -> bool:
        """Whether the last process before this one died."""
        return self._deaths.is_cut_off

    @property
    def settled(self) -> Counter[State]:
        """How many targets are in each final state; cheap enough to be asked at every clone's end."""
        return Counter({_STATES[code]: number for code, number in enumerate(self._finals) if number})

    @property
    def counts(self) -> Counter[State]:
        """How many targets are in each state; states with none are left out."""
        counts = self.settled
        counts.update(_last_state(lines) for lines in self._open.values())
        return counts + Counter({State.PLANNED: len(self._table) - counts.total()})

    @property
    def canary_passed(self) -> bool:
        """Whether the server ever made a clone under the uuid it was asked for."""
        return self._was_honoured


def _is_honoured(lines: bytes, cloned: bytes) -> bool:
    start = cloned.find(_CLONE_UUID) + len(_CLONE_UUID)
    uuid = cloned[start : cloned.find(b'"', start)]
    return bool(uuid) and b'"resource_uuid":"%s"' % uuid in lines


def _attempts(value: int) -> int:
    return value >> _STATE_BITS & _MOST_ATTEMPTS


def _prefix(lines: bytes) -> int:
    found = lines.rfind(_DIGEST)
    if found < 0:
        return 0
    found += len(_DIGEST)
    return int(lines[found : found + _PREFIX_DIGITS], 16)


def _last_state(lines: bytes) -> State:
    return State(fields(lines[lines.rfind(b"\n") + 1 :])["state"])
