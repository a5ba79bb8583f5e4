"""The JSON Schema of job files (draft-07), generated from the envelope's models and the parameter table.

It describes the file as editors parse it: a String parameter may look like a number, since the text counts.
"""

from __future__ import annotations

from typing import Any, Final

from batch.jobfile.check import MAX_INTEGER
from batch.jobfile.envelope import EnvelopeModel
from batch.jobfile.job import KEEPABLE
from batch.jobfile.tables import DELIMITERS, ENCODINGS, TABLE_KEYS
from batch.schema import TEXT, UUID, Schema, array, describe, document, record, refer
from batch.zstack.params import ARCHITECTURES, BODY_PARAMS, IMAGE_FIELDS, Param, ParamType

RESOURCE_UUID: Final = r"^[0-9a-f]{12}[1-5][0-9a-f]{3}[89ab][0-9a-f]{15}$"
_TEMPLATE: Final[Schema] = {"type": "string", "pattern": r"\$\{"}
_TEXT: Final[Schema] = {"type": ["string", "number", "boolean"]}
_NAME: Final = r"^(?=[^\x00-\x1f\x7f-\x9f]*$).*\S"
"""Has a visible character, and no control character."""
_UUIDS: Final = array(refer("uuid"))
_NULL: Final[Schema] = {"type": "null"}
_VENDORS_ALONE: Final[Schema] = {
    "required": ["vendors"],
    "not": {"anyOf": [{"required": [name]} for name in ("to", "images", "file")]},
}
_TARGET_KINDS: Final[Schema] = {
    "anyOf": [{"required": [name]} for name in ("uuid", "from", "query")],
    "dependencies": {
        "from": {"not": {"required": ["id"]}},
        "query": {"not": {"anyOf": [{"required": [name]} for name in ("uuid", "id", "from")]}},
        **{name: ["from"] for name in TABLE_KEYS},
    },
}
_TAGS: Final[Schema] = {"type": ["array", "null"], "items": refer("text")}
# Editors read a uuid of digits only as a number.
_UUID: Final[Schema] = {"anyOf": [UUID, {"type": "integer", "minimum": 10**31, "maximum": 10**32 - 1}]}


def job_schema() -> Schema:
    """Return the schema of a whole job file."""
    envelope = _without_pydantic_extras(EnvelopeModel.model_json_schema(ref_template="#/definitions/{model}"))
    sections = {"defaults": refer("defaults"), "rearchitect": _rearchitect()}
    fields = dict(envelope["properties"])
    required = {name: fields.pop(name) for name in envelope["required"]}
    optional = {name: _nullable(schema) for name, schema in fields.items()}
    schema = record({**required, "targets": _targets()}, {**optional, **sections}, is_closed=True)
    schema["definitions"] = {**dict(map(_section, envelope["$defs"].items())), **_definitions()}
    return document("zclone job file", schema)


def _section(model: tuple[str, Schema]) -> tuple[str, Schema]:
    """Return the definition of a section, whose keys count as absent where they have no value."""
    name, schema = model
    fields = {key: _nullable(field) for key, field in schema["properties"].items()}
    return name.removesuffix("Model").lower(), {**schema, "properties": fields}


def _nullable(schema: Schema) -> Schema:
    """Allow null, and keep the description and the default beside it."""
    shown: Schema = {name: schema.pop(name) for name in ("description", "default", "examples") if name in schema}
    options = [option for option in schema.get("anyOf", [schema]) if option != _NULL]
    return {"anyOf": [*options, _NULL], **shown}


def param_schema(param: Param) -> Schema:
    """Return the schema of one parameter; null and ``${…}`` are valid everywhere."""
    text = f"{param.description} ({param.type}, since {'.'.join(map(str, param.since))})"
    return describe({"anyOf": [_of_type(param), _NULL]}, text)


def _of_type(param: Param) -> Schema:
    if param.name == "resourceUuid":
        return _either({"type": "string", "pattern": RESOURCE_UUID})
    if param.choices:
        return _either({"enum": list(param.choices)})
    if param.type in MAX_INTEGER:
        return _either({"type": "integer", "minimum": 0, "maximum": MAX_INTEGER[param.type]})
    if param.type is ParamType.BOOLEAN:
        return _either({"type": "boolean"})
    if param.name == "name":
        return {**_TEXT, "maxLength": param.max_bytes, "pattern": _NAME}
    if param.type is ParamType.STRING:
        return _TEXT if param.max_bytes is None else {**_TEXT, "maxLength": param.max_bytes}
    return {
        ParamType.STRINGS: {**array(refer("architecture")), "uniqueItems": True} if param.max_bytes else _UUIDS,
        ParamType.IMAGES: array(refer("architectureImage")),
        ParamType.UUIDS_BY_NAME: {
            "type": "object",
            "additionalProperties": array(refer("uuid")),
        },
    }[param.type]


def _definitions() -> Schema:
    params = {name: param_schema(param) for name, param in BODY_PARAMS.items()}
    layer = {
        "params": _describe("params", "parameters of CloneModelService; null removes the value of the layers below"),
        "systemTags": describe(_TAGS, "system tags, merged with those of defaults"),
        "userTags": describe(_TAGS, "user tags, merged with those of defaults"),
        "keep": describe(
            {"anyOf": [array({"enum": list(KEEPABLE)}), {"enum": list(KEEPABLE)}]},
            "copy these from the source where nothing sets them; the server resets them otherwise",
        ),
    }
    # A section whose lines are all comments is parsed as null.
    defaults = {**record({}, layer, is_closed=True), "type": ["object", "null"]}
    return {
        "uuid": {"anyOf": [*_UUID["anyOf"], _TEMPLATE]},
        "text": {**_TEXT, "minLength": 1},
        "architecture": _either({"type": "string", "pattern": "^[A-Z0-9_]{1,32}$", "examples": list(ARCHITECTURES)}),
        "architectureImage": _image(),
        "params": {**record({}, params, is_closed=True), "type": ["object", "null"]},
        "defaults": describe(defaults, "under every target"),
        "matrix": _matrix(),
        "target": describe(
            {**record({}, {**_target_keys(), **layer}, is_closed=True), **_TARGET_KINDS},
            "a source and its overrides, or a file of them",
        ),
    }


