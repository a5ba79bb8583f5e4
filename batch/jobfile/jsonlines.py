"""JSON Lines: a target a line, checked the first time and believed from then on."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from batch.jobfile.believed import believed
from batch.jobfile.check import check_params, check_uuid
from batch.jobfile.columns import PARAM_COLUMN, check_column, check_id
from batch.jobfile.job import Entry, Layer, Target
from batch.jobfile.layers import read_tags
from batch.jobfile.origins import RowOrigin
from batch.jobfile.problems import Complaint, Problems, fail, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from batch.model import JsonValue

MAX_LINE_BYTES: Final = 32 * 1024 * 1024
"""Above the longest ``yaml`` parameter the server stores (16 MiB), escaped."""

_EMPTY: Final = Layer()
_NO_COLUMNS: Final[dict[str, str]] = {}


class _BadJsonError(ValueError):
    """JSON that the json module reads and we do not."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _BadJsonError(f"duplicate key {shorten(twice)}")
    return found


def _refuse_constant(name: str) -> None:
    raise _BadJsonError(f"{name} is not JSON")


_decode = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant).decode


def read_jsonl(stream: IO[bytes], file: str, entry: Entry, uuid: str | None, problems: Problems) -> Iterator[Target]:
    """Stream the lines that have no problem; ``uuid`` is the source of those that name none. Raises JobFileError."""
    for number, line in enumerate(_lines(stream), 1):
        target = _checked(line, number, file, entry, uuid, problems)
        if target is not None:
            yield target


def read_believed(stream: IO[bytes], file: str, entry: Entry, uuid: str | None, problems: Problems) -> Iterator[Target]:
    """Do as ``read_jsonl`` for a file in which that found no problem before, in less time."""
    for number, line in enumerate(_lines(stream), 1):
        target = believed(line, entry, uuid) or _checked(line, number, file, entry, uuid, problems)
        if target is not None:
            yield target


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    return iter(partial(stream.readline, MAX_LINE_BYTES), b"")


def _checked(line: bytes, number: int, file: str, entry: Entry, uuid: str | None, problems: Problems) -> Target | None:
    text = _decoded(line, number, file)
    if not text:
        return None
    complaints: list[Complaint] = []
    origin = RowOrigin(file, number, text)
    target = _json_target(text, origin, entry, uuid, complaints)
    if complaints:
        problems.extend(map(origin.problem, complaints))
        return None
    return target


def _decoded(line: bytes, number: int, file: str) -> str:
    if len(line) == MAX_LINE_BYTES:
        raise fail(file, "a line longer than 32 MiB", at=(number, 1))
    try:
        text = line.decode().strip()
    except UnicodeDecodeError as error:
        raise fail(file, "is not UTF-8: save it as UTF-8", at=(number, error.start + 1)) from None
    if number == 1 and text.startswith("\ufeff"):
        raise fail(file, "starts with a byte order mark: save it as UTF-8 without BOM")
    return text


def _json_target(
    text: str, origin: RowOrigin, entry: Entry, uuid: str | None, complaints: list[Complaint]
) -> Target | None:
    row = _parsed(text, complaints)
    if row.__class__ is str:
        row = {"uuid": row}
    if row.__class__ is not dict:
        if not complaints:
            complaints.append(Complaint("", "a line must be a JSON object or a source uuid in quotes"))
        return None
    own_uuid = row.pop("uuid", uuid)
    check_uuid("uuid", own_uuid, complaints)
    identity = row.pop("id", None)
    if identity is not None:
        check_id(identity, complaints)
    layer = _json_layer(row, complaints) if row else _EMPTY
    columns = _columns(row, complaints) if row else _NO_COLUMNS
    return Target(entry, layer, own_uuid, identity, columns, origin)


def _parsed(text: str, complaints: list[Complaint]) -> Any:
    try:
        return _decode(text)
    except json.JSONDecodeError as error:
        complaints.append(Complaint("", f"not JSON: {error.msg}", column=error.colno))
    except _BadJsonError as error:
        complaints.append(Complaint("", str(error)))
    except RecursionError:
        complaints.append(Complaint("", "nested too deep"))
    except ValueError:
        complaints.append(Complaint("", "has a number with too many digits"))
    return None


def _json_layer(row: dict[str, Any], complaints: list[Complaint]) -> Layer:
    params = row.pop("params", None)
    if params is None:
        params = {}
    elif params.__class__ is not dict:
        complaints.append(Complaint("params", "must be an object of parameters"))
        params = {}
    for name in [name for name in row if name.startswith(PARAM_COLUMN)]:
        short = name.removeprefix(PARAM_COLUMN)
        if short in params:
            complaints.append(Complaint(name, f"{short} is set twice", at_key=True))
        params[short] = row.pop(name)
    templates = check_params(params, complaints) if params else ()
    if not row:
        return Layer(params, templates)
    system = read_tags("systemTags", row.pop("systemTags", None), complaints)
    user = read_tags("userTags", row.pop("userTags", None), complaints)
    return Layer(params, templates, system, user)


def _columns(row: dict[str, JsonValue], complaints: list[Complaint]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for name, value in row.items():
        check_column(name, complaints)
        if isinstance(value, bool):
            columns[name] = str(value).lower()
        elif isinstance(value, (str, int)):
            columns[name] = str(value)
        elif value is not None:
            complaints.append(Complaint(name, "must be one text or whole number, to be used as ${…}"))
    return columns
