"""The server's answers that a plan depends on: the pinned ones, and the queries that are still needed."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Final

from batch.jobfile.problems import quote
from batch.plan.identity import DIGEST_HEX
from batch.plan.render import RenderError, render
from batch.zstack.params import PARAMS, ParamType, split_condition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batch.model import JsonValue, Pins

_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


class Answers:
    """Pinned answers; any other query is answered with nothing."""

    def __init__(self, pins: Pins) -> None:
        """Answer from ``pins``."""
        self._pins = pins

    def source(self, uuid: str) -> Mapping[str, JsonValue] | None:
        """Return the inventory of a source, as far as the plan uses it; None where it does not exist."""
        return self._pins.sources.get(uuid)

    def find(self, conditions: tuple[str, ...], rendered: Sequence[str]) -> Sequence[str]:
        """Return the uuids that match a query; ``rendered``: the conditions as they are sent to the server."""
        del rendered
        return self._pins.queries.get(conditions, ())


class Questions(Answers):
    """Collects every query that no pin answers, and answers it with a placeholder."""

    def __init__(self, pins: Pins) -> None:
        """Start with the answers in ``pins``."""
        super().__init__(pins)
        self.sources: dict[str, None] = {}
        """Sources of which a field is missing."""
        self.fields: set[str] = set()
        """All fields that are used of any source."""
        self.queries: dict[tuple[str, ...], tuple[str, ...]] = {}
        """Conditions as the job file writes them, and as they are to be sent."""

    def __bool__(self) -> bool:
        """Return whether the server must be queried at all."""
        return bool(self.sources or self.queries)

    def source(self, uuid: str) -> Mapping[str, JsonValue]:
        """Return an inventory that has every field and records which of them are read."""
        return _Placeholders(uuid, self._pins.sources.get(uuid, {}), self)

    def find(self, conditions: tuple[str, ...], rendered: Sequence[str]) -> Sequence[str]:
        """Return the pinned uuids, or one placeholder."""
        found = self._pins.queries.get(conditions)
        if found is None:
            self.queries[conditions] = tuple(rendered)
        return placeholder_uuids(conditions) if found is None else found


class _Placeholders(dict[str, "JsonValue"]):
    """An inventory with every field: unknown ones get a placeholder of the type of the parameter with their name."""

    __slots__ = ("_questions", "_uuid")

    def __init__(self, uuid: str, known: Mapping[str, JsonValue], questions: Questions) -> None:
        super().__init__(known)
        self._uuid = uuid
        self._questions = questions

    def get(self, name: str, default: JsonValue = None) -> JsonValue:  # type: ignore[override]
        self._questions.fields.add(name)
        if name in self:
            return super().get(name, default)
        self._questions.sources[self._uuid] = None
        return placeholder_value(name)


def placeholder_value(name: str) -> JsonValue:
    """Return a placeholder for a field of a source, of the type of the parameter with its name."""
    param = PARAMS.get(name)
    if param is None or param.type is ParamType.STRING:
        return param.choices[0] if param and param.choices else f"<{name}>"
    return False if param.type is ParamType.BOOLEAN else 0


def placeholder_uuids(conditions: tuple[str, ...]) -> tuple[str, ...]:
    """Return one placeholder uuid for the result of a query."""
    return (hashlib.sha256("\0".join(conditions).encode()).hexdigest()[:DIGEST_HEX],)


def render_condition(text: str, names: Mapping[str, str]) -> str:
    """Render a condition of a ``query:``. Raises RenderError, also where the server would parse another condition."""
    condition = render(text, names)
    parts = split_condition(condition)
    field = "" if parts is None else parts[0]
    if not _FIELD.fullmatch(field):
        message = f"{quote(condition)} is parsed by the server as a condition on {quote(field)}, which is not a field"
        raise RenderError(f"{message}: a value must not contain an operator")
    return condition


def digest_pins(pins: Pins) -> str:
    """Return 64 hex digits over all pins in any order; empty where there are none."""
    if not pins.sources and not pins.queries:
        return ""
    total = hashlib.sha256()
    for uuid in sorted(pins.sources):
        total.update(json.dumps([uuid, pins.sources[uuid]], sort_keys=True).encode())
    for conditions in sorted(pins.queries):
        total.update(json.dumps([conditions, pins.queries[conditions]]).encode())
    return total.hexdigest()
