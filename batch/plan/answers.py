"""What a plan takes from the server: the answers that are pinned, and the questions that are yet to be asked."""

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
    """The answers that are pinned; the server is known to give no others."""

    def __init__(self, pins: Pins) -> None:
        """Answer from ``pins``."""
        self._pins = pins

    def source(self, uuid: str) -> Mapping[str, JsonValue] | None:
        """Return the inventory of a source, as far as the plan uses it; None where it does not exist."""
        return self._pins.sources.get(uuid)

    def find(self, conditions: tuple[str, ...], rendered: Sequence[str]) -> Sequence[str]:
        """Return the uuids that a query finds; ``rendered``: the conditions as the server is asked."""
        del rendered
        return self._pins.queries.get(conditions, ())


class Questions(Answers):
    """Takes down every question that no pin answers, and answers it with a placeholder."""

    def __init__(self, pins: Pins) -> None:
        """Ask nothing that ``pins`` answer."""
        super().__init__(pins)
        self.sources: dict[str, None] = {}
        """Sources of which a field is missing."""
        self.fields: set[str] = set()
        """All fields that are used of any source."""
        self.queries: dict[tuple[str, ...], tuple[str, ...]] = {}
        """Conditions as the job file writes them, and as they are to be asked."""

    def __bool__(self) -> bool:
        """Whether the server has to be asked at all."""
        return bool(self.sources or self.queries)

    def source(self, uuid: str) -> Mapping[str, JsonValue]:
        """Return an inventory that has every field and notes which of them are read."""
        return _Placeholders(uuid, self._pins.sources.get(uuid, {}), self)

    def find(self, conditions: tuple[str, ...], rendered: Sequence[str]) -> Sequence[str]:
        """Return what is pinned, or one placeholder."""
        found = self._pins.queries.get(conditions)
        if found is None:
            self.queries[conditions] = tuple(rendered)
        return placeholder_uuids(conditions) if found is None else found


class _Placeholders(dict[str, "JsonValue"]):
    """Has every field; what is not known is made up so that it fits the parameter of its name."""

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
    """Return a value for a field of a source, of the type of the parameter with its name."""
    param = PARAMS.get(name)
    if param is None or param.type is ParamType.STRING:
        return param.choices[0] if param and param.choices else f"<{name}>"
    return False if param.type is ParamType.BOOLEAN else 0


def placeholder_uuids(conditions: tuple[str, ...]) -> tuple[str, ...]:
    """Return the uuid of one service in place of what a query finds."""
    return (hashlib.sha256("\0".join(conditions).encode()).hexdigest()[:DIGEST_HEX],)


def render_condition(text: str, names: Mapping[str, str]) -> str:
    """Render a condition of a ``query:``. Raises RenderError, also where the server would read another condition."""
    condition = render(text, names)
    parts = split_condition(condition)
    field = "" if parts is None else parts[0]
    if not _FIELD.fullmatch(field):
        message = f"{quote(condition)} is read by the server as a condition on {quote(field)}, no field"
        raise RenderError(f"{message}: a value must not hold an operator")
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
