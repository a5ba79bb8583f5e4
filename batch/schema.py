"""Building blocks of the JSON Schemas (draft-07) of the published formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Schema: TypeAlias = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
MAYBE_TEXT: Final[Schema] = {"type": ["string", "null"]}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
FLAG: Final[Schema] = {"type": "boolean"}
SECONDS: Final[Schema] = {"type": "number"}
UUID: Final[Schema] = {"type": "string", "pattern": "^[0-9A-Za-z]{32}$"}
"""Uuid of any resource: built-in services have letters beyond hexadecimal."""
HEX: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}


def document(title: str, schema: Schema) -> Schema:
    """Return the schema of a whole document."""
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": title, **schema}


def line(title: str, kinds: Mapping[str, Schema]) -> Schema:
    """Return the schema of one line of a file, which is one of ``kinds``."""
    return document(title, {"oneOf": [refer(name) for name in kinds], "definitions": dict(kinds)})


def record(
    required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None, *, is_closed: bool = False
) -> Schema:
    """Return the schema of an object with these fields; ``is_closed``: and no others."""
    schema: Schema = {"type": "object", "properties": {**required, **(optional or {})}}
    if required:
        schema["required"] = [*required]
    return {**schema, "additionalProperties": False} if is_closed else schema


def array(items: Schema, *, min_items: int = 0, max_items: int | None = None) -> Schema:
    """Return the schema of a list of ``items``."""
    bounds = {"minItems": min_items or None, "maxItems": max_items}
    return {"type": "array", "items": items, **{name: value for name, value in bounds.items() if value is not None}}


def refer(name: str) -> Schema:
    """Return a reference to the definition ``name``."""
    return {"$ref": f"#/definitions/{name}"}


def describe(schema: Schema, description: str) -> Schema:
    """Return ``schema`` with the description that editors show."""
    return {**schema, "description": description}