def _target_keys() -> Schema:
    shares = {"anyOf": [array(refer("uuid")), refer("uuid"), _NULL]}
    condition = {**TEXT, "pattern": "=|>|<|is null|not null"}
    conditions = {"anyOf": [array(condition, min_items=1), condition]}
    return {
        "uuid": _describe("uuid", "the source model service"),
        "id": _describe("text", "the target's key; default: the uuid, and the values of its matrix"),
        "from": describe(
            {**TEXT, "pattern": r"\.([jJ][sS][oO][nN][lL]|[nN][dD][jJ][sS][oO][nN]|[cC][sS][vV]|[xX][lL][sS][xX])$"},
            "file of targets, streamed",
        ),
        **_table_keys(),
        "matrix": refer("matrix"),
        "owner": describe({"anyOf": [refer("uuid"), _NULL]}, "account that the clone is given to once it is made"),
        "share_with": describe(shares, "accounts that the clone is shared with once it is made"),
        "query": describe(conditions, "conditions of QueryModelService, such as name~=qwen%; each match is a target"),
    }


def _table_keys() -> Schema:
    return {
        "delimiter": describe({"enum": list(DELIMITERS)}, "what separates the cells of the CSV file; default: a comma"),
        "encoding": describe({"enum": list(ENCODINGS)}, "of the CSV file; default utf-8"),
        "sheet": describe({**TEXT, "minLength": 1}, "of the Excel file; needed where it has several"),
    }


def _rearchitect() -> Schema:
    prefix = {**TEXT, "minLength": 1}
    rule = record(
        {
            "from": describe(prefix, "start of source images; the longest match wins"),
            "to": describe(prefix, "its replacement in the clone's image"),
        },
        {
            "vmImageUuid": _describe("uuid", "VM image of the clone's architecture"),
            "cpuArchitecture": _describe("architecture", "which of the architectures in `to` the rule is for"),
        },
        is_closed=True,
    )
    vendor = record(
        {
            "from": describe(prefix, "start of the source's GPU vendor, in any case; the longest match wins"),
            "to": describe(prefix, "GPU vendor of the clone"),
            "specUuids": describe(array(refer("uuid"), min_items=1), "its GPU specs"),
        },
        is_closed=True,
    )
    rules = "rules from the vendorToSpecUuidsMap of the source to the clone's"
    keys = {
        "to": describe(array(refer("architecture"), min_items=1), "of the clones"),
        "vendors": describe(array(describe(vendor, "one rule"), min_items=1), rules),
        "images": describe(array(describe(rule, "one rule")), "rules from the source's images to the clone's"),
        "file": describe(TEXT, "CSV file of rules: from, to, vmImageUuid, cpuArchitecture"),
        **_table_keys(),
    }
    text = "derive cpuArchitectures, architectureImages and vendorToSpecUuidsMap from what the source has"
    some = [{"required": ["to", "images"]}, {"required": ["to", "file"]}, _VENDORS_ALONE]
    return describe({**record({}, keys, is_closed=True), "type": ["object", "null"], "anyOf": some}, text)


def _image() -> Schema:
    name = {**TEXT, "minLength": 1, "maxLength": IMAGE_FIELDS["dockerImage"], "pattern": r"^(?!.*://)\S*$"}
    fields = {"vmImageUuid": _describe("uuid", "VM image"), "dockerImage": describe(name, "container image")}
    architecture = {"cpuArchitecture": _describe("architecture", "such as X86_64 or AARCH64")}
    return describe(record(architecture, fields, is_closed=True), "image of one CPU architecture")


def _matrix() -> Schema:
    rows = array({"type": "object", "minProperties": 1, "additionalProperties": _TEXT}, min_items=1)
    keys = {
        "include": describe(rows, "adds values to the combinations that it matches, or a combination"),
        "exclude": describe(rows, "removes the combinations that match"),
    }
    axis = {**array(_TEXT, min_items=1), "uniqueItems": True}
    schema = {**record({}, keys), "minProperties": 1, "additionalProperties": axis}
    return describe(schema, "cross product of lists, as in CI files")


def _targets() -> Schema:
    return describe(array({"anyOf": [_UUID, refer("target")]}, min_items=1), "what to clone")


def _either(schema: Schema) -> Schema:
    return {"anyOf": [schema, _TEMPLATE]}


def _describe(name: str, description: str) -> Schema:
    # Validators ignore keys beside a $ref; editors show them.
    return describe(refer(name), description)


def _without_pydantic_extras(value: Any) -> Any:
    """Remove what pydantic adds and no editor shows: titles of fields and defaults that mean absence."""
    if isinstance(value, list):
        return [_without_pydantic_extras(item) for item in value]
    if not isinstance(value, dict):
        return value
    drop = set() if isinstance(value.get("default"), bool | int | str) else {"default"}
    if isinstance(value.get("title"), str):
        drop.add("title")
    if "$ref" in value:
        # Sections are named as in the job file, not as our classes.
        return {**value, "$ref": value["$ref"].removesuffix("Model").lower()}
    return {name: _without_pydantic_extras(inner) for name, inner in value.items() if name not in drop}
