"""The JSON Schema of a manifest's lines: the format is published, so that scripts may rely on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.errors import EndReason
from batch.manifest.line import FORMAT, VERSION
from batch.manifest.records import PAGE
from batch.model import State
from batch.schema import COUNT, FLAG, HEX, SECONDS, TEXT, array, describe, line, record

if TYPE_CHECKING:
    from batch.schema import Schema

_TIME: Final = describe(SECONDS, "seconds since the epoch")
_SHARD: Final[Schema] = {**TEXT, "pattern": "^[0-9]+/[0-9]+$"}
_SEALED: Final[dict[str, Schema]] = {
    "batch": describe(COUNT, "number of the group commit that wrote the line"),
    "more": {"const": True, "description": "the next line is of the same batch"},
    "crc": {
        "type": "string",
        "pattern": "^[0-9a-f]{8}$",
        "description": "CRC-32 of the bytes before this field, started from the crc of the line before",
    },
}


_FIELDS: Final = describe(array(TEXT, min_items=1), "names of the parameters that UpdateModelService sets")
_CHANGE_FLAGS: Final = {
    "sent_before": describe(
        FLAG, "the change was sent before, and that may still be executed whatever the end of this job is"
    ),
    "refused": describe(FLAG, "the answer to the call refused it: it has no job, and was not executed"),
}
_AT_MOST_ONCE: Final = describe(
    FLAG, "nothing that may have been executed is sent again, in this process and all later ones"
)


def manifest_schema() -> Schema:
    """Return the schema that every line of a manifest matches; unknown fields are allowed and ignored."""
    kinds = {
        "header": _header_schema(),
        "plan": _plan_schema(),
        "planned": _planned_schema(),
        "pinned": _pinned_schema(),
        "clone": _clone_schema(),
        "started": _started_schema(),
        "connected": _connected_schema(),
        "controlled": _controlled_schema(),
        "deleting": _deleting_schema(),
        "mending": _mending_schema(),
        "mended": _mended_schema(),
        "ended": _ended_schema(),
        "taken_up": _taken_up_schema(),
        "handed_over": _handed_over_schema(),
        "handing_over": _handing_over_schema(),
        "repaired": _repaired_schema(),
        "merged": _merged_schema(),
        "adopted": _adopted_schema(),
    }
    return line("One line of a zclone manifest", kinds)


def _line(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    found = record(required, {**(optional or {}), **_SEALED})
    return {**found, "required": [*required, "batch", "crc"]}


def _header_schema() -> Schema:
    tag = describe(FLAG, "each clone gets the user tag zclone::<job>::<run>::<key>")
    return _line(
        {
            "format": {"const": FORMAT},
            "version": {"const": VERSION},
            "job": TEXT,
            "run": TEXT,
            "endpoint": TEXT,
            "simulated": describe(FLAG, "a rehearsal on the embedded node"),
            "tool": TEXT,
            "created_at": _TIME,
        },
        {"job_file": TEXT, "at_most_once": _AT_MOST_ONCE, "tag": tag},
    )


def _started_schema() -> Schema:
    warnings = describe(
        array(TEXT, min_items=1),
        "warnings that the operator accepted, such as a certificate that is not verified",
    )
    user = describe(TEXT, "name of the user who runs it, the number where there is none")
    return _line(
        {"started": _TIME, "pid": COUNT, "host": TEXT, "tool": TEXT},
        {"user": user, "warnings": warnings, "at_most_once": _AT_MOST_ONCE, **_remote_schemas()},
    )


def _connected_schema() -> Schema:
    account = describe(TEXT, "uuid of the account that the clones belong to")
    rate = describe({"type": "number"}, "calls a second at most")
    return _line({"connected": _TIME, "rate": rate}, {"account": account})


def _controlled_schema() -> Schema:
    order = describe(TEXT, "the order given to zclone control; the other fields are the limits since")
    rate = describe({"type": "number"}, "calls a second at most")
    concurrency = describe({"type": "integer", "minimum": 1}, "clones in flight at most")
    paused = describe(FLAG, "nothing new is sent, and after 30 s no call is made")
    draining = describe(FLAG, "nothing new is sent, and the process ends once all in flight has settled")
    required = {"controlled": order, "at": _TIME, "rate": rate, "concurrency": concurrency}
    return _line(required, {"paused": paused, "draining": draining})


def _remote_schemas() -> dict[str, Schema]:
    engine = describe(TEXT, "the engine, where it is not the process itself: temporal")
    return {"engine": engine, "address": TEXT, "namespace": TEXT, "workflow_id": TEXT}


def _adopted_schema() -> Schema:
    user = describe(TEXT, "the user who continues it, by --adopt-manifest")
    return _line({"adopted_by": user, "begun_by": TEXT, "at": _TIME})


def _ended_schema() -> Schema:
    states: dict[str, Schema] = {state.value: {"type": "integer", "minimum": 1} for state in State}
    counts = {
        "type": "object",
        "properties": states,
        "additionalProperties": False,
        "description": "targets on record by state; with final states only there is nothing left to do",
    }
    handed = {
        "type": "object",
        "properties": dict.fromkeys(("done", "open", "refused"), COUNT),
        "required": ["done", "open", "refused"],
        "description": "hand-overs of the plan's clones that are made",
    }
    reason_code = {
        "enum": [reason.value for reason in EndReason],
        "description": "code of reason; unknown codes of a newer zclone mean unfinished",
    }
    return _line(
        {"ended": _TIME, "exit": COUNT},
        {"reason": TEXT, "reason_code": reason_code, "counts": counts, "handed": handed},
    )


def _taken_up_schema() -> Schema:
    keys = describe(
        array(TEXT),
        "keys of targets in flight when the process before was killed; counted for the quarantine",
    )
    return _line({"taken_up": keys, "at": _TIME})


def _repaired_schema() -> Schema:
    damaged = describe(COUNT, "byte ranges that could not be verified")
    return _line({"repaired": _TIME, "damaged": damaged})


def _handed_over_schema() -> Schema:
    key = describe(
        TEXT, "key of a target whose clone was given to its owner and shared; refused where there is an error"
    )
    until = describe(SECONDS, "when the server can no longer execute a try without an end, seconds since the epoch")
    return _line({"handed_over": key, "at": _TIME, "clone_uuid": TEXT}, {**_hand_over_fields(), "until": until})


def _handing_over_schema() -> Schema:
    key = describe(
        TEXT, "key of a target whose clone is about to be given to its owner, or may still be where there is an error"
    )
    unexecuted = describe(FLAG, "the try was not and will not be executed")
    required: dict[str, Schema] = {"handing_over": key, "at": _TIME, "clone_uuid": TEXT}
    return _line(required, {**_hand_over_fields(), "unexecuted": unexecuted})


def _hand_over_fields() -> dict[str, Schema]:
    accounts = describe(array(TEXT, min_items=1), "account uuids")
    owner = describe(TEXT, "account uuid")
    return {"owner": owner, "share_with": accounts, "error_code": TEXT, "error": TEXT}


def _deleting_schema() -> Schema:
    key = describe(TEXT, "key of a target whose clone is about to be deleted; `undone` is recorded once it is")
    return _line({"deleting": key, "at": _TIME, "clone_uuid": TEXT, "job_uuid": HEX}, _CHANGE_FLAGS)


def _mending_schema() -> Schema:
    key = describe(TEXT, "key of a target whose clone is about to be updated; `mended` follows")
    digest = describe(TEXT, "of the source uuid and the body that the job file requests")
    uuids: dict[str, Schema] = {"clone_uuid": TEXT, "job_uuid": HEX}
    return _line({"mending": key, "at": _TIME, **uuids, "fields": _FIELDS, "digest": digest}, _CHANGE_FLAGS)


def _mended_schema() -> Schema:
    return _line({"mended": TEXT, "at": _TIME, "clone_uuid": TEXT, "fields": _FIELDS})


def _plan_schema() -> Schema:
    hand_overs = {"type": "integer", "minimum": 1, "description": "targets with owner or share_with"}
    return _line(
        {"plan": TEXT, "inputs": TEXT, "targets": COUNT, "at": _TIME},
        {
            "hand_overs": hand_overs,
            "shard": {**_SHARD, "description": "exactly that part of the whole plan: --shard K/N"},
            "whole": describe(TEXT, "digest of the whole plan"),
        },
    )


def _merged_schema() -> Schema:
    path = describe(TEXT, "manifest of a shard, whose lines follow")
    checksum = {"type": "string", "pattern": "^[0-9a-f]{8}$", "description": "crc of its last line"}
    return _line({"merged": path, "shard": _SHARD, "lines": COUNT, "checksum": checksum, "at": _TIME})


def _planned_schema() -> Schema:
    pair = array(TEXT, min_items=2, max_items=2)
    target = {"oneOf": [TEXT, pair], "description": "key, or key and source uuid where they differ"}
    return _line({"planned": array(target, min_items=1, max_items=PAGE)})


def _pinned_schema() -> Schema:
    texts = array(TEXT)
    sources = {
        "type": "object",
        "additionalProperties": {"type": "object"},
        "description": "what the plan took from each source, so that a resumed run plans the same",
    }
    return _line({"pinned": sources}, {"query": texts, "found": texts})


def _clone_schema() -> Schema:
    states = [state.value for state in State]
    return _line(
        {
            "state": {"enum": states},
            "key": TEXT,
            "at": _TIME,
            "attempt": describe(COUNT, "POSTs so far, over all processes"),
        },
        {
            "source_uuid": TEXT,
            "resource_uuid": HEX,
            "job_uuid": HEX,
            "digest": describe(TEXT, "of the source uuid and the body that was sent, by the job named"),
            "deadline": _TIME,
            "clone_uuid": TEXT,
            "name": TEXT,
            "adopted": describe(FLAG, "found by its uuid, not by its job's answer"),
            "error_code": TEXT,
            "error": TEXT,
            "retried": describe(
                FLAG, "reopened by `zclone retry`: planned where it had failed, uncertain where set aside"
            ),
            "open_jobs": {
                "type": "array",
                "items": {"type": "string", "pattern": "^([0-9a-f]{32}|unknown)$"},
                "description": "job uuids of earlier attempts that had no definite end, beside job_uuid",
            },
            "api_timeout": describe(SECONDS, "seconds that the server said it may work on the job"),
            "until": describe(SECONDS, "when the server can no longer execute the last POST, seconds since the epoch"),
            "made_elsewhere": describe(FLAG, "it existed before this manifest recorded an attempt to make it"),
            "unanswered": describe(FLAG, "an attempt got no answer at all"),
            "in_use": describe(FLAG, "a job found the uuid in use"),
        },
    )
