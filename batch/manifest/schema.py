"""The JSON Schema of a manifest's lines: the format is published, so that scripts may rely on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.manifest.header import FORMAT, VERSION
from batch.manifest.records import PAGE
from batch.model import State

if TYPE_CHECKING:
    from batch.model import JsonValue

_TEXT: Final[JsonValue] = {"type": "string"}
_TIME: Final[JsonValue] = {"type": "number", "description": "seconds since the epoch"}
_COUNT: Final[JsonValue] = {"type": "integer", "minimum": 0}
_HEX: Final[JsonValue] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_SEALED: Final[dict[str, JsonValue]] = {
    "batch": {"type": "integer", "minimum": 0, "description": "number of the group commit that wrote the line"},
    "more": {"const": True, "description": "the next line is of the same batch"},
    "crc": {
        "type": "string",
        "pattern": "^[0-9a-f]{8}$",
        "description": "CRC-32 of the bytes before this field, started from the crc of the line before",
    },
}


def manifest_schema() -> dict[str, JsonValue]:
    """Return the schema that every line of a manifest meets; unknown fields are allowed and ignored."""
    kinds = {
        "header": _header(),
        "plan": _plan(),
        "planned": _planned(),
        "pinned": _pinned(),
        "clone": _clone(),
        "started": _started(),
        "ended": _ended(),
        "taken_up": _taken_up(),
        "handed_over": _handed_over(),
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "One line of a zclone manifest",
        "oneOf": [{"$ref": f"#/definitions/{name}"} for name in kinds],
        "definitions": dict(kinds),
    }


def _line(required: dict[str, JsonValue], optional: dict[str, JsonValue] | None = None) -> JsonValue:
    return {
        "type": "object",
        "properties": {**required, **(optional or {}), **_SEALED},
        "required": [*required, "batch", "crc"],
    }


def _header() -> JsonValue:
    return _line(
        {
            "format": {"const": FORMAT},
            "version": {"const": VERSION},
            "job": _TEXT,
            "run": _TEXT,
            "endpoint": _TEXT,
            "simulated": {"type": "boolean", "description": "a rehearsal on the embedded node"},
            "tool": _TEXT,
            "created_at": _TIME,
        },
        {"job_file": _TEXT},
    )


def _started() -> JsonValue:
    warnings: JsonValue = {
        "type": "array",
        "items": _TEXT,
        "minItems": 1,
        "description": "what the operator was warned of and went on with, such as a certificate that is not checked",
    }
    return _line({"started": _TIME, "pid": _COUNT, "host": _TEXT, "tool": _TEXT}, {"warnings": warnings})


def _ended() -> JsonValue:
    states: dict[str, JsonValue] = {state.value: {"type": "integer", "minimum": 1} for state in State}
    counts: JsonValue = {
        "type": "object",
        "properties": states,
        "additionalProperties": False,
        "description": "targets on record by state; with final states only there is nothing left to do",
    }
    return _line({"ended": _TIME, "exit": _COUNT}, {"reason": _TEXT, "counts": counts})


def _taken_up() -> JsonValue:
    keys: JsonValue = {
        "type": "array",
        "items": _TEXT,
        "description": "keys of targets that were in flight when the process before died; counted to find the culprit",
    }
    return _line({"taken_up": keys, "at": _TIME})


def _handed_over() -> JsonValue:
    key: JsonValue = {
        "type": "string",
        "description": "key of a target whose clone was given to its owner and shared; refused where there is an error",
    }
    accounts: JsonValue = {"type": "array", "items": _TEXT, "minItems": 1, "description": "account uuids"}
    owner: JsonValue = {"type": "string", "description": "account uuid"}
    return _line(
        {"handed_over": key, "at": _TIME, "clone_uuid": _TEXT},
        {"owner": owner, "share_with": accounts, "error_code": _TEXT, "error": _TEXT},
    )


def _plan() -> JsonValue:
    hand_overs: JsonValue = {"type": "integer", "minimum": 1, "description": "targets with owner or share_with"}
    return _line({"plan": _TEXT, "inputs": _TEXT, "targets": _COUNT, "at": _TIME}, {"hand_overs": hand_overs})


def _planned() -> JsonValue:
    pair: JsonValue = {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2}
    target: JsonValue = {"oneOf": [_TEXT, pair], "description": "key, or key and source uuid where they differ"}
    return _line({"planned": {"type": "array", "items": target, "minItems": 1, "maxItems": PAGE}})


def _pinned() -> JsonValue:
    texts: JsonValue = {"type": "array", "items": _TEXT}
    sources: JsonValue = {
        "type": "object",
        "additionalProperties": {"type": "object"},
        "description": "what the plan took from each source, so that a resumed run plans the same",
    }
    return _line({"pinned": sources}, {"query": texts, "found": texts})


def _clone() -> JsonValue:
    states: list[JsonValue] = [state.value for state in State]
    return _line(
        {
            "state": {"enum": states},
            "key": _TEXT,
            "at": _TIME,
            "attempt": {"type": "integer", "minimum": 0, "description": "POSTs so far, over all processes"},
        },
        {
            "source_uuid": _TEXT,
            "resource_uuid": _HEX,
            "job_uuid": _HEX,
            "digest": {"type": "string", "description": "of the source uuid and the body that was sent"},
            "deadline": _TIME,
            "clone_uuid": _TEXT,
            "name": _TEXT,
            "adopted": {"type": "boolean", "description": "found by its uuid, not by its job's answer"},
            "error_code": _TEXT,
            "error": _TEXT,
            "retried": {
                "type": "boolean",
                "description": "opened again by `zclone retry`: planned where it had failed, uncertain where set aside",
            },
        },
    )
