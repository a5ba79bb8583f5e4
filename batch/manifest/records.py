"""Lines after the header, written and read: clone records, planned pages, plans, starts and ends."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from batch.errors import ManifestError
from batch.manifest.handovers import parse_handed_over
from batch.manifest.kinds import EndedLine, PlanLine, PlannedLine, StartedLine, TakenUpLine, UnknownLine
from batch.manifest.line import encode, encode_fast, fields
from batch.model import Pins, Record, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch.manifest.kinds import Line
    from batch.model import JsonValue

_RECORD: Final = b'{"state":"'
PAGE: Final = 256
"""Targets in one planned line."""
_PINNED_SIZE: Final = 1 << 18
"""Characters after which a line of pinned sources ends."""
_FIELDS: Final = Record._fields
_FAR: Final = 1e15
"""Seconds since the epoch, from which on ``encode_fast`` takes no number."""
_TEXTS: Final = (
    "source_uuid",
    "resource_uuid",
    "job_uuid",
    "digest",
    "clone_uuid",
    "name",
    "error_code",
    "error",
)


def encode_record(record: Record) -> bytes:
    """Return the open body: state and key first, where the fast reader finds them.

    Raises ValueError for times that JSON cannot hold.
    """
    told: dict[str, JsonValue] = {}
    for name, value in zip(_FIELDS, record, strict=False):
        if value is not None:
            told[name] = value  # noqa: PERF403 - a comprehension is a call of its own before Python 3.12
    at, deadline = record.at, record.deadline
    usual = 1.0 <= at < _FAR and (deadline is None or 1.0 <= deadline < _FAR)
    return (encode_fast(told) if usual else None) or encode(told.items())


def encode_plan(plan: PlanLine) -> bytes:
    """Return the open body."""
    head: list[tuple[str, JsonValue]] = [("plan", plan.digest), ("inputs", plan.inputs), ("targets", plan.targets)]
    return encode([*head, ("at", plan.at), ("hand_overs", plan.hand_overs or None)])


def encode_planned(targets: Sequence[tuple[str, str]]) -> bytes:
    """Return the open body; a target whose key is its source uuid takes half the room."""
    page: list[JsonValue] = [key if key == source else [key, source] for key, source in targets]
    return encode([("planned", page)])


def encode_pinned(pins: Pins) -> Iterator[bytes]:
    """Yield open bodies that together say ``pins``, each of a bounded size."""
    page: dict[str, JsonValue] = {}
    size = 0
    for uuid, fields_of in pins.sources.items():
        page[uuid] = dict(fields_of)
        size += len(str(page[uuid]))
        if size > _PINNED_SIZE:
            yield encode([("pinned", page)])
            page, size = {}, 0
    if page:
        yield encode([("pinned", page)])
    for conditions, uuids in pins.queries.items():
        for start in range(0, len(uuids) or 1, PAGE):
            found: list[JsonValue] = list(uuids[start : start + PAGE])
            yield encode([("pinned", {}), ("query", list(conditions)), ("found", found)])


def encode_started(started: StartedLine) -> bytes:
    """Return the open body."""
    warnings: list[JsonValue] = list(started.warnings)
    return encode(
        [
            ("started", started.at),
            ("pid", started.pid),
            ("host", started.host),
            ("tool", started.tool),
            ("warnings", warnings or None),
        ],
    )


def encode_ended(ended: EndedLine) -> bytes:
    """Return the open body."""
    counts: dict[str, JsonValue] = {state.value: count for state, count in ended.counts.items()}
    return encode(
        [("ended", ended.at), ("exit", ended.exit_code), ("reason", ended.reason), ("counts", counts or None)]
    )


def encode_taken_up(taken_up: TakenUpLine) -> bytes:
    """Return the open body."""
    keys: list[JsonValue] = list(taken_up.keys)
    return encode([("taken_up", keys), ("at", taken_up.at)])


def parse_line(body: bytes) -> Line:
    """Return what an unsealed body says. Raises ManifestError where a field has the wrong type."""
    found = fields(body)
    if "state" in found:
        return _record(found)
    if "planned" in found:
        return PlannedLine(tuple(map(_target, _typed(found, "planned", list))))
    if "pinned" in found:
        return _pins(found)
    if "plan" in found:
        return PlanLine(
            _typed(found, "plan", str),
            _typed(found, "inputs", str),
            _typed(found, "targets", int),
            _number(found, "at"),
            _typed({"hand_overs": 0, **found}, "hand_overs", int),
        )
    if "started" in found:
        pid, host = _typed(found, "pid", int), _typed(found, "host", str)
        warnings = _typed({"warnings": [], **found}, "warnings", list)
        return StartedLine(_number(found, "started"), pid, host, _typed(found, "tool", str), tuple(map(str, warnings)))
    if "ended" in found:
        reason = found.get("reason")
        counts = Counter(
            {_state(name): count for name, count in _typed({"counts": {}, **found}, "counts", dict).items()}
        )
        return EndedLine(_number(found, "ended"), _typed(found, "exit", int), reason and str(reason), counts)
    if "taken_up" in found:
        return TakenUpLine(tuple(map(str, _typed(found, "taken_up", list))), _number(found, "at"))
    return parse_handed_over(found) if "handed_over" in found else UnknownLine()


def parse_record(body: bytes) -> Record:
    """Return the clone record in ``body``. Raises ManifestError where it is something else."""
    return _record(fields(body))


def head(body: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Return state, key and attempt of a clone record as its bytes have them; None for another kind of line.

    They are taken where ``encode_record`` puts them; a line with a key to unescape, or of another writer, is decoded.
    """
    if not body.startswith(_RECORD):
        return None
    parts = body.split(b'"', 13)
    if len(parts) == 14 and parts[5] == b"key" and parts[11] == b"attempt" and b"\\" not in parts[7]:
        return parts[3], parts[7], parts[12][1:-1]
    record = parse_record(body)
    return record.state.value.encode(), record.key.encode("utf-8", "surrogatepass"), b"%d" % record.attempt


