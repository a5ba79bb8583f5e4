"""Checks of parameter values, driven by the table of the API page.

``check_params`` runs for every target, so valid values cost a look-up and a comparison or two. Values containing
``${…}`` are only listed: the plan checks them with ``check_value`` once they are rendered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from batch.jobfile.problems import MAX_KEPT, Complaint, complain_of_unknown, quote, unknown
from batch.jobfile.values import BOOLEANS
from batch.zstack.params import ARCHITECTURES, BODY_PARAMS, IMAGE_FIELDS, PARAMS, Param, ParamType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batch.model import JsonValue

MAX_INTEGER: Final = {ParamType.INTEGER: 2**31 - 1, ParamType.LONG: 2**63 - 1}
MULTI_LINE: Final = frozenset({"description", "readme", "yaml", "startCommand", "containerCommand", "containerArgs"})
"""Parameters whose text may have line breaks and tabs."""

_COUNTED_IN_BYTES: Final = 65535
"""Columns of this length and above are TEXT, measured in bytes of UTF-8; shorter ones VARCHAR, in characters."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CONTROL_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,30}))(?:\.0+)?")
_BLANK = re.compile("[^\\S\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ARCHITECTURE = re.compile(r"[A-Z0-9_]{1,32}")
_ALIASES: Final = {name: name for name in ARCHITECTURES} | {"ARM64": "AARCH64", "AMD64": "X86_64", "X86-64": "X86_64"}
_RESOURCE_UUID = re.compile(r"[0-9a-f]{12}[1-5][0-9a-f]{3}[89ab][0-9a-f]{15}")


def check_params(params: Mapping[str, JsonValue], complaints: list[Complaint]) -> tuple[str, ...]:
    """Check every parameter; return the names of those that contain ``$`` and must be rendered first.

    ``None`` means "remove the default" and is always valid.
    """
    templates: list[str] = []
    for name, value in params.items():
        check = _CHECKS.get(name)
        if check is None:
            complaints.append(_unknown_param(name, with_hint=len(complaints) < MAX_KEPT))
        elif value is None:
            continue
        elif has_template(value):
            templates.append(name)
        else:
            check(PARAMS[name], value, complaints)
    return tuple(templates)


def check_value(name: str, value: JsonValue, complaints: list[Complaint]) -> None:
    """Check one rendered value of a known parameter."""
    _CHECKS[name](PARAMS[name], value, complaints)


def has_template(value: JsonValue) -> bool:
    """Return whether a dollar occurs in any text of ``value``."""
    kind = value.__class__
    if kind is str:
        return "$" in value  # type: ignore[operator]  # the class is known to be str
    if isinstance(value, list):
        return any(map(has_template, value))
    return isinstance(value, dict) and any(map(has_template, value.values()))


def convert(name: str, text: str) -> JsonValue:
    """Convert an unquoted text to parameter ``name``'s type; a text that does not fit is kept for the check."""
    kind = PARAMS[name].type
    if kind in MAX_INTEGER and (whole := _WHOLE.fullmatch(text)):
        return int(whole[1])
    return BOOLEANS.get(text, text) if kind is ParamType.BOOLEAN else text


def check_uuid(path: str, value: JsonValue, complaints: list[Complaint]) -> None:
    """Check an existing resource's uuid: 32 letters or digits, as built-in services have letters beyond hex."""
    if value.__class__ is not str or len(value) != 32 or not (value.isalnum() and value.isascii()):
        complaints.append(
            Complaint(path, f"must be a uuid of 32 letters and digits without dashes, not {quote(value)}")
        )


def check_tags(path: str, tags: JsonValue, complaints: list[Complaint]) -> None:
    """Check systemTags or userTags."""
    if not isinstance(tags, list):
        complaints.append(Complaint(path, f"must be a list of texts, not {_kind(tags)}"))
        return
    for index, tag in enumerate(tags):
        _check_text(f"{path}[{index}]", tag, complaints)
        if tag == "ephemeral::validationOnly":
            message = "would make the server check and clone nothing: use `zclone plan --server-check`"
            complaints.append(Complaint(f"{path}[{index}]", message))


def _unknown_param(name: str, *, with_hint: bool) -> Complaint:
    if name == "uuid":
        message = "the source's uuid belongs beside params, not inside"
    elif name in PARAMS:
        message = f"{name} belongs beside params, not inside"
    else:
        message = unknown(name, BODY_PARAMS, what="parameter") if with_hint else "unknown parameter"
    return Complaint(f"params.{name}", message, at_key=True)


def _string(param: Param, value: JsonValue, complaints: list[Complaint]) -> None:
    if not isinstance(value, str):
        hint = _quoted_hint(value)
        if param.name in MULTI_LINE and isinstance(value, dict | list):
            hint = f": write `{param.name}: |` and the text, indented, on the lines below"
        complaints.append(Complaint(f"params.{param.name}", f"must be text, not {_kind(value)}{hint}"))
        return
    if param.choices and value not in param.choices:
        complaints.append(Complaint(f"params.{param.name}", _not_a_choice(value, param.choices)))
    if not value.isprintable():
        _check_control(f"params.{param.name}", value, complaints, lines=param.name in MULTI_LINE)
    if param.max_bytes is not None and len(value) * 4 > param.max_bytes:
        _check_length(f"params.{param.name}", value, param.max_bytes, complaints)


def _name(param: Param, value: JsonValue, complaints: list[Complaint]) -> None:
    _string(param, value, complaints)
    if isinstance(value, str) and not value.strip():
        complaints.append(Complaint("params.name", "must not be empty"))


def _resource_uuid(param: Param, value: JsonValue, complaints: list[Complaint]) -> None:
    if not isinstance(value, str) or not _RESOURCE_UUID.fullmatch(value):
        message = "must be a lower-case uuid of version 1 to 5 without dashes, or the server refuses it"
        complaints.append(Complaint(f"params.{param.name}", f"{message}; not {quote(value)}"))


def _integer(param: Param, value: JsonValue, complaints: list[Complaint]) -> None:
    path = f"params.{param.name}"
    if value.__class__ is not int:
        complaints.append(Complaint(path, f"must be a whole number, not {_kind(value)}{_number_hint(value)}"))
    elif not 0 <= value <= MAX_INTEGER[param.type]:
        complaints.append(Complaint(path, f"must be 0 to {MAX_INTEGER[param.type]} ({param.type}), not {quote(value)}"))


def _boolean(param: Param, value: JsonValue, complaints: list[Complaint]) -> None:
    if value is not True and value is not False:
        complaints.append(
            Complaint(f"params.{param.name}", f"must be true or false without quotes, not {quote(value)}")
        )


def _tag_uuids(param: Param, value: JsonValue, complaints: list[Complaint]) -> None:
    path = f"params.{param.name}"
    for index, item in enumerate(_items(path, value, complaints)):
        check_uuid(f"{path}[{index}]", item, complaints)


def _architectures(param: Param, value: JsonValue, complaints: list[Complaint]) -> None:
    path = f"params.{param.name}"
    items = _items(path, value, complaints)
    for index, item in enumerate(items):
        _check_architecture(f"{path}[{index}]", item, complaints)
    _refuse_duplicates({f"{path}[{index}]": item for index, item in enumerate(items)}, complaints)


def _images(param: Param, value: JsonValue, complaints: list[Complaint]) -> None:
    path, architectures = f"params.{param.name}", {}
    for index, row in enumerate(_items(path, value, complaints)):
        if isinstance(row, dict):
            _check_image(f"{path}[{index}]", row, complaints)
            architectures[f"{path}[{index}].cpuArchitecture"] = row.get("cpuArchitecture")
        else:
            message = f"must be a map of {', '.join(IMAGE_FIELDS)}, not {_kind(row)}"
            complaints.append(Complaint(f"{path}[{index}]", message))
    _refuse_duplicates(architectures, complaints, why=": there is one image of each architecture")


def _refuse_duplicates(values: Mapping[str, JsonValue], complaints: list[Complaint], *, why: str = "") -> None:
    """Complain of each text that occurs a second time; ``values``: by path."""
    seen: set[str] = set()
    for path, item in values.items():
        if isinstance(item, str):
            if item in seen:
                complaints.append(Complaint(path, f"{quote(item)} is listed twice{why}"))
            seen.add(item)


def _check_image(path: str, row: dict[str, JsonValue], complaints: list[Complaint]) -> None:
    complain_of_unknown(row, IMAGE_FIELDS, complaints, path=f"{path}.")
    _check_architecture(f"{path}.cpuArchitecture", row.get("cpuArchitecture"), complaints)
    if "vmImageUuid" in row:
        check_uuid(f"{path}.vmImageUuid", row["vmImageUuid"], complaints)
    if "dockerImage" in row:
        _check_text(f"{path}.dockerImage", row["dockerImage"], complaints, limit=IMAGE_FIELDS["dockerImage"])
        _check_image_name(f"{path}.dockerImage", row["dockerImage"], complaints)
    if "vmImageUuid" not in row and "dockerImage" not in row:
        complaints.append(Complaint(path, "needs vmImageUuid, dockerImage or both"))


def _check_image_name(path: str, name: JsonValue, complaints: list[Complaint]) -> None:
    if not isinstance(name, str):
        return
    blank = _BLANK.search(name)
    if blank:
        complaints.append(Complaint(path, f"has a blank at position {blank.start()}: an image's name has none"))
    if "://" in name:
        complaints.append(Complaint(path, f"must have no scheme: write {quote(name.partition('://')[2])}"))


def _uuids_by_name(param: Param, value: JsonValue, complaints: list[Complaint]) -> None:
    path = f"params.{param.name}"
    if not isinstance(value, dict):
        complaints.append(Complaint(path, f"must be a map of lists of uuids, not {_kind(value)}"))
        return
    for name, uuids in value.items():
        _check_text(f"{path}.{name}", name, complaints)
        for index, uuid in enumerate(_items(f"{path}.{name}", uuids, complaints)):
            check_uuid(f"{path}.{name}[{index}]", uuid, complaints)


def _items(path: str, value: JsonValue, complaints: list[Complaint]) -> list[JsonValue]:
    if isinstance(value, list):
        return value
    complaints.append(Complaint(path, f"must be a list, not {_kind(value)}"))
    return []


def _check_text(path: str, value: JsonValue, complaints: list[Complaint], *, limit: int | None = None) -> None:
    if not isinstance(value, str):
        complaints.append(Complaint(path, f"must be text, not {_kind(value)}"))
    elif not value:
        complaints.append(Complaint(path, "must not be empty"))
    else:
        _check_control(path, value, complaints, lines=False)
        if limit is not None:
            _check_length(path, value, limit, complaints)


def _check_architecture(path: str, value: JsonValue, complaints: list[Complaint]) -> None:
    if not isinstance(value, str):
        complaints.append(Complaint(path, f"must be one such as {' or '.join(ARCHITECTURES)}, not {_kind(value)}"))
    elif value not in ARCHITECTURES and (value.upper() in _ALIASES or not _ARCHITECTURE.fullmatch(value)):
        complaints.append(Complaint(path, _not_a_choice(value, ARCHITECTURES, _ALIASES.get(value.upper()))))


def _check_control(path: str, text: str, complaints: list[Complaint], *, lines: bool) -> None:
    match = (_CONTROL_IN_LINES if lines else _CONTROL).search(text)
    if match:
        complaints.append(Complaint(path, f"has the control character {match.group()!a} at position {match.start()}"))


def _check_length(path: str, text: str, limit: int, complaints: list[Complaint]) -> None:
    in_bytes = limit >= _COUNTED_IN_BYTES
    length = len(text.encode(errors="replace")) if in_bytes else len(text)
    if length > limit:
        unit = "bytes" if in_bytes else "characters"
        complaints.append(Complaint(path, f"is {length} {unit} long, the server's column holds {limit}"))


def _not_a_choice(value: str, choices: tuple[str, ...], suggestion: str | None = None) -> str:
    near = suggestion or next((choice for choice in choices if choice.casefold() == value.casefold()), None)
    hint = f"; did you mean {near}? The case matters" if near else ""
    return f"must be one of {', '.join(choices)}, not {quote(value)}{hint}"


def _kind(value: JsonValue) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list):
        return "a list"
    return f"the text {quote(value)}" if isinstance(value, str) else f"the value {str(value).lower()[:40]}"


def _quoted_hint(value: JsonValue) -> str:
    return ": put it in quotes" if isinstance(value, (int, float)) else ""


def _number_hint(value: JsonValue) -> str:
    return ": remove the quotes" if isinstance(value, str) and _WHOLE.fullmatch(value) else ""


_BY_TYPE: Final[dict[ParamType, Callable[[Param, JsonValue, list[Complaint]], None]]] = {
    ParamType.STRING: _string,
    ParamType.INTEGER: _integer,
    ParamType.LONG: _integer,
    ParamType.BOOLEAN: _boolean,
    ParamType.STRINGS: _architectures,
    ParamType.IMAGES: _images,
    ParamType.UUIDS_BY_NAME: _uuids_by_name,
}
_BY_NAME: Final = {"name": _name, "resourceUuid": _resource_uuid, "tagUuids": _tag_uuids}
_CHECKS: Final = {name: _BY_NAME.get(name, _BY_TYPE[param.type]) for name, param in BODY_PARAMS.items()}
