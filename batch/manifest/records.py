"""Encodes and parses the lines after the header: clone records, planned pages, plans, starts and ends."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from batch.errors import EndReason, ManifestError
from batch.manifest.hand_overs import parse_hand_over, parse_try
from batch.manifest.kinds import (
    EndedLine,
    MergedLine,
    PlanLine,
    PlannedLine,
    RemoteEngine,
    RepairedLine,
    StartedLine,
    UnknownLine,
)
from batch.manifest.line import MAX_TIME, decode_line, encode_line, number, require_field
from batch.manifest.operations import (
    parse_adopted,
    parse_connected,
    parse_controlled,
    parse_deleting,
    parse_taken_up,
    parse_updated,
    parse_updating,
)
from batch.model import HandOverCounts, Pins, Record, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batch.manifest.kinds import Line
    from batch.model import JsonValue

PAGE: Final = 256
"""Targets in one planned line."""
_PINNED_SIZE: Final = 1 << 18
"""Characters after which a line of pinned sources ends."""
_KINDS: Final[dict[str, type]] = {
    **dict.fromkeys(Record._fields, str),
    **dict.fromkeys(("at", "deadline", "api_timeout", "until"), float),
    **dict.fromkeys(("adopted", "retried", "made_elsewhere", "unanswered", "in_use"), bool),
    "attempt": int,
    "open_jobs": list,
}
"""Types of a clone record's fields; floats may be whole numbers."""
_STATES: Final = {state.value: state for state in State}
_NEEDED: Final = frozenset({"key", "at", "attempt"})


def encode_record(record: Record) -> bytes:
    """Return the line's open body, state first. Raises ValueError for times that JSON cannot represent."""
    values: dict[str, JsonValue] = record._asdict()
    values["open_jobs"] = None if record.open_jobs is None else list(record.open_jobs)
    return encode_line(values.items())


def encode_plan(plan: PlanLine) -> bytes:
    """Return the line's open body."""
    head: list[tuple[str, JsonValue]] = [("plan", plan.digest), ("inputs", plan.inputs), ("targets", plan.targets)]
    part: list[tuple[str, JsonValue]] = [("shard", plan.shard or None), ("whole", plan.whole or None)]
    return encode_line([*head, ("at", plan.at), ("hand_overs", plan.hand_overs or None), *part])


def encode_planned(targets: Sequence[tuple[str, str]]) -> bytes:
    """Return the line's open body; a target whose key is its source uuid takes half the space."""
    page: list[JsonValue] = [key if key == source else [key, source] for key, source in targets]
    return encode_line([("planned", page)])


def encode_pinned(pins: Pins) -> Iterator[bytes]:
    """Yield open bodies that together contain ``pins``, each of a limited size."""
    page: dict[str, JsonValue] = {}
    size = 0
    for uuid, fields_of in pins.sources.items():
        page[uuid] = dict(fields_of)
        size += len(str(page[uuid]))
        if size > _PINNED_SIZE:
            yield encode_line([("pinned", page)])
            page, size = {}, 0
    if page:
        yield encode_line([("pinned", page)])
    for conditions, uuids in pins.queries.items():
        for start in range(0, len(uuids) or 1, PAGE):
            found: list[JsonValue] = list(uuids[start : start + PAGE])
            yield encode_line([("pinned", {}), ("query", list(conditions)), ("found", found)])


def encode_started(started: StartedLine) -> bytes:
    """Return the line's open body."""
    warnings: list[JsonValue] = list(started.warnings)
    return encode_line(
        [
            ("started", started.at),
            ("pid", started.pid),
            ("host", started.host),
            ("user", started.user or None),
            ("tool", started.tool),
            ("warnings", warnings or None),
            ("at_most_once", started.at_most_once or None),
            *({} if started.remote is None else asdict(started.remote)).items(),
        ],
    )


def encode_ended(ended: EndedLine) -> bytes:
    """Return the line's open body."""
    counts: dict[str, JsonValue] = {state.value: count for state, count in ended.counts.items()}
    handed: JsonValue = None if ended.handed is None else {**asdict(ended.handed)}
    return encode_line(
        [
            ("ended", ended.at),
            ("exit", ended.exit_code),
            ("reason", ended.reason),
            ("reason_code", None if ended.code is None else ended.code.value),
            ("counts", counts or None),
            ("handed", handed),
        ]
    )


def encode_repaired(repaired: RepairedLine) -> bytes:
    """Return the line's open body."""
    return encode_line([("repaired", repaired.at), ("damaged", repaired.damaged)])


def parse_line(body: bytes) -> Line:
    """Return the value of an unsealed body; its first field names its kind.

    Raises ManifestError where a field has the wrong type.
    """
    found = decode_line(body)
    parse = _PARSERS.get(next(iter(found), ""))
    if parse is not None:
        return parse(found)
    if "state" in found:
        # If it was ignored, its target would be sent again.
        raise ManifestError("a clone's record that does not begin with its state was not written by zclone")
    return UnknownLine()


