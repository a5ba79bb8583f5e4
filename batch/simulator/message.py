"""From a JSON body to an API message, by Gson's and the parameter validator's rules (wire: section 3)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from batch.simulator.codes import RestError, Speech
from batch.zstack.params import BODY_PARAMS, IMAGE_FIELDS, Param, ParamType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batch.simulator.options import NodeOptions
    from batch.simulator.wire import Json, Request

_INTEGER_LIMIT: Final = {ParamType.INTEGER: 2**31, ParamType.LONG: 2**63}
_BYTE_COLUMNS: Final = 65535
"""Columns from this length on are TEXT, counted in bytes; shorter ones VARCHAR, counted in characters."""


def read_body(request: Request, *, latin1: bool) -> Json | None:
    """Decode and parse; None for an empty body. Raises RestError 500 with the parser's words."""
    if not request.body.strip():
        return None
    text = request.body.decode(_charset(request.headers.get("content-type", ""), latin1=latin1), "replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RestError(500, f"com.google.gson.JsonSyntaxException: {error}") from None
    if body is not None and not isinstance(body, dict):
        raise RestError(500, f"Expected BEGIN_OBJECT but was {_gson_name(body)} at line 1 column 2 path $")
    return body


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


def clone_fields(params: Json, options: NodeOptions) -> Json:
    """Make the message's fields: unknown and newer keys vanish. Raises RestError 400 for types, 500 for structure."""
    known = [row for row in BODY_PARAMS.values() if row.since <= options.release and params.get(row.name) is not None]
    for row in known:
        _verify_type(row, params[row.name])
    return {row.name: _READERS[row.type](params[row.name], row.name) for row in known}


def _verify_type(row: Param, value: Any) -> None:
    if row.type in _INTEGER_LIMIT and not _is_integral(value):
        raise RestError(400, f"[{row.name}] field is excepted an int or long, but was [{_shown(value)}].")
    if row.type is ParamType.BOOLEAN and not isinstance(value, bool):
        raise RestError(400, f"[{row.name}] field is excepted a boolean, but was [{_shown(value)}].")
    limit = _INTEGER_LIMIT.get(row.type)
    if limit is not None and not -limit <= value < limit:
        raise RestError(500, f'For input string: "{_shown(value)}"')


def _is_integral(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _gson_name(value: Any) -> str:
    if isinstance(value, bool):
        return "BOOLEAN"
    if isinstance(value, int | float):
        return "NUMBER"
    return {list: "BEGIN_ARRAY", dict: "BEGIN_OBJECT", type(None): "NULL"}.get(type(value), "STRING")


def _expected(what: str, value: Any, name: str) -> RestError:
    return RestError(500, f"Expected {what} but was {_gson_name(value)} at path $.{name}")


def _string(value: Any, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        raise _expected("a string", value, name)
    return _shown(value)


def _strings(value: Any, name: str) -> list[str | None]:
    if not isinstance(value, list):
        raise _expected("BEGIN_ARRAY", value, name)
    return [_string(item, name) for item in value]


def _images(value: Any, name: str) -> list[Json | None]:
    if not isinstance(value, list):
        raise _expected("BEGIN_ARRAY", value, name)
    return [_image(item, name) for item in value]


def _image(value: Any, name: str) -> Json | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _expected("BEGIN_OBJECT", value, name)
    return {key: _string(value[key], f"{name}.{key}") for key in IMAGE_FIELDS if value.get(key) is not None}


def _uuids_by_name(value: Any, name: str) -> Json:
    if not isinstance(value, dict):
        raise _expected("BEGIN_OBJECT", value, name)
    return {key: _strings(item, f"{name}.{key}") for key, item in value.items()}


def _whole(value: Any, _: str) -> int:
    return int(value)


def _as_is(value: Any, _: str) -> Any:
    return value


_READERS: Final[Mapping[ParamType, Callable[[Any, str], Any]]] = {
    ParamType.STRING: _string,
    ParamType.INTEGER: _whole,
    ParamType.LONG: _whole,
    ParamType.BOOLEAN: _as_is,
    ParamType.STRINGS: _strings,
    ParamType.IMAGES: _images,
    ParamType.UUIDS_BY_NAME: _uuids_by_name,
}


def check_fields(fields: Json, speech: Speech) -> None:
    """Run the parameter validator. Raises ApiFailureError SYS.1007 for null elements and exact-case choices."""
    for name, value in fields.items():
        if isinstance(value, list) and None in value:
            raise speech.fail("SYS.1007", "null", name)
        choices = BODY_PARAMS[name].choices
        if choices and value.strip() not in choices:
            raise speech.fail("SYS.1007", "choices", name, ", ".join(choices), value.strip())


def trimmed(fields: Json) -> Json:
    """Trim strings and those in lists, as the server does after validation."""
    return {name: _trim(value) for name, value in fields.items()}


def _trim(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return [_trim(item) for item in value]
    return value


def fit_columns(fields: Json, options: NodeOptions, speech: Speech) -> Json:
    """Fit the values into the database's columns. Raises ApiFailureError SYS.1000 where one does not fit."""
    return {name: _fit(name, value, options, speech) for name, value in fields.items()}


def _fit(name: str, value: Any, options: NodeOptions, speech: Speech) -> Any:
    if isinstance(value, list) and name == "architectureImages":
        return [
            {key: _fit_text(key, IMAGE_FIELDS[key], text, options, speech) for key, text in row.items()}
            for row in value
        ]
    limit = BODY_PARAMS[name].max_bytes
    if isinstance(value, str):
        return _fit_text(name, limit, value, options, speech)
    if isinstance(value, list) and limit is not None and len(",".join(value)) > limit:
        raise speech.fail("SYS.1000", "column", name)
    return value


def _fit_text(name: str, limit: int | None, text: str, options: NodeOptions, speech: Speech) -> str:
    if options.three_byte_utf8 and not text.isascii() and max(text) > "\uffff":
        raise speech.fail("SYS.1000", "charset", name)
    if limit is None or _length(text, limit) <= limit:
        return text
    if options.column_overflow == "error":
        raise speech.fail("SYS.1000", "column", name)
    if limit < _BYTE_COLUMNS:
        return text[:limit]
    return text.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


def _length(text: str, limit: int) -> int:
    return len(text) if limit < _BYTE_COLUMNS else len(text.encode("utf-8", "replace"))
