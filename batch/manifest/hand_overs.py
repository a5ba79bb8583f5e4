"""Lines of hand-overs and of their tries, and their fold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from batch.errors import ManifestError
from batch.keytable import KeyTable
from batch.manifest.kinds import HandOverTry
from batch.manifest.line import encode_line, number
from batch.model import HandOver, HandOverCounts, HandOverRecord, JsonValue, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.manifest.kinds import PlanLine

_FORGOTTEN: Final = 1 << 63
"""Larger than every value of ``_mark``."""
_MASK: Final = (1 << 62) - 1


def encode_hand_over(line: HandOverRecord) -> bytes:
    """Return the line's open body."""
    return encode_line([("handed_over", line.key), *_fields(line), ("until", line.until)])


def encode_try(line: HandOverTry) -> bytes:
    """Return the line's open body. It has a name of its own: an older zclone ignores it."""
    return encode_line([("handing_over", line.of.key), *_fields(line.of), ("unexecuted", line.is_unexecuted or None)])


def _fields(line: HandOverRecord) -> list[tuple[str, JsonValue]]:
    shares: list[JsonValue] = list(line.wanted.share_with)
    return [
        ("at", line.at),
        ("clone_uuid", line.clone_uuid),
        ("owner", line.wanted.owner),
        ("share_with", shares or None),
        ("error_code", line.error_code),
        ("error", line.error),
    ]


def parse_hand_over(found: Mapping[str, Any]) -> HandOverRecord:
    """Parse the fields of a line. Raises ManifestError where one has the wrong type."""
    return _parse(found, "handed_over")


def parse_try(found: Mapping[str, Any]) -> HandOverTry:
    """Parse the fields of a line. Raises ManifestError where one has the wrong type."""
    return HandOverTry(_parse(found, "handing_over"), found.get("unexecuted") is True)


def _parse(found: Mapping[str, Any], key: str) -> HandOverRecord:
    texts = {name: found.get(name) for name in (key, "clone_uuid", "owner", "error_code", "error")}
    at, shares = found.get("at"), found.get("share_with", [])
    is_whole = isinstance(texts[key], str) and isinstance(texts["clone_uuid"], str)
    if not is_whole or not all(isinstance(text, str | None) for text in texts.values()) or not isinstance(shares, list):
        raise ManifestError("a hand-over line has a field that is not text")
    if isinstance(at, bool) or not isinstance(at, int | float):
        raise ManifestError("a line has no number as at")
    wanted = HandOver(texts["owner"], tuple(map(str, shares)))
    until = number(found, "until") if "until" in found else None
    clone_uuid, code, error = str(texts["clone_uuid"]), texts["error_code"], texts["error"]
    return HandOverRecord(str(texts[key]), float(at), wanted, clone_uuid, code, error, until)


def hand_over_error(line: HandOverRecord) -> str | None:
    """Return the error text for lists and reports; None where there was no error."""
    return None if line.error_code is None else f"hand-over refused: {line.error or ''}"


class HandOverFold:
    """The fold of hand-over lines: the last line about a target counts; one about a try opens its hand-over again."""

    def __init__(self) -> None:
        """Start empty."""
        self._table = KeyTable()
        self.done = 0
        """Number of targets that were handed over, whatever the job file requests now."""
        self.refused = 0
        self._tries: dict[str, dict[str, tuple[float, float]]] = {}

    def add(self, line: HandOverRecord | HandOverTry) -> None:
        """Add a line."""
        if isinstance(line, HandOverTry):
            self._add_try(line)
        else:
            self._add_end(line)

    def _add_end(self, line: HandOverRecord) -> None:
        hashed, is_refused = hash(line.key), line.error_code is not None
        before = self._table.get(hashed)
        if before not in (None, _FORGOTTEN):
            self._count(-1, is_refused=bool(before & 1))
        self._table.put(hashed, _mark(line.wanted) | is_refused)
        self._count(1, is_refused=is_refused)
        known = self._tries.pop(line.key, {})
        of_owner = {owner: tried for owner, tried in known.items() if owner == line.wanted.owner and line.until}
        others = {owner: tried for owner, tried in known.items() if owner != line.wanted.owner and is_refused}
        if of_owner or others:
            self._tries[line.key] = of_owner | others

    def _add_try(self, line: HandOverTry) -> None:
        # Whatever was on record, the owner is not known any more.
        key, owner, at = line.of.key, line.of.wanted.owner or "", line.of.at
        self._reopen(key)
        known = self._tries.setdefault(key, {})
        known[owner] = known.get(owner, (at, at))[0], at
        if line.is_unexecuted:
            del known[owner]

    def forget(self, key: str) -> None:
        """Forget a target whose clone is undone: its next clone is not handed over yet."""
        self._tries.pop(key, None)
        self._reopen(key)

    def _reopen(self, key: str) -> None:
        before = self._table.get(hash(key))
        if before not in (None, _FORGOTTEN):
            self._count(-1, is_refused=bool(before & 1))
            self._table.put(hash(key), _FORGOTTEN)

    def _count(self, step: int, *, is_refused: bool) -> None:
        self.refused += step * is_refused
        self.done += step * (not is_refused)

    def is_done(self, key: str, wanted: HandOver) -> bool:
        """Return whether the target was handed over exactly as ``wanted``."""
        return self._table.get(hash(key)) == _mark(wanted)

    def is_refused(self, key: str, wanted: HandOver) -> bool:
        """Return whether the server's last answer refused exactly ``wanted``."""
        return self._table.get(hash(key)) == _mark(wanted) | 1

    def tries(self, key: str) -> Mapping[str, tuple[float, float]]:
        """Return by owner the times of the first and the last try that have no known end."""
        return self._tries.get(key, {})


def estimate_hand_overs(
    plan: PlanLine | None, counts: Mapping[State, int], *, done: int, refused: int
) -> HandOverCounts:
    """Return the hand-overs as far as they follow from the manifest: only the job file says which targets have one.

    Targets without a clone are assumed to have one, so the number of open ones is a lower bound.
    """
    total = 0 if plan is None else plan.hand_overs
    without = sum(counts.values()) - counts.get(State.CLONED, 0)
    return HandOverCounts(done, max(0, total - done - refused - without), refused)


def _mark(wanted: HandOver) -> int:
    return (hash((wanted.owner, wanted.share_with)) & _MASK) << 1
