"""A plan as ``plan --out`` saves it: enough to make exactly this plan again, and to detect that it would differ."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from batch.errors import UsageError
from batch.model import Pins

if TYPE_CHECKING:
    from batch.model import Plan

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
            "sources": {uuid: dict(found) for uuid, found in self.pins.sources.items()},
            "queries": [[list(conditions), list(found)] for conditions, found in self.pins.queries.items()],
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
        queries = [list(found) for found in self.pins.queries if fresh.queries.get(found) != self.pins.queries[found]]
        what = f"sources {', '.join(changed[:5])}" if changed else f"results of the query {queries[:1]}"
        raise UsageError(f"the {what} were changed on the server since the plan was saved: plan again")


def read_saved(text: str) -> SavedPlan:
    """Parse a saved plan. Raises UsageError where it is not one, or was edited."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UsageError("is not a saved plan: zclone plan JOB --out FILE makes one")
    if found.get("version") != VERSION:
        raise UsageError(f"is a saved plan of format {found.get('version')}, this zclone reads {VERSION}: plan again")
    seal = found.pop("seal", None)
    if seal != _seal(found) or not all(isinstance(found.get(name), kinds) for name, kinds in _TYPES.items()):
        raise UsageError("was changed since it was saved: plan again")
    queries = {tuple(conditions): tuple(uuids) for conditions, uuids in found["queries"]}
    return SavedPlan(
        found["job_file"],
        found["run"],
        float(found["started_at"]),
        found["digest"],
        found["tool"],
        Pins(found["sources"], queries),
    )


def _seal(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _major(version: str) -> str:
    return version.partition(".")[0]
