"""What a plan needs of the server: which fields of which sources, and what stands in for them offline."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from batch.jobfile.job import ConditionError
from batch.jobfile.problems import shorten
from batch.plan.render import RenderError, RunNames, render
from batch.zstack.params import PARAMS, QUERY_OPERATORS, ParamType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batch.jobfile import Job
    from batch.model import JsonValue, Pins

_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")

Sources: TypeAlias = "Callable[[str], Mapping[str, JsonValue] | None]"
"""Returns the inventory of a source uuid as the server shows it, None where the source does not exist."""


def assumed(uuid: str) -> Mapping[str, JsonValue]:
    """Stand in for the server: every source exists and has every field, so that the rest can be checked offline."""
    return _AnyFields(uuid, {}, set())


def assumed_found(conditions: tuple[str, ...]) -> tuple[str, ...]:
    """Stand in for the server: every query finds one service."""
    return (hashlib.sha256("\0".join(conditions).encode()).hexdigest()[:32],)


class Wanted:
    """Stands in for the server in a first walk, and takes down what is asked of it and not pinned yet."""

    def __init__(self, pins: Pins) -> None:
        """Answer with ``pins`` where they have the field."""
        self.uuids: dict[str, None] = {}
        """Sources of which a field is missing."""
        self.fields: set[str] = set()
        """All fields that are used of any source."""
        self.queries: dict[tuple[str, ...], None] = {}
        self._pins = pins

    def __call__(self, uuid: str) -> Mapping[str, JsonValue]:
        """Return an inventory that notices which of its fields are read."""
        fields = _AnyFields(uuid, self._pins.sources.get(uuid, {}), self.fields)
        fields.on_missing = self.uuids
        return fields

    def found(self, conditions: tuple[str, ...]) -> tuple[str, ...]:
        """Return what is pinned, or one made-up service for a query that is yet to be asked."""
        pinned = self._pins.queries.get(conditions)
        if pinned is None:
            self.queries[conditions] = None
        return assumed_found(conditions) if pinned is None else pinned

    @property
    def is_anything(self) -> bool:
        """Whether the server has to be asked at all."""
        return bool(self.uuids or self.queries)


class _AnyFields(dict[str, "JsonValue"]):
    """Has every field; what is not known is made up so that it fits the parameter of its name."""

    __slots__ = ("_used", "_uuid", "on_missing")

    def __init__(self, uuid: str, known: Mapping[str, JsonValue], used: set[str]) -> None:
        super().__init__(known)
        self._uuid = uuid
        self._used = used
        self.on_missing: dict[str, None] | None = None

    def get(self, name: str, default: JsonValue = None) -> JsonValue:  # type: ignore[override]
        if name == "uuid":
            return self._uuid
        self._used.add(name)
        if name in self:
            return super().get(name, default)
        if self.on_missing is not None:
            self.on_missing[self._uuid] = None
        return _made_up(name)


def _made_up(name: str) -> JsonValue:
    param = PARAMS.get(name)
    if param is None or param.type is ParamType.STRING:
        return param.choices[0] if param and param.choices else f"<{name}>"
    return False if param.type is ParamType.BOOLEAN else 0


def asked_conditions(job: Job, conditions: tuple[str, ...], *, run: str, started_at: float) -> list[str]:
    """Render the conditions of a ``query:``; ``run`` as ``run_id`` gives it. Raises ConditionError."""
    names = {**RunNames.at(started_at, job.name)._asdict(), "run": run, **job.vars}
    rendered = []
    for index, condition in enumerate(conditions):
        try:
            rendered.append(render(condition, names))
        except RenderError as error:
            raise ConditionError(index, str(error)) from None
        field = _field(rendered[-1])
        if not _FIELD.fullmatch(field):
            message = f"{shorten(rendered[-1])} is read by the server as a condition on {shorten(field)}, no field"
            raise ConditionError(index, f"{message}: a value must not hold an operator")
    return rendered


def _field(condition: str) -> str:
    """Return the field that the server reads: what is before its first operator, in its order (wire: section 6)."""
    operator = next((text for text in QUERY_OPERATORS if text in condition), None)
    return "" if operator is None else condition.partition(operator)[0].strip()


def askable(job: Job, *, run: str, started_at: float) -> Job:
    """Return the job whose ``query:`` targets are refused, with their place, where they cannot be asked."""
    find = job.found
    if find is None:
        return job

    def found(conditions: tuple[str, ...]) -> Sequence[str]:
        asked_conditions(job, conditions, run=run, started_at=started_at)
        return find(conditions)

    return replace(job, found=found)


def pins_digest(pins: Pins) -> str:
    """Return 64 hex digits over all pins in any order; empty where there are none."""
    if not pins.sources and not pins.queries:
        return ""
    total = hashlib.sha256()
    for uuid in sorted(pins.sources):
        total.update(json.dumps([uuid, pins.sources[uuid]], sort_keys=True).encode())
    for conditions in sorted(pins.queries):
        total.update(json.dumps([conditions, pins.queries[conditions]]).encode())
    return total.hexdigest()
