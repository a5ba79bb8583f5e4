"""The server's answers that a plan depends on: pinned ones, queries still needed, and a plan saved with its answers.

A plan as ``plan --out`` saves it is enough to make exactly this plan again, and to detect that it would differ.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from batch.errors import UsageError
from batch.jobfile.problems import quote
from batch.model import Pins
from batch.plan.identity import DIGEST_HEX
from batch.plan.render import RenderError, render
from batch.zstack.params import PARAMS, ParamType, split_condition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batch.model import JsonValue, Plan

_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")

FORMAT: Final = "zclone-saved-plan"
VERSION: Final = 1
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "job_file": (str,),
    "run": (str,),
    "started_at": (int, float),
    "digest": (str,),
    "tool": (str,),
    "sources": (dict,),
    "queries": (list,),
}


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
        pinned = self._pins.queries.get(conditions)
        if pinned is None:
            self.queries[conditions] = tuple(rendered)
        return placeholder_uuids(conditions) if pinned is None else pinned


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


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A saved plan; the job file and the files it names must be present unchanged."""

    job_file: str
    run: str
    started_at: float
    """Seconds since the epoch: the start that ``${date}`` and ``${time}`` refer to."""
    digest: str
    """Digest of the plan."""
    tool: str
    """Version of zclone that made it."""
    pins: Pins

    def text(self) -> str:
        """Return the file's text, sealed."""
        fields: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "job_file": self.job_file,
            "run": self.run,
            "started_at": self.started_at,
            "digest": self.digest,
            "tool": self.tool,
            "sources": {uuid: dict(inventory) for uuid, inventory in self.pins.sources.items()},
            "queries": [[list(conditions), list(uuids)] for conditions, uuids in self.pins.queries.items()],
        }
        return json.dumps({**fields, "seal": _seal(fields)}, indent=1) + "\n"

    def require(self, plan: Plan, *, tool: str) -> None:
        """Raise UsageError unless ``plan`` is the saved one and made by the same major version."""
        if _major(tool) != _major(self.tool):
            raise UsageError(f"the plan was saved by zclone {self.tool}, this is {tool}: plan again")
        if plan.digest != self.digest:
            raise UsageError(f"{self.job_file} or a file it names was changed since the plan was saved: plan again")

    def require_same_server(self, fresh: Pins) -> None:
        """Raise UsageError where the server's answers have changed."""
        if fresh == self.pins:
            return
        changed = [uuid for uuid, fields in self.pins.sources.items() if fresh.sources.get(uuid) != fields]
        queries = [list(query) for query in self.pins.queries if fresh.queries.get(query) != self.pins.queries[query]]
        what = f"sources {', '.join(changed[:5])}" if changed else f"results of the query {queries[:1]}"
        raise UsageError(f"the {what} were changed on the server since the plan was saved: plan again")


def read_saved(text: str) -> SavedPlan:
    """Parse a saved plan. Raises UsageError where it is not one, or was edited."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise UsageError("is not a saved plan: zclone plan JOB --out FILE makes one")
    if fields.get("version") != VERSION:
        raise UsageError(f"is a saved plan of format {fields.get('version')}, this zclone reads {VERSION}: plan again")
    seal = fields.pop("seal", None)
    if seal != _seal(fields) or not all(isinstance(fields.get(name), kinds) for name, kinds in _TYPES.items()):
        raise UsageError("was changed since it was saved: plan again")
    queries = {tuple(conditions): tuple(uuids) for conditions, uuids in fields["queries"]}
    return SavedPlan(
        fields["job_file"],
        fields["run"],
        float(fields["started_at"]),
        fields["digest"],
        fields["tool"],
        Pins(fields["sources"], queries),
    )


def _seal(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _major(version: str) -> str:
    return version.partition(".")[0]
