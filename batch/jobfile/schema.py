"""The JSON Schema of job files (draft-07), generated from the envelope's models and the parameter table.

It describes the file as editors read it: a String parameter may look like a number, since the text counts.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from batch.jobfile.check import MAX_INTEGER
from batch.jobfile.envelope import EnvelopeModel
from batch.jobfile.layers import KEEPABLE
from batch.zstack.params import ARCHITECTURES, BODY_PARAMS, IMAGE_FIELDS, Param, ParamType

Schema: TypeAlias = dict[str, Any]

UUID: Final = r"^[0-9A-Za-z]{32}$"
RESOURCE_UUID: Final = r"^[0-9a-f]{12}[1-5][0-9a-f]{3}[89ab][0-9a-f]{15}$"
_TEMPLATE: Final[Schema] = {"type": "string", "pattern": r"\$\{"}
_TEXT: Final[Schema] = {"type": ["string", "number", "boolean"]}
_NULL: Final[Schema] = {"type": "null"}
_VENDORS_ALONE: Final[Schema] = {
    "required": ["vendors"],
    "not": {"anyOf": [{"required": [name]} for name in ("to", "images", "file")]},
}
_TAGS: Final[Schema] = {"type": ["array", "null"], "items": {"$ref": "#/definitions/text"}}


def job_schema() -> Schema:
    """Return the schema of a whole job file."""
    envelope = EnvelopeModel.model_json_schema(ref_template="#/definitions/{model}")
    properties = {**envelope["properties"], "defaults": _ref("defaults"), "targets": _targets()}
    properties["rearchitect"] = _rearchitect()
    properties["version"] = {"const": 1, "description": properties["version"]["description"]}
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "zclone job file",
        "type": "object",
        "properties": properties,
        "required": [*envelope["required"], "targets"],
        "additionalProperties": False,
        "definitions": {**envelope["$defs"], **_definitions()},
    }
    cleaned = _without_noise(schema)
    assert isinstance(cleaned, dict)
    return cleaned


def param_schema(param: Param) -> Schema:
    """Return the schema of one parameter; null and ``${…}`` are fine everywhere."""
    described = {"description": f"{param.description} ({param.type}, since {'.'.join(map(str, param.since))})"}
    return {**described, "anyOf": [_of_type(param), _NULL]}


def _of_type(param: Param) -> Schema:
    if param.name == "resourceUuid":
        return _either({"type": "string", "pattern": RESOURCE_UUID})
    if param.choices:
        return _either({"enum": list(param.choices)})
    if param.type in MAX_INTEGER:
        return _either({"type": "integer", "minimum": 0, "maximum": MAX_INTEGER[param.type]})
    if param.type is ParamType.BOOLEAN:
        return _either({"type": "boolean"})
    if param.type is ParamType.STRING:
        return _TEXT if param.max_bytes is None else {**_TEXT, "maxLength": param.max_bytes}
    return {
        ParamType.STRINGS: {"type": "array", "items": _ref("architecture" if param.max_bytes else "uuid")},
        ParamType.IMAGES: {"type": "array", "items": _ref("architectureImage")},
        ParamType.UUIDS_BY_NAME: {
            "type": "object",
            "additionalProperties": {"type": "array", "items": _ref("uuid")},
        },
    }[param.type]


def _definitions() -> Schema:
    layer = {
        "params": _told("params", "parameters of CloneModelService; null takes the value of the layers below away"),
        "systemTags": {**_TAGS, "description": "system tags, united with those of defaults"},
        "userTags": {**_TAGS, "description": "user tags, united with those of defaults"},
        "keep": {
            "type": "array",
            "items": {"enum": list(KEEPABLE)},
            "description": "copy these from the source where nothing sets them; the server resets them otherwise",
        },
    }
    return {
        "uuid": _either({"type": ["string", "integer"], "pattern": UUID}),
        "text": {**_TEXT, "minLength": 1},
        "architecture": _either({"type": "string", "pattern": "^[A-Z0-9_]{1,32}$", "examples": list(ARCHITECTURES)}),
        "architectureImage": _image(),
        "params": {
            "type": ["object", "null"],
            "properties": {name: param_schema(param) for name, param in BODY_PARAMS.items()},
            "additionalProperties": False,
        },
        "defaults": _map(layer, "under every target"),
        "matrix": _matrix(),
        "target": _map({**_target_keys(), **layer}, "a source and its overrides, or a file of them"),
    }


def _target_keys() -> Schema:
    return {
        "uuid": _told("uuid", "the source model service"),
        "id": _told("text", "the target's key; default: the uuid, and the values of its matrix"),
        "from": {"type": "string", "pattern": r"\.(jsonl|ndjson|csv)$", "description": "file of targets, streamed"},
        "matrix": _ref("matrix"),
        "owner": _told("uuid", "account that the clone is given to once it is made"),
        "share_with": {
            "anyOf": [{"type": "array", "items": _ref("uuid")}, _TEMPLATE, _NULL],
            "description": "accounts that the clone is shared with once it is made",
        },
        "query": {
            "type": ["array", "string"],
            "items": {"type": "string", "pattern": "=|>|<|is null|not null"},
            "description": "conditions of QueryModelService, such as name~=qwen%; what they find is a target each",
        },
    }


def _rearchitect() -> Schema:
    rule = {
        "from": {
            "type": "string",
            "minLength": 1,
            "description": "start of source images; the longest match wins",
        },
        "to": {"type": "string", "minLength": 1, "description": "what stands in its place in the clone's image"},
        "vmImageUuid": _told("uuid", "VM image of the clone's architecture"),
        "cpuArchitecture": _told("architecture", "which of the architectures in `to` the rule is for"),
    }
    rules = {"type": "array", "items": {**_map(rule, "one rule"), "type": "object", "required": ["from", "to"]}}
    vendor = {
        "from": {
            "type": "string",
            "minLength": 1,
            "description": "start of the source's GPU vendor, in any case; the longest match wins",
        },
        "to": {"type": "string", "minLength": 1, "description": "GPU vendor of the clone"},
        "specUuids": {"type": "array", "minItems": 1, "items": _ref("uuid"), "description": "its GPU specs"},
    }
    vendors = {**_map(vendor, "one rule"), "type": "object", "required": list(vendor)}
    keys = {
        "to": {"type": "array", "minItems": 1, "items": _ref("architecture"), "description": "of the clones"},
        "vendors": {
            "type": "array",
            "minItems": 1,
            "items": vendors,
            "description": "rules from the vendorToSpecUuidsMap of the source to the clone's",
        },
        "images": {**rules, "description": "rules from the source's images to the clone's"},
        "file": {"type": "string", "description": "CSV file of rules: from, to, vmImageUuid, cpuArchitecture"},
    }
    text = "derive cpuArchitectures, architectureImages and vendorToSpecUuidsMap from what the source has"
    some = [{"required": ["to", "images"]}, {"required": ["to", "file"]}, _VENDORS_ALONE]
    return {**_map(keys, text), "type": ["object", "null"], "anyOf": some}


def _image() -> Schema:
    fields = {
        "cpuArchitecture": _told("architecture", "such as X86_64 or AARCH64"),
        "vmImageUuid": _told("uuid", "VM image"),
        "dockerImage": {
            "type": "string",
            "minLength": 1,
            "maxLength": IMAGE_FIELDS["dockerImage"],
            "description": "container image",
        },
    }
    return {**_map(fields, "image of one CPU architecture"), "type": "object", "required": ["cpuArchitecture"]}


def _matrix() -> Schema:
    row = {"type": "object", "minProperties": 1, "additionalProperties": _TEXT}
    rows = {"type": "array", "minItems": 1, "items": row}
    axis = {"type": "array", "minItems": 1, "uniqueItems": True, "items": _TEXT}
    keys = {
        "include": {**rows, "description": "adds values to the combinations it agrees with, or a combination"},
        "exclude": {**rows, "description": "removes the combinations that match"},
    }
    schema = _map(keys, "cross product of lists, as in CI files")
    return {**schema, "type": "object", "minProperties": 1, "additionalProperties": axis}


def _targets() -> Schema:
    return {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": [{"type": ["string", "integer"], "pattern": UUID}, _ref("target")]},
        "description": "what to clone",
    }


def _map(properties: Schema, description: str) -> Schema:
    # A section whose lines are all comments reads as null.
    kind = ["object", "null"] if description == "under every target" else "object"
    return {"type": kind, "description": description, "properties": properties, "additionalProperties": False}


def _either(schema: Schema) -> Schema:
    return {"anyOf": [schema, _TEMPLATE]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _told(name: str, description: str) -> Schema:
    # Validators pass over what stands beside a $ref; editors show it.
    return {**_ref(name), "description": description}


def _without_noise(value: Any) -> Any:
    """Drop what pydantic adds and no editor shows: titles of fields and defaults that mean absence."""
    if isinstance(value, list):
        return [_without_noise(item) for item in value]
    if not isinstance(value, dict):
        return value
    drop = {"default"} if "anyOf" in value or "$ref" in value or value.get("default") is None else set()
    if isinstance(value.get("title"), str) and value.get("title") != "zclone job file":
        drop.add("title")
    return {name: _without_noise(inner) for name, inner in value.items() if name not in drop}
