"""``zclone list``: one row a target, as a table, JSON, JSON Lines or CSV; streamed, whatever the number of targets."""

from __future__ import annotations

import csv
import io
from enum import StrEnum
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from batch.report.text import clean, iso, to_json, width

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batch.model import JsonValue, Row

COLUMNS: Final = (
    "key",
    "source_uuid",
    "state",
    "clone_uuid",
    "name",
    "attempts",
    "error_code",
    "error",
    "started_at",
    "settled_at",
)
_MEASURED_ROWS: Final = 1_000
"""Rows that decide on the widths of a table; later ones may stick out."""
_WIDEST: Final = 60
_FORMULA: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\u2212", "\t", "\r", "\n", "\0")


class ListFormat(StrEnum):
    """How ``list`` prints."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def render_rows(rows: Iterable[Row], form: ListFormat) -> Iterator[str]:
    """Yield the rows as text, line by line with the newline."""
    match form:
        case ListFormat.TABLE:
            return _table(rows)
        case ListFormat.JSON:
            return _json(rows)
        case ListFormat.JSONL:
            return (to_json(fields(row)) + "\n" for row in rows)
        case ListFormat.CSV:
            return _csv(rows)


def fields(row: Row) -> dict[str, JsonValue]:
    """Return a row as a JSON object: the columns in their order, times as ISO 8601 in UTC."""
    values: dict[str, JsonValue] = {name: getattr(row, name) for name in COLUMNS}
    return values | {"state": row.state.value, "started_at": iso(row.started_at), "settled_at": iso(row.settled_at)}


def _cells(row: Row) -> list[str]:
    return ["" if value is None else str(value) for value in fields(row).values()]


def _json(rows: Iterable[Row]) -> Iterator[str]:
    opening = "[\n"
    for row in rows:
        yield opening + to_json(fields(row))
        opening = ",\n"
    yield "[]\n" if opening == "[\n" else "\n]\n"


def _csv(rows: Iterable[Row]) -> Iterator[str]:
    line = io.StringIO()
    writer = csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for cells in chain([list(COLUMNS)], map(_cells, rows)):
        writer.writerow(map(defuse, cells))
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def defuse(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula, its control characters shown."""
    is_formula = cell.startswith(_FORMULA) or cell.strip().startswith(_FORMULA)
    return ("'" if is_formula else "") + clean(cell)


def _table(rows: Iterable[Row]) -> Iterator[str]:
    lines = ([_short(clean(cell)) for cell in _cells(row)] for row in rows)
    measured = [[name.upper() for name in COLUMNS], *islice(lines, _MEASURED_ROWS)]
    widths = [max(map(width, column)) for column in zip(*measured, strict=True)]
    for cells in chain(measured, lines):
        padded = (cell + " " * (size - width(cell)) for cell, size in zip(cells, widths, strict=True))
        yield "  ".join(padded).rstrip() + "\n"


def _short(cell: str) -> str:
    return cell if len(cell) <= _WIDEST else cell[: _WIDEST - 1] + "…"
