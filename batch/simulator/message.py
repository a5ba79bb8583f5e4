"""From a JSON body to an API message, by Gson's and the parameter validator's rules (zstack/README.md 5)."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, Final

from batch.simulator.api_errors import ErrorFactory, RestError
from batch.simulator.wire import MalformedJsonError, parse_json
from batch.zstack.params import BODY_PARAMS, IMAGE_FIELDS, Param, ParamType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batch.simulator.options import NodeOptions
    from batch.simulator.wire import Json, Request


_INTEGER_LIMIT: Final = {ParamType.INTEGER: 2**31, ParamType.LONG: 2**63}
_DOUBLE: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[dDfF]?", re.ASCII)
_BYTE_COLUMNS: Final = 65535
"""Columns of at least this length are TEXT, counted in bytes; shorter ones are VARCHAR, counted in characters."""


def read_body(request: Request, *, latin1: bool) -> Json | None:
    """Decode and parse a body; None if empty. Raises RestError 500 with the parser's message."""
    if not request.body.strip():
        return None
    try:
        body = parse_json(decode_body(request, latin1=latin1))
    except (MalformedJsonError, RecursionError) as error:
        raise RestError(500, f"com.google.gson.JsonSyntaxException: {error}") from None
    if body is not None and not isinstance(body, dict):
        raise RestError(500, f"Expected BEGIN_OBJECT but was {_gson_name(body)} at line 1 column 2 path $")
    return body


def decode_body(request: Request, *, latin1: bool) -> str:
    """Decode a body; ``latin1``: one whose Content-Type names no charset is ISO-8859-1."""
    return request.body.decode(_charset(request.headers.get("content-type", ""), latin1=latin1), "replace")


def _charset(content_type: str, *, latin1: bool) -> str:
    for part in content_type.split(";")[1:]:
        name, _, value = part.strip().partition("=")
        if name.lower() == "charset":
            return "utf-8" if value.strip('"').lower().replace("-", "") == "utf8" else "latin-1"
    return "latin-1" if latin1 else "utf-8"


def member(body: Json | None, name: str) -> Json:
    """Take the object ``name`` out of the body; missing or null is an empty message. Raises RestError 500."""
    value = (body or {}).get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RestError(500, f"java.lang.ClassCastException: {_gson_name(value)} cannot be cast to java.util.Map")
    return value


def tag_list(body: Json | None, fields: Json, name: str) -> tuple[str, ...]:
    """Read systemTags or userTags: beside ``params`` or inside, the former wins. Raises RestError 500."""
    value = (body or {}).get(name)
    value = fields.get(name) if value is None else value
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RestError(500, f"java.lang.ClassCastException: {_gson_name(value)} cannot be cast to java.util.List")
    return tuple(_string(item, name) or "" for item in value)


def typed_fields(params: Json, table: Mapping[str, Param], options: NodeOptions) -> Json:
    """Make a message's fields: unknown and newer keys vanish. Raises RestError 400 for types, 500 for structure."""
    known = [row for row in table.values() if row.since <= options.release and params.get(row.name) is not None]
    for row in known:
        _verify_type(row, params[row.name])
    return {row.name: _READERS[row.type](params[row.name], row.name) for row in known}


def _verify_type(row: Param, value: Any) -> None:
    """Validate the value's text as the server does: "4" is an integer and "true" a boolean."""
    limit = _INTEGER_LIMIT.get(row.type)
    if limit is None and row.type is not ParamType.BOOLEAN:
        return
    text = _literal(value)
    if limit is None:
        if text.lower() in {"true", "false"}:
            return
        valid = f"[{text}] is not a valid boolean string[true, false]."
        raise RestError(400, f"Invalid value for boolean field [{row.name}], {valid}")
    number = _number(text)
    if number is None:
        raise RestError(400, f"[{row.name}] field is excepted an int or long, but was [{text}].")
    if not -limit <= number < limit:
        raise RestError(500, f'For input string: "{text}"')


def _number(text: str) -> float | None:
    """Read a whole number as Double.parseDouble and Math.floor do; None for anything else."""
    if not _DOUBLE.fullmatch(text.strip()):
        return None
    if text.strip().lstrip("+-").isdigit():
        return int(text)
    number = float(text.strip().rstrip("dDfF"))
    return number if math.isinf(number) or number.is_integer() else None


