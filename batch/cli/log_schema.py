"""The JSON Schema of log lines as ``--log-format json`` writes them: every event with its fields."""

from __future__ import annotations

from typing import Any, Final

from batch.model import State

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_SECONDS: Final = {"type": "number"}
_START: Final = {"type": "string", "description": "the start of the api job's uuid"}
_PERHAPS: Final = {"type": ["number", "null"], "description": "seconds until the end; null while unknown"}
_UUID: Final = {"type": "string", "pattern": "^[0-9A-Za-z]{32}$"}
_SETTLED: Final = sorted(state.value for state in State if state.is_final or state is State.UNCERTAIN)

EVENTS: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "operator.warned": ({"text": _TEXT}, {}),
    "run.started": ({"targets": _COUNT, "rate": {"type": "number", "description": "calls a second"}}, {}),
    "run.progressed": (
        {
            "settled": _COUNT,
            "total": _COUNT,
            "in_flight": _COUNT,
            "rate": {"type": "number", "description": "calls a second of late"},
            "limit": {"type": "number", "description": "the calls a second that are allowed"},
            "eta_seconds": _PERHAPS,
            "eta_p90_seconds": _PERHAPS,
        },
        dict.fromkeys(_SETTLED, _COUNT),
    ),
    "run.ended": ({"exit_code": _COUNT, "reason": {"type": ["string", "null"]}}, {}),
    "clone.sent": ({"key": _TEXT, "attempt": _COUNT, "api_job": _START}, {}),
    "clone.settled": (
        {"key": _TEXT, "state": {"enum": _SETTLED}, "attempts": _COUNT},
        {"api_job": _START, "clone_uuid": _UUID, "error_code": _TEXT, "error": _TEXT, "seconds": _SECONDS},
    ),
    "clone.handed_over": ({"key": _TEXT, "clone_uuid": _UUID}, {}),
    "clone.not_handed_over": ({"key": _TEXT, "clone_uuid": _UUID, "error_code": _TEXT, "error": _TEXT}, {}),
    "wave.started": (
        {"wave": _COUNT, "of": _COUNT, "targets": {**_COUNT, "description": "that it has left to do"}},
        {},
    ),
    "server.lost": ({"failures": _COUNT, "reason": _TEXT}, {}),
    "server.busy": ({"in_flight": {**_COUNT, "description": "how many clones may be in flight now"}}, {}),
    "server.returned": ({"seconds": _SECONDS}, {}),
}
"""Of each event the fields it always has, and those it has where they apply."""

_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_ALWAYS: Final = {
    "at": {"type": "string", "format": "date-time", "description": "UTC"},
    "level": {"enum": list(_LEVELS)},
}
_BOUND: Final = {
    "job": {**_TEXT, "description": "the job's name, once its file was read"},
    "run": {**_TEXT, "description": "the run's identity"},
}


def log_schema() -> dict[str, Any]:
    """Return the schema of one line (draft-07)."""
    names = {name: name.replace(".", "_") for name in EVENTS}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "One line of a zclone log",
        "oneOf": [{"$ref": f"#/definitions/{short}"} for short in names.values()],
        "definitions": {short: _event(name) for name, short in names.items()},
    }


def _event(name: str) -> dict[str, Any]:
    always, sometimes = EVENTS[name]
    return {
        "type": "object",
        "properties": {**_ALWAYS, "event": {"const": name}, **always, **sometimes, **_BOUND},
        "required": [*_ALWAYS, "event", *always],
        "additionalProperties": False,
    }
