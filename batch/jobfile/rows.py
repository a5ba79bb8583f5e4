"""``from:`` files: targets as JSON Lines or CSV, streamed a line at a time."""

from __future__ import annotations

import codecs
import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from batch.jobfile.check import check_params, check_uuid, typed
from batch.jobfile.handover import HAND_OVER_KEYS
from batch.jobfile.inputs import open_input
from batch.jobfile.job import Entry, Layer, NodeOrigin, RowOrigin, Target
from batch.jobfile.layers import read_tags
from batch.jobfile.matrix import NAME
from batch.jobfile.problems import Complaint, Problems, fail, shorten, unknown
from batch.zstack.params import BODY_PARAMS, PARAMS, ParamType

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from batch.model import JsonValue, Problem

MAX_LINE_BYTES: Final = 32 * 1024 * 1024
"""Above the longest ``yaml`` parameter the server stores (16 MiB), escaped."""
OWN_COLUMNS: Final = ("uuid", "id", "params", "systemTags", "userTags")

_PARAM_COLUMN: Final = "params."
_EMPTY: Final = Layer()
_NO_COLUMNS: Final[dict[str, str]] = {}


def read_rows(path: Path, entry: Entry, uuid: str | None, problems: Problems) -> Iterator[Target]:
    """Stream the rows of ``path`` that have no problem; ``uuid`` is the source of rows that name none."""
    assert entry.origin is not None
    readers = {".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        problems.add(_at_from(entry.origin, f"must name a .jsonl or .csv file, not {shorten(path.name)}"))
        return
    try:
        with open_input(path, Path(entry.origin.file).parent) as stream:
            mistakable = _mistakable(entry)
            for target in reader(stream, str(path), entry, uuid, problems):
                if target.columns and not mistakable.isdisjoint(target.columns) and not _has_own_template(target.layer):
                    problems.extend(_mistaken(target, mistakable))
                else:
                    yield target
    except OSError as error:
        problems.add(_at_from(entry.origin, f"{path} cannot be read: {error.strerror or error}"))


def _at_from(origin: NodeOrigin, message: str) -> Problem:
    return origin.problem(Complaint("from", message))


def _mistakable(entry: Entry) -> frozenset[str]:
    """Return the columns that look like keys of a target and that no ``${…}`` of the entry uses."""
    base = entry.base
    asked = (base.hand_over.owner, base.hand_over.share_with) if base.hand_over is not None else ()
    texts = json.dumps([*base.params.values(), base.system_tags, base.user_tags, asked])
    return frozenset(name for name in (*BODY_PARAMS, *HAND_OVER_KEYS) if f"${{{name}}}" not in texts)


def _has_own_template(layer: Layer) -> bool:
    return bool(layer.templates) or any("$" in tag for tag in (*layer.system_tags, *layer.user_tags))


def _mistaken(target: Target, mistakable: frozenset[str]) -> Iterator[Problem]:
    for name in target.columns:
        if name in mistakable:
            meant = (
                f"write {name}: ${{{name}}} beside from" if name in HAND_OVER_KEYS else f"did you mean params.{name}?"
            )
            message = f"is only a value for ${{{name}}}, which nothing uses; {meant}"
            yield target.origin.problem(Complaint(name, message, at_key=True))


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


def _read_jsonl(stream: IO[bytes], file: str, entry: Entry, uuid: str | None, problems: Problems) -> Iterator[Target]:
    complaints: list[Complaint] = []
    for number, text in _lines(stream, file):
        origin = RowOrigin(file, number, text)
        target = _json_target(text, origin, entry, uuid, complaints)
        if complaints:
            problems.extend(map(origin.problem, complaints))
            complaints.clear()
        elif target is not None:
            yield target


def _lines(stream: IO[bytes], file: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines that are not blank."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) == MAX_LINE_BYTES:
            raise fail(file, "a line longer than 32 MiB", at=(number, 1))
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            raise fail(file, "is not UTF-8: save it as UTF-8", at=(number, error.start + 1)) from None
        if number == 1 and text.startswith("\ufeff"):
            raise fail(file, "starts with a byte order mark: save it as UTF-8 without BOM")
        if text:
            yield number, text


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
        _check_id(identity, complaints)
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
    for name in [name for name in row if name.startswith(_PARAM_COLUMN)]:
        short = name.removeprefix(_PARAM_COLUMN)
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
        _check_column(name, complaints)
        if isinstance(value, bool):
            columns[name] = str(value).lower()
        elif isinstance(value, (str, int)):
            columns[name] = str(value)
        elif value is not None:
            complaints.append(Complaint(name, "must be one text or whole number, to be used as ${…}"))
    return columns


def _check_column(name: str, complaints: list[Complaint]) -> None:
    folded = {own.casefold(): own for own in OWN_COLUMNS}
    near = folded.get(name.casefold().replace("_", "").removesuffix("s")) or folded.get(
        name.casefold().replace("_", "").removesuffix("s") + "s"
    )
    if near:
        complaints.append(Complaint(name, unknown(name, OWN_COLUMNS, what="column"), at_key=True))
    elif name.startswith(("param.", "source.")) or not NAME.fullmatch(name):
        message = f"{shorten(name)} is neither a column of its own (uuid, id, params.NAME, …) nor a name for ${{…}}"
        complaints.append(Complaint(name, message, at_key=True))


def _check_id(value: Any, complaints: list[Complaint]) -> None:
    if value.__class__ is not str or not value or value.strip() != value or not value.isprintable():
        complaints.append(Complaint("id", f"must be a text without control characters, not {shorten(value)}"))


def _read_csv(stream: IO[bytes], file: str, entry: Entry, uuid: str | None, problems: Problems) -> Iterator[Target]:
    # utf-8-sig, since spreadsheets write a byte order mark into every CSV file.
    reader = csv.reader(codecs.getreader("utf-8-sig")(stream), strict=True)
    line = 1
    try:
        header = _header(next(reader, []), file, uuid)
        line = reader.line_num + 1
        for cells in reader:
            origin = RowOrigin(file, line, "")
            line = reader.line_num + 1
            if len(cells) != len(header):
                if cells:
                    message = f"has {len(cells)} cells, the header {len(header)}"
                    problems.add(origin.problem(Complaint("", message)))
                continue
            found = _csv_target(dict(zip(header, cells, strict=True)), origin, entry, uuid)
            if isinstance(found, list):
                problems.extend(found)
            else:
                yield found
    except UnicodeDecodeError:
        raise fail(file, "is not UTF-8: save it as UTF-8", at=(line, 1)) from None
    except csv.Error as error:
        raise fail(file, f"not CSV: {error}", at=(line, 1)) from None


def _header(header: list[str], file: str, uuid: str | None) -> list[str]:
    complaints: list[Complaint] = []
    if not header:
        complaints.append(Complaint("", "the first line must name the columns"))
    if len(header) == 1 and not {";", "\t"}.isdisjoint(header[0]):
        raise fail(file, "the first line must name the columns, separated by commas")
    for name in header:
        if header.count(name) > 1:
            complaints.append(Complaint(name, f"column {shorten(name)} is there twice"))
        elif name.startswith(_PARAM_COLUMN):
            check_params({name.removeprefix(_PARAM_COLUMN): None}, complaints)
        elif name not in OWN_COLUMNS:
            _check_column(name, complaints)
        elif name == "params":
            complaints.append(Complaint(name, "a column sets one parameter: params.NAME"))
    if "uuid" not in header and uuid is None and not complaints:
        complaints.append(Complaint("", "has no column uuid, and `from` has none beside it"))
    if complaints:
        problems = Problems()
        problems.extend(map(RowOrigin(file, 1, ",".join(header)).problem, complaints))
        problems.raise_any()
    return header


def _csv_target(cells: dict[str, str], origin: RowOrigin, entry: Entry, uuid: str | None) -> Target | list[Problem]:
    complaints: list[Complaint] = []
    own_uuid = cells.pop("uuid", "") or uuid
    check_uuid("uuid", own_uuid, complaints)
    identity = cells.pop("id", "") or None
    if identity is not None:
        _check_id(identity, complaints)
    system, user = (read_tags(name, _split(cells.pop(name, "")), complaints) for name in ("systemTags", "userTags"))
    params: dict[str, JsonValue] = {}
    for name in [name for name in cells if name.startswith(_PARAM_COLUMN)]:
        text = cells.pop(name)
        if text:
            short = name.removeprefix(_PARAM_COLUMN)
            params[short] = _split(text) if PARAMS[short].type is ParamType.STRINGS else typed(short, text)
    templates = check_params(params, complaints)
    if complaints or own_uuid is None:
        return [origin.problem(complaint) for complaint in complaints]
    return Target(entry, Layer(params, templates, system, user), own_uuid, identity, cells, origin)


def _split(cell: str) -> list[JsonValue]:
    return [part.strip() for part in cell.split(";") if part.strip()]
