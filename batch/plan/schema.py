"""The JSON Schema of ``zclone plan -o json``: the document is published, so that scripts may rely on it."""

from __future__ import annotations

from typing import Any, Final

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_UUID: Final = {"type": "string", "pattern": "^[0-9A-Za-z]{32}$"}
_DIGEST: Final = {"type": "string", "pattern": "^[0-9a-f]{32}"}
_LAYERS: Final = ("target", "from", "defaults", "source", "rearchitect")


def plan_schema() -> dict[str, Any]:
    """Return the schema (draft-07)."""
    rendered = {"type": "boolean", "description": "whether values were put in for ${…}"}
    place = {"file": _TEXT, "line": _COUNT, "column": _COUNT}
    setting = _object({"layer": {"enum": list(_LAYERS)}, "rendered": rendered, **place})
    body = {"type": "object", "required": ["params"], "description": "as it would be posted"}
    clone = _object(
        {
            "key": _TEXT,
            "source_uuid": _UUID,
            "resource_uuid": _UUID,
            "digest": _DIGEST,
            "body": body,
            "set_by": {"type": "object", "additionalProperties": setting},
            "source_differs": {
                "type": "object",
                "description": "the source's values where the clone gets others",
            },
            "source_resets": {
                "type": "object",
                "description": "the source's values that the server sets to 0 or false, since nothing is sent for them",
            },
        }
    )
    clone["properties"]["server_check"] = _object(
        {
            "outcome": {"enum": ["ok", "refused", "unclear"]},
            **{name: {"type": ["string", "null"]} for name in ("code", "error", "hint")},
        }
    )
    clone["properties"]["owner"] = {**_UUID, "description": "account that it is given to once it is made"}
    clone["properties"]["share_with"] = {"type": "array", "items": _UUID, "minItems": 1, "description": "accounts"}
    head = {"job": _TEXT, "run": _TEXT, "digest": _DIGEST, "count": _COUNT}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "zclone plan",
        **_object({**head, "clones": {"type": "array", "items": clone}}),
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}
