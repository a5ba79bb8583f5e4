"""``from:`` files: their columns, and their rows as targets, streamed a line at a time."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from batch.jobfile.check import check_params, check_uuid, convert
from batch.jobfile.envelope import VARIABLE_PATTERN
from batch.jobfile.job import HAND_OVER_KEYS, Entry, Layer, Target, read_tags
from batch.jobfile.jsontext import read_jsonl
from batch.jobfile.problems import Complaint, NodeOrigin, Problems, RowOrigin, fold, quote, unknown
from batch.jobfile.tables import CSV, XLSX, TableFormat, read_table
from batch.zstack.params import BODY_PARAMS, PARAMS, ParamType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO

    from batch.jobfile.input_files import InputFiles
    from batch.model import JsonValue, Problem

_EMPTY: Final = Layer()
_NO_COLUMNS: Final[dict[str, str]] = {}
_NESTED: Final = (ParamType.IMAGES, ParamType.UUIDS_BY_NAME)
_NO_CELL: Final = dict.fromkeys(
    _NESTED, "a cell cannot hold it: write it beside `from`, or the rows as JSON Lines (.jsonl)"
) | {ParamType.STRINGS: "a cell is no list in brackets: separate the values by ;"}
_SHEETS: Final = frozenset({".xls", ".xlsm", ".xlsb", ".ods"})
_CHECK_INTERVAL: Final = 64
"""Rows between two checks whether the file was changed: a run reads it for hours."""

OWN_COLUMNS: Final = ("uuid", "id", "params", "systemTags", "userTags")
PARAM_COLUMN: Final = "params."

_ENTRY_KEYS: Final = ("keep", "matrix", "from", "query", *HAND_OVER_KEYS)
"""Keys of the job file's entry that no column sets."""
_FOLDED: Final = {fold(name): name for name in (*_ENTRY_KEYS, *BODY_PARAMS, *OWN_COLUMNS)} | {"parameter": "params"}
_NAME_USE: Final = re.compile(r"\$\$|\$\{([^}]*)\}")
_UNSAFE_IN_ID: Final = frozenset("\\$`'\"")
"""Characters with a meaning in shells: keys are completed and pasted there."""


class RowFile(NamedTuple):
    """A ``from:`` file and what its rows have in common."""

    path: Path
    entry: Entry
    uuid: str | None
    """The source of rows that name none."""
    form: TableFormat
    """Format of a CSV file or a workbook."""
    files: InputFiles


def read_rows(file: RowFile, problems: Problems) -> Iterator[Target]:
    """Yield the rows that have no problem. Raises JobFileError where the file can no longer be read."""
    path, entry = file.path, file.entry
    assert entry.origin is not None
    rows = _Rows(file, problems)
    readers = {".jsonl": rows.read_jsonl, ".ndjson": rows.read_jsonl, CSV: rows.read_table, XLSX: rows.read_table}
    read = readers.get(path.suffix.lower())
    if read is None:
        hint = ": save the sheet as .xlsx or CSV" if path.suffix.lower() in _SHEETS else ""
        problems.add(_at_from(entry.origin, f"must name a .jsonl, .csv or .xlsx file, not {quote(path.name)}{hint}"))
        return
    before, count = len(problems), 0
    try:
        with file.files.open(path, Path(entry.origin.file).parent) as stream:
            for target in read(stream):
                if count % _CHECK_INTERVAL == 0:
                    file.files.check(stream, path)
                count += 1
                yield target
            file.files.check(stream, path)
    except OSError as error:
        problems.add(_at_from(entry.origin, f"{path} cannot be read: {error.strerror or error}"))
    if not count and len(problems) == before:
        problems.add(_at_from(entry.origin, f"{path} has no rows: nothing to clone"))


def _at_from(origin: NodeOrigin, message: str) -> Problem:
    return origin.problem(Complaint("from", message))


class _Rows:
    """Makes targets from the rows of one file; those with problems are left out."""

    def __init__(self, file: RowFile, problems: Problems) -> None:
        self._file = str(file.path)
        self._entry = file.entry
        self._uuid = file.uuid
        self._form = file.form
        self._problems = problems
        self._columns = Columns(file.entry)

    def read_jsonl(self, stream: IO[bytes]) -> Iterator[Target]:
        """Yield the targets of JSON Lines."""
        for origin, row in read_jsonl(stream, self._file, self._problems):
            complaints: list[Complaint] = []
            uuid, identity = row.pop("uuid", None), row.pop("id", None)
            check_identity(uuid, identity, self._uuid, complaints)
            layer, columns, is_good = _EMPTY, _NO_COLUMNS, True
            if row:
                layer = _read_object(row, complaints)
                is_good = self._columns.check(row, layer, complaints)
                columns = _read_values(row, complaints)
            if complaints:
                self._problems.place(complaints, origin.problem)
            elif is_good:
                yield Target(self._entry, layer, uuid or self._uuid or "", identity, columns, origin)

    def read_table(self, stream: IO[bytes]) -> Iterator[Target]:
        """Yield the targets of a CSV table or a sheet."""
        header = RowOrigin(self._file, 1, "")
        for origin, cells in read_table(stream, self._file, self._form, self._check_header, self._problems):
            complaints: list[Complaint] = []
            uuid, identity = cells.pop("uuid", "") or None, cells.pop("id", "") or None
            check_identity(uuid, identity, self._uuid, complaints)
            layer = _read_cells(cells, complaints)
            self._problems.place(complaints, origin.problem)
            of_header: list[Complaint] = []
            is_good = self._columns.check(cells, layer, of_header)
            self._problems.place(of_header, header.problem)
            if is_good and not complaints:
                yield Target(self._entry, layer, uuid or self._uuid or "", identity, cells, origin)

    def _check_header(self, names: list[str], complaints: list[Complaint]) -> None:
        for name in names:
            if name.startswith(PARAM_COLUMN):
                check_params({name.removeprefix(PARAM_COLUMN): None}, complaints)
            elif name == "params":
                complaints.append(Complaint(name, "a column sets one parameter: params.NAME"))
        if "uuid" not in names and self._uuid is None and not complaints:
            complaints.append(Complaint("", "has no column uuid, and `from` has none beside it"))