def parse_record(body: bytes) -> Record:
    """Return the clone record in ``body``. Raises ManifestError where it is another kind of line."""
    return _parse_record(decode_line(body))


def _parse_planned(found: dict[str, Any]) -> PlannedLine:
    return PlannedLine(tuple(map(_target, require_field(found, "planned", list))))


def _parse_plan(found: dict[str, Any]) -> PlanLine:
    return PlanLine(
        require_field(found, "plan", str),
        require_field(found, "inputs", str),
        require_field(found, "targets", int),
        number(found, "at"),
        require_field({"hand_overs": 0, **found}, "hand_overs", int),
        require_field({"shard": "", **found}, "shard", str),
        require_field({"whole": "", **found}, "whole", str),
    )


def _parse_merged(found: dict[str, Any]) -> MergedLine:
    path, shard, checksum = (require_field(found, name, str) for name in ("merged", "shard", "checksum"))
    return MergedLine(path, shard, require_field(found, "lines", int), checksum, number(found, "at"))


def _parse_repaired(found: dict[str, Any]) -> RepairedLine:
    return RepairedLine(number(found, "repaired"), require_field(found, "damaged", int))


def _parse_started(found: dict[str, Any]) -> StartedLine:
    pid, host, tool = (
        require_field(found, "pid", int),
        require_field(found, "host", str),
        require_field(found, "tool", str),
    )
    warnings = tuple(map(str, require_field({"warnings": [], **found}, "warnings", list)))
    user = require_field({"user": "", **found}, "user", str)
    once, names = found.get("at_most_once") is True, RemoteEngine.__slots__
    remote = RemoteEngine(*(require_field(found, name, str) for name in names)) if "engine" in found else None
    return StartedLine(number(found, "started"), pid, host, tool, warnings, user, once, remote)


def _parse_record(found: dict[str, Any]) -> Record:
    state = _state(require_field(found, "state", str))
    values: dict[str, Any] = {}
    for name, value in found.items():
        kind = _KINDS.get(name)
        if kind is None or value is None:
            # A field of a later version, or one that does not apply.
            continue
        # Most fields are texts and times: checking them here saves a call for each.
        if kind is str and value.__class__ is str:
            values[name] = value
        elif kind is float:
            is_usual = value.__class__ is float and 0.0 <= value < MAX_TIME
            values[name] = value if is_usual else number(found, name)
        else:
            values[name] = require_field(found, name, kind)
    if not values.keys() >= _NEEDED:
        raise ManifestError(f"a clone's record has no {min(_NEEDED - values.keys())}: it was not written by zclone")
    values["state"] = state
    if "open_jobs" in values:
        values["open_jobs"] = tuple(map(str, values["open_jobs"]))
    return Record(**values)


def _parse_ended(found: dict[str, Any]) -> EndedLine:
    reason, code = found.get("reason"), found.get("reason_code")
    counted = require_field({"counts": {}, **found}, "counts", dict)
    counts = Counter({_state(name): require_field(counted, name, int) for name in counted})
    return EndedLine(
        number(found, "ended"),
        require_field(found, "exit", int),
        reason and str(reason),
        counts,
        # A newer zclone may have more reasons.
        EndReason(code) if code in set(EndReason) else None,
        _parse_handed(require_field(found, "handed", dict)) if "handed" in found else None,
    )


def _parse_handed(found: dict[str, Any]) -> HandOverCounts:
    return HandOverCounts(*(require_field(found, name, int) for name in ("done", "open", "refused")))


def _state(name: str) -> State:
    state = _STATES.get(name)
    if state is None:
        raise ManifestError(f"unknown state {name!r}: written by a newer zclone")
    return state


def _parse_pins(found: dict[str, Any]) -> Pins:
    sources = require_field(found, "pinned", dict)
    if not all(isinstance(fields_of, dict) for fields_of in sources.values()):
        raise ManifestError("a pinned line holds an entry that is not a source")
    if "query" not in found:
        return Pins(sources)
    conditions, uuids = (tuple(map(str, require_field(found, name, list))) for name in ("query", "found"))
    return Pins(sources, {conditions: uuids})


def _target(entry: Any) -> tuple[str, str]:
    if isinstance(entry, str):
        return entry, entry
    match entry:
        case [str(key), str(source)]:
            return key, source
    raise ManifestError("a planned line holds an entry that is not a target")


_PARSERS: Final[dict[str, Callable[[dict[str, Any]], Line]]] = {
    "state": _parse_record,
    "planned": _parse_planned,
    "pinned": _parse_pins,
    "plan": _parse_plan,
    "started": _parse_started,
    "ended": _parse_ended,
    "taken_up": parse_taken_up,
    "repaired": _parse_repaired,
    "merged": _parse_merged,
    "adopted_by": parse_adopted,
    "handed_over": parse_hand_over,
    "handing_over": parse_try,
    "connected": parse_connected,
    "controlled": parse_controlled,
    "deleting": parse_deleting,
    "mending": parse_updating,
    "mended": parse_updated,
}
"""Parsers by the first field of the line."""