def _literal(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _gson_name(value: Any) -> str:
    if isinstance(value, bool):
        return "BOOLEAN"
    if isinstance(value, int | float):
        return "NUMBER"
    return {list: "BEGIN_ARRAY", dict: "BEGIN_OBJECT", type(None): "NULL"}.get(type(value), "STRING")


def _structure_error(what: str, value: Any, name: str) -> RestError:
    return RestError(500, f"Expected {what} but was {_gson_name(value)} at path $.{name}")


def _string(value: Any, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        raise _structure_error("a string", value, name)
    return _literal(value)


def _strings(value: Any, name: str) -> list[str | None]:
    if not isinstance(value, list):
        raise _structure_error("BEGIN_ARRAY", value, name)
    return [_string(item, name) for item in value]


def _images(value: Any, name: str) -> list[Json | None]:
    if not isinstance(value, list):
        raise _structure_error("BEGIN_ARRAY", value, name)
    return [_image(item, name) for item in value]


def _image(value: Any, name: str) -> Json | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _structure_error("BEGIN_OBJECT", value, name)
    return {key: _string(value[key], f"{name}.{key}") for key in IMAGE_FIELDS if value.get(key) is not None}


def _uuids_by_name(value: Any, name: str) -> Json:
    if not isinstance(value, dict):
        raise _structure_error("BEGIN_OBJECT", value, name)
    return {key: _strings(item, f"{name}.{key}") for key, item in value.items()}


def _whole(value: Any, _: str) -> int:
    return int(_number(_literal(value)) or 0)


def _flag(value: Any, _: str) -> bool:
    return _literal(value).lower() == "true"


_READERS: Final[Mapping[ParamType, Callable[[Any, str], Any]]] = {
    ParamType.STRING: _string,
    ParamType.INTEGER: _whole,
    ParamType.LONG: _whole,
    ParamType.BOOLEAN: _flag,
    ParamType.STRINGS: _strings,
    ParamType.IMAGES: _images,
    ParamType.UUIDS_BY_NAME: _uuids_by_name,
}


def check_values(fields: Json, errors: ErrorFactory) -> None:
    """Run the parameter validator. Raises ApiFailureError SYS.1007 for null elements and exact-case choices."""
    for name, value in fields.items():
        if isinstance(value, list) and None in value:
            raise errors.failure("SYS.1007", "null", name)
        choices = ALL_PARAMS[name].choices
        if choices and value.strip() not in choices:
            raise errors.failure("SYS.1007", "choices", name, ", ".join(choices), value.strip())


def trim_strings(fields: Json) -> Json:
    """Trim strings and those in lists, as the server does after validation."""
    return {name: _trim(value) for name, value in fields.items()}


def _trim(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return [_trim(item) for item in value]
    return value


def fit_columns(fields: Json, options: NodeOptions, errors: ErrorFactory) -> Json:
    """Fit the values into the database's columns. Raises ApiFailureError SYS.1000 where one does not fit."""
    return {name: _fit(name, value, options, errors) for name, value in fields.items()}


def _fit(name: str, value: Any, options: NodeOptions, errors: ErrorFactory) -> Any:
    if isinstance(value, list) and name == "architectureImages":
        return [
            {key: _fit_text(key, IMAGE_FIELDS[key], text, options, errors) for key, text in row.items()}
            for row in value
        ]
    limit = ALL_PARAMS[name].max_bytes
    if isinstance(value, str):
        return _fit_text(name, limit, value, options, errors)
    if isinstance(value, list) and limit is not None and len(",".join(value)) > limit:
        raise errors.failure("SYS.1000", "column", name)
    return value


def _fit_text(name: str, limit: int | None, text: str, options: NodeOptions, errors: ErrorFactory) -> str:
    if options.three_byte_utf8 and not text.isascii() and max(text) > "\uffff":
        raise errors.failure("SYS.1000", "charset", name)
    if limit is None or _length(text, limit) <= limit:
        return text
    if options.column_overflow == "error":
        raise errors.failure("SYS.1000", "column", name)
    if limit < _BYTE_COLUMNS:
        return text[:limit]
    return text.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


def _length(text: str, limit: int) -> int:
    return len(text) if limit < _BYTE_COLUMNS else len(text.encode("utf-8", "replace"))


_SINCE: Final = (5, 2, 1)


def _text(name: str, limit: int | None = None) -> Param:
    return Param(name, ParamType.STRING, _SINCE, "", max_bytes=limit)


_ADD_ONLY: Final = {
    row.name: row
    for row in (_text("modelCenterUuid", 32), _text("zoneUuid", 32), Param("modelUuids", ParamType.STRINGS, _SINCE, ""))
}
_NOT_IN_ADD: Final = frozenset({"readme", "size", "cpuArchitectures"})
_NOT_IN_UPDATE: Final = frozenset(
    {"readme", "size", "installPath", "condaVersion", "system", "cpuArchitectures", "resourceUuid", "tagUuids"}
)

ADD_PARAMS: Final = {name: row for name, row in BODY_PARAMS.items() if name not in _NOT_IN_ADD} | _ADD_ONLY
ADD_REQUIRED: Final = ("name", "yaml", "modelCenterUuid", "requestCpu", "requestMemory", "installPath", "startCommand")
UPDATE_PARAMS: Final = {name: row for name, row in BODY_PARAMS.items() if name not in _NOT_IN_UPDATE}
UNTYPED_UPDATES: Final = (
    "environmentParameters",
    "startupParameters",
    "inferenceParams",
    "servicePorts",
    "serviceName",
    "serviceLivez",
    "serviceReadyz",
    "serviceBootupTime",
    "serviceInstallPath",
    "serviceStartCommand",
)
"""Fields of UpdateModelService that no inventory shows."""
ALL_PARAMS: Final = BODY_PARAMS | _ADD_ONLY
