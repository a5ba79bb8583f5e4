"""``from:`` files: targets as JSON Lines or CSV, streamed a line at a time."""

from __future__ import annotations

import codecs
import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.jobfile.check import check_params, check_uuid, typed
from batch.jobfile.columns import OWN_COLUMNS, PARAM_COLUMN, check_column, check_id
from batch.jobfile.handover import HAND_OVER_KEYS
from batch.jobfile.job import Entry, Layer, Target
from batch.jobfile.jsonlines import read_believed, read_jsonl
from batch.jobfile.layers import read_tags
from batch.jobfile.origins import NodeOrigin, RowOrigin
from batch.jobfile.problems import Complaint, Problems, fail, shorten
from batch.zstack.params import BODY_PARAMS, PARAMS, ParamType

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from batch.jobfile.inputs import InputFiles
    from batch.model import JsonValue, Problem


_LOOK_EVERY: Final = 64
"""Rows after which a file whose rows are believed is looked at again."""


class RowFile(NamedTuple):
    """A ``from:`` file and what its rows have in common."""

    path: Path
    entry: Entry
    uuid: str | None
    """The source of rows that name none."""
    files: InputFiles
    is_believed: bool
    """Whether all rows were found good before, in a file that has not been changed since."""


def read_rows(file: RowFile, problems: Problems) -> Iterator[Target]:
    """Stream the rows that have no problem. Raises JobFileError where the file cannot be read on."""
    path, entry = file.path, file.entry
    assert entry.origin is not None
    readers = {".jsonl": read_jsonl, ".ndjson": read_jsonl, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        problems.add(_at_from(entry.origin, f"must name a .jsonl or .csv file, not {shorten(path.name)}"))
        return
    try:
        with file.files.open(path, Path(entry.origin.file).parent) as stream:
            if file.is_believed:
                reader = read_believed if reader is read_jsonl else reader
                for number, target in enumerate(reader(stream, str(path), entry, file.uuid, problems)):
                    if number % _LOOK_EVERY == 0:
                        file.files.check(stream, path)
                    yield target
            else:
                yield from _understood(reader(stream, str(path), entry, file.uuid, problems), entry, problems)
            file.files.check(stream, path)
    except OSError as error:
        problems.add(_at_from(entry.origin, f"{path} cannot be read: {error.strerror or error}"))


def _understood(targets: Iterator[Target], entry: Entry, problems: Problems) -> Iterator[Target]:
    mistakable = _mistakable(entry)
    for target in targets:
        if target.columns and not mistakable.isdisjoint(target.columns) and not _has_own_template(target.layer):
            problems.extend(_mistaken(target, mistakable))
        else:
            yield target


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
        elif name.startswith(PARAM_COLUMN):
            check_params({name.removeprefix(PARAM_COLUMN): None}, complaints)
        elif name not in OWN_COLUMNS:
            check_column(name, complaints)
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
        check_id(identity, complaints)
    system, user = (read_tags(name, _split(cells.pop(name, "")), complaints) for name in ("systemTags", "userTags"))
    params: dict[str, JsonValue] = {}
    for name in [name for name in cells if name.startswith(PARAM_COLUMN)]:
        text = cells.pop(name)
        if text:
            short = name.removeprefix(PARAM_COLUMN)
            params[short] = _split(text) if PARAMS[short].type is ParamType.STRINGS else typed(short, text)
    templates = check_params(params, complaints)
    if complaints or own_uuid is None:
        return [origin.problem(complaint) for complaint in complaints]
    return Target(entry, Layer(params, templates, system, user), own_uuid, identity, cells, origin)


def _split(cell: str) -> list[JsonValue]:
    return [part.strip() for part in cell.split(";") if part.strip()]