def _read_object(row: dict[str, Any], complaints: list[Complaint]) -> Layer:
    """Read the keys of a layer from ``row``, removing them."""
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


def _read_values(row: dict[str, JsonValue], complaints: list[Complaint]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for name, value in row.items():
        if isinstance(value, bool):
            columns[name] = str(value).lower()
        elif isinstance(value, (str, int)):
            columns[name] = str(value)
        elif value is not None:
            complaints.append(Complaint(name, "must be one text or whole number, to be used as ${…}"))
    return columns


def _read_cells(cells: dict[str, str], complaints: list[Complaint]) -> Layer:
    """Read the columns of a layer from ``cells``, removing them."""
    system, user = (read_tags(name, _split(cells.pop(name, "")), complaints) for name in ("systemTags", "userTags"))
    params: dict[str, JsonValue] = {}
    for name in [name for name in cells if name.startswith(PARAM_COLUMN)]:
        text = cells.pop(name)
        if text:
            short = name.removeprefix(PARAM_COLUMN)
            kind = PARAMS[short].type
            if kind in _NESTED or (kind is ParamType.STRINGS and text.startswith("[")):
                complaints.append(Complaint(f"params.{short}", _NO_CELL[kind]))
            else:
                params[short] = _read_cell(short, text)
    return Layer(params, check_params(params, complaints), system, user)


def _read_cell(name: str, text: str) -> JsonValue:
    return _split(text) if PARAMS[name].type is ParamType.STRINGS else convert(name, text)


def _split(cell: str) -> list[JsonValue]:
    return [part.strip() for part in cell.split(";") if part.strip()]


class Columns:
    """The columns of one file that are values for ``${…}``; each problem of a name is reported once."""

    def __init__(self, entry: Entry) -> None:
        """Start for the ``from:`` entry, with ``defaults`` merged in."""
        base = entry.base
        over = base.hand_over
        accounts = () if over is None else (over.owner, over.share_with)
        self._used = _used_names([*base.params.values(), base.system_tags, base.user_tags, accounts])
        self._good: set[str] = set()
        self._bad: set[str] = set()

    def check(self, names: Iterable[str], layer: Layer, complaints: list[Complaint]) -> bool:
        """Complain of names that cannot be used, and of unused ones that are spelt like something else.

        ``layer``: the row's own, whose ``${…}`` count too. Return whether all names are usable.
        """
        new = [name for name in names if name not in self._good]
        used: set[str] | None = None
        for name in new:
            near = _FOLDED.get(fold(name))
            if (near is None and not name.startswith("source.")) or name in self._used:
                self._good.add(name)
            elif name not in self._bad:
                if used is None:
                    used = _used_names([*layer.params.values(), layer.system_tags, layer.user_tags])
                if name not in used:
                    self._bad.add(name)
                    complaints.append(Complaint(name, _explain(name, near), at_key=True))
        return self._bad.isdisjoint(new)


def _used_names(values: list[Any]) -> set[str]:
    texts = json.dumps(values, ensure_ascii=False)
    return set(_NAME_USE.findall(texts)) if "$" in texts else set()


@lru_cache
def _explain(name: str, near: str | None) -> str:
    if near is None:
        return f"{quote(name)} can never be used: ${{source.…}} is read from the server's data of the source"
    if near in OWN_COLUMNS:
        return unknown(name, OWN_COLUMNS, what="column")
    idle = f"is only a value for ${{{name}}}, which nothing uses; " if re.fullmatch(VARIABLE_PATTERN, name) else ""
    if near in HAND_OVER_KEYS:
        return f"{idle}write {near}: ${{{name}}} beside from"
    if near in _ENTRY_KEYS:
        return f"{idle}{near} is a key of the job file and no column: write it there"
    return f"{idle}did you mean params.{near}?"


def check_id(value: Any, complaints: list[Complaint]) -> None:
    """Complain of an ``id`` that is not a plain text."""
    if value.__class__ is not str or not value or value.strip() != value or not value.isprintable():
        hint = ": put it in quotes" if value.__class__ is int else ""
        complaints.append(Complaint("id", f"must be a text without control characters, not {quote(value)}{hint}"))
    elif not _UNSAFE_IN_ID.isdisjoint(value):
        complaints.append(Complaint("id", f"must have no quotes, backslash, backtick or dollar, not {quote(value)}"))


def check_identity(own: Any, identity: Any, uuid: str | None, complaints: list[Complaint]) -> None:
    """Check a row's ``uuid`` and ``id``; ``uuid``: the source of rows that name none."""
    check_uuid("uuid", uuid if own is None else own, complaints)
    if identity is not None:
        check_id(identity, complaints)
    elif own is None and uuid is not None:
        complaints.append(Complaint("", "has no uuid of its own, so it needs an id"))