def _record(found: dict[str, Any]) -> Record:
    state = _state(_typed(found, "state", str))
    adopted = found.get("adopted")
    return Record(
        state,
        _typed(found, "key", str),
        _number(found, "at"),
        _typed(found, "attempt", int),
        adopted=None if adopted is None else _typed(found, "adopted", bool),
        retried=None if found.get("retried") is None else _typed(found, "retried", bool),
        deadline=None if found.get("deadline") is None else _number(found, "deadline"),
        **{name: None if found.get(name) is None else _typed(found, name, str) for name in _TEXTS},
    )


def _state(name: str) -> State:
    try:
        return State(name)
    except ValueError:
        raise ManifestError(f"unknown state {name!r}: written by a newer zclone") from None


def _pins(found: dict[str, Any]) -> Pins:
    sources = _typed(found, "pinned", dict)
    if not all(isinstance(fields_of, dict) for fields_of in sources.values()):
        raise ManifestError("a pinned line holds something that is no source")
    if "query" not in found:
        return Pins(sources)
    conditions, uuids = (tuple(map(str, _typed(found, name, list))) for name in ("query", "found"))
    return Pins(sources, {conditions: uuids})


def _target(entry: Any) -> tuple[str, str]:
    if isinstance(entry, str):
        return entry, entry
    match entry:
        case [str(key), str(source)]:
            return key, source
    raise ManifestError("a planned line holds something that is no target")


def _typed(found: dict[str, Any], name: str, kind: type) -> Any:
    value = found.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ManifestError(f"a line has no {kind.__name__} as {name}")
    return value


def _number(found: dict[str, Any], name: str) -> float:
    value = found.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ManifestError(f"a line has no number as {name}")
    return float(value)
