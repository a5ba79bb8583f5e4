"""The published JSON Schemas: those of log lines and of a plan as JSON, and which one ``zclone schema`` prints."""

from __future__ import annotations

from typing import Final

from batch.app.messages import MESSAGE
from batch.errors import EndReason
from batch.model import State
from batch.schema import COUNT, FLAG, MAYBE_TEXT, SECONDS, TEXT, UUID, Schema, array, describe, document, line, record
from batch.text import to_json

_START: Final = describe(TEXT, "the start of the api job's uuid")
_PERHAPS: Final = {"type": ["number", "null"], "description": "seconds until the end; null while unknown"}
_SETTLED: Final = sorted(state.value for state in State if state.is_final or state is State.UNCERTAIN)

EVENTS: Final[dict[str, tuple[Schema, Schema]]] = {
    MESSAGE: ({"text": TEXT}, {}),
    "operator.warned": ({"text": TEXT}, {}),
    "temporal.silent": ({"reason": TEXT}, {}),
    "run.started": ({"targets": COUNT, "rate": describe(SECONDS, "calls a second")}, {"workflow": TEXT}),
    "run.progressed": (
        {
            "settled": COUNT,
            "total": COUNT,
            "in_flight": COUNT,
            "rate": describe(SECONDS, "calls a second of late"),
            "limit": describe(SECONDS, "the calls a second that are allowed"),
            "eta_seconds": _PERHAPS,
            "eta_p90_seconds": _PERHAPS,
        },
        dict.fromkeys(_SETTLED, COUNT)
        | {
            "lowered_to": describe(SECONDS, "the calls a second in force, while the server's own limiter refuses more"),
            "waiting_for": describe(TEXT, "key of the clone that was sent first, once the rest has settled"),
            "waiting_seconds": describe(COUNT, "since its first POST"),
            "at_most_seconds": describe(COUNT, "until it is given up"),
        },
    ),
    "run.controlled": (
        {
            "order": describe(TEXT, "what zclone control was given"),
            "rate": describe(SECONDS, "calls a second that are allowed since"),
            "concurrency": describe(COUNT, "clones that may be in flight since"),
            "paused": {"type": "boolean"},
            "draining": {"type": "boolean"},
        },
        {},
    ),
    "run.ended": (
        {
            "exit_code": COUNT,
            "reason": {"type": ["string", "null"]},
            "reason_code": {"enum": [*(reason.value for reason in EndReason), None], "description": "its kind"},
        },
        {},
    ),
    "clone.sent": ({"key": TEXT, "attempt": COUNT, "api_job": _START}, {}),
    "clone.settled": (
        {"key": TEXT, "state": {"enum": _SETTLED}, "attempts": COUNT},
        {"api_job": _START, "clone_uuid": UUID, "error_code": TEXT, "error": TEXT, "seconds": SECONDS},
    ),
    "clone.handed_over": ({"key": TEXT, "clone_uuid": UUID}, {}),
    "clone.not_handed_over": ({"key": TEXT, "clone_uuid": UUID, "error_code": TEXT, "error": TEXT}, {}),
    "clone.hand_over_open": ({"key": TEXT, "clone_uuid": UUID, "error_code": TEXT, "error": TEXT}, {}),
    "clone.hand_over_waits": ({"key": TEXT, "until": TEXT, "error": TEXT}, {}),
    "wave.started": (
        {"wave": COUNT, "of": COUNT, "targets": describe(COUNT, "that it has left to do")},
        {},
    ),
    "server.lost": ({"failures": COUNT, "reason": TEXT}, {}),
    "server.unready": ({"reason": TEXT}, {}),
    "server.busy": (
        {},
        {
            "in_flight": describe(COUNT, "how many clones may be in flight now"),
            "seconds": describe(SECONDS, "for how long no call is made, as the server asked"),
        },
    ),
    "rate.lowered": (
        {
            "rate": describe(SECONDS, "the calls a second in force, as the server's own limiter refused more"),
            "limit": describe(SECONDS, "the calls a second that are allowed"),
        },
        {},
    ),
    "rate.restored": ({"rate": describe(SECONDS, "the calls a second, as many as are allowed again")}, {}),
    "server.returned": ({"seconds": SECONDS}, {}),
    "webhook.listening": ({"address": describe(TEXT, "host and port")}, {}),
    "webhook.missing": (
        {"jobs": describe(COUNT, "that ended in a row without a web hook"), "hint": describe(TEXT, "what to look at")},
        {},
    ),
}
"""Of each event the fields it always has, and those it has where they apply."""

_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_ALWAYS: Final[Schema] = {
    "at": {"type": "string", "format": "date-time", "description": "UTC"},
    "level": {"enum": list(_LEVELS)},
}
_BOUND: Final = {
    "job": describe(TEXT, "the job's name, once its file was read"),
    "run": describe(TEXT, "the run's identity"),
}


def schema_text(kind: str) -> str:
    """Return the JSON Schema of a published format; ``kind``: log, verify, plan, report, manifest or job."""
    return to_json(_schema(kind), indent=2)


def _schema(kind: str) -> Schema:
    match kind:
        case "log":
            return log_schema()
        case "plan":
            return plan_schema()
        case "verify":
            from batch.report.verification import verification_schema

            return verification_schema()
        case "report":
            from batch.report.formats import report_schema

            return report_schema()
        case "manifest":
            from batch.manifest.schema import manifest_schema

            return manifest_schema()
    from batch.jobfile.schema import job_schema

    return job_schema()


def log_schema() -> Schema:
    """Return the schema of one line (draft-07)."""
    return line("One line of a zclone log", {name.replace(".", "_"): _event(name) for name in EVENTS})


def _event(name: str) -> Schema:
    always, sometimes = EVENTS[name]
    return record({**_ALWAYS, "event": {"const": name}, **always}, {**sometimes, **_BOUND}, is_closed=True)


def plan_schema() -> Schema:
    """Return the JSON Schema of the document, a published format that scripts may rely on."""
    rendered = describe(FLAG, "whether values were put in for ${…}")
    place = {"file": TEXT, "line": COUNT, "column": COUNT}
    digest = {**TEXT, "pattern": "^[0-9a-f]{32}"}
    layer = {"enum": ["target", "from", "defaults", "source", "rearchitect"]}
    setting = record({"layer": layer, "rendered": rendered, **place})
    clone = {
        "key": TEXT,
        "source_uuid": UUID,
        "resource_uuid": UUID,
        "digest": digest,
        "body": {"type": "object", "required": ["params"], "description": "as it would be posted"},
        "set_by": {"type": "object", "additionalProperties": setting},
        "source_differs": {"type": "object", "description": "the source's values where the clone gets others"},
        "source_resets": {
            "type": "object",
            "description": "the source's values that the server sets to 0 or false, since nothing is sent for them",
        },
    }
    answer = {"outcome": {"enum": ["ok", "refused", "unclear"]}, **dict.fromkeys(("code", "error", "hint"), MAYBE_TEXT)}
    optional = {
        "server_check": record(answer),
        "owner": describe(UUID, "account that it is given to once it is made"),
        "share_with": describe(array(UUID, min_items=1), "accounts"),
    }
    head = {"job": TEXT, "run": TEXT, "digest": digest, "count": COUNT}
    return document("zclone plan", record({**head, "clones": array(record(clone, optional))}))
