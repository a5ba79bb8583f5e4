"""The output of ``zclone list``, ``runs`` and ``show``: targets, manifests, and the records of one target.

Targets are a table, JSON, JSON Lines or CSV, streamed for any number of them.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.errors import UsageError
from batch.model import State
from batch.text import cut, escape, fit, iso, pad, to_json, width
from batch.zstack.classify import with_hint

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from batch.manifest import Header, Story
    from batch.manifest.listing import Row
    from batch.model import HandOverRecord, JsonValue, Record
    from batch.zstack.classify import Language

    _Values = dict[str, JsonValue]

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
HAND_OVER_COLUMNS: Final = ("owner", "share_with")
"""Columns from the job file: the accounts that own a clone and share it."""
TERMINAL_COLUMNS: Final = ("key", "state", "clone_uuid", "name", "error")
"""Default columns of a table on a terminal."""
_STATE_COLUMN: Final = "state"
_MEASURED_ROWS: Final = 1_000
"""Number of leading rows that determine column widths; later rows may be wider."""
_WIDEST: Final = 60
_NARROWEST: Final = 4
_MIN_WIDTHS: Final = {"error": 20, "owner": 9, "share_with": 9, "name": 12, "clone_uuid": 9}
"""Minimum widths of the columns that shrink first, in this order."""
_GAP: Final = "  "
_FORMULA: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\u2212", "\t", "\r", "\n", "\0")

_RECORD_DETAILS: Final = ("resource_uuid", "digest", "clone_uuid", "name", "error_code", "error")
_SHOWN_JOB_DIGITS: Final = 8


class TableLine(NamedTuple):
    """One line of a table."""

    text: str
    state: str = ""
    """State of the target; empty in the heading."""
    at: int = 0
    """Position of the state in the text; 0 in a table without that column."""


def read_columns(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of columns. Raises UsageError for an empty or repeated one."""
    names = tuple(name.strip() for name in text.split(","))
    for place, name in enumerate(names):
        if not name:
            raise UsageError(f"--columns: {text!r} has an empty name; known are {', '.join(COLUMNS)}")
        if name in names[:place]:
            raise UsageError(f"--columns: {name} is given twice")
    return names


def json_rows(
    rows: Iterable[Row],
    language: Language = "en",
    *,
    columns: Sequence[str] = COLUMNS,
    of_job: Callable[[Row], _Values] | None = None,
) -> Iterator[str]:
    """Yield the rows as one JSON list, in pieces of text.

    ``language``: that of the hints. ``of_job``: returns the columns that come from the job file.
    """
    opening = "[\n"
    for row in _values(rows, language, columns, of_job):
        yield opening + to_json(row)
        opening = ",\n"
    yield "[]\n" if opening == "[\n" else "\n]\n"


def jsonl_rows(
    rows: Iterable[Row],
    language: Language = "en",
    *,
    columns: Sequence[str] = COLUMNS,
    of_job: Callable[[Row], _Values] | None = None,
) -> Iterator[str]:
    """Yield each row as a line of JSON with its newline; arguments as for ``json_rows``."""
    return (to_json(row) + "\n" for row in _values(rows, language, columns, of_job))


def csv_rows(
    rows: Iterable[Row],
    language: Language = "en",
    *,
    columns: Sequence[str] = COLUMNS,
    of_job: Callable[[Row], _Values] | None = None,
    escapes_formulas: bool = True,
) -> Iterator[str]:
    """Yield a heading and each row as a line of CSV with its newline; arguments as for ``json_rows``.

    ``escapes_formulas``: whether to escape cells that a spreadsheet would evaluate as formulas.
    """
    clean = escape_formula if escapes_formulas else escape
    line = io.StringIO()
    writer = csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for cells in chain([list(columns)], map(_cells, _values(rows, language, columns, of_job))):
        writer.writerow(map(clean, cells))
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def _values(
    rows: Iterable[Row], language: Language, columns: Sequence[str], of_job: Callable[[Row], _Values] | None
) -> Iterator[_Values]:
    for row in rows:
        values = row_values(row, language)
        if of_job is not None:
            values |= of_job(row)
        yield {name: values[name] for name in columns}


def row_values(row: Row, language: Language = "en") -> dict[str, JsonValue]:
    """Return a row as a JSON object: columns in order, times in ISO 8601 UTC, errors with their hint."""
    values: dict[str, JsonValue] = {name: getattr(row, name) for name in COLUMNS}
    error = with_hint(row.error_code, row.error, language)
    times = {"started_at": iso(row.started_at), "settled_at": iso(row.settled_at)}
    return values | {"state": row.state.value, "error": error} | times


def _cells(row: _Values) -> list[str]:
    return [_cell(value) for value in row.values()]


def _cell(value: JsonValue) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        # The same separator as in CSV tables of targets.
        return ";".join(map(str, value))
    return to_json(value) if isinstance(value, list | dict | bool) else str(value)


def escape_formula(cell: str) -> str:
    """Escape a cell so that no spreadsheet evaluates it as a formula; control characters are made visible."""
    is_formula = cell.startswith(_FORMULA) or cell.strip().startswith(_FORMULA)
    return ("'" if is_formula else "") + escape(cell)


def table_lines(
    rows: Iterable[Row],
    language: Language = "en",
    *,
    columns: Sequence[str] = COLUMNS,
    of_job: Callable[[Row], _Values] | None = None,
    size: int | None = None,
) -> Iterator[TableLine]:
    """Yield a heading and one line per row; ``size``: terminal width that cells are cut to fit."""
    values = _values(rows, language, columns, of_job)
    lines = ([cut(escape(cell), _WIDEST) for cell in _cells(row)] for row in values)
    measured = [[name.upper() for name in columns], *islice(lines, _MEASURED_ROWS)]
    widths = [max(map(width, column)) for column in zip(*measured, strict=True)]
    if size is not None:
        widths = _narrow(columns, widths, size)
    at = columns.index(_STATE_COLUMN) if _STATE_COLUMN in columns else None
    for number, cells in enumerate(chain(measured, lines)):
        padded = [*map(pad, cells if size is None else map(fit, cells, widths), widths)]
        text = _GAP.join(padded).rstrip()
        shown = text if size is None else fit(text, size)
        if number and at is not None:
            yield TableLine(shown, cells[at], sum(len(cell) + len(_GAP) for cell in padded[:at]))
        else:
            yield TableLine(shown)


def _narrow(columns: Sequence[str], widths: Sequence[int], size: int) -> list[int]:
    """Return widths with a sum of at most ``size``: certain columns shrink first, then the widest."""
    narrowed = dict(zip(columns, widths, strict=True))
    over = sum(widths) + len(_GAP) * (len(widths) - 1) - size
    for name, least in _MIN_WIDTHS.items():
        taken = max(0, min(over, narrowed.get(name, 0) - least))
        if taken:
            narrowed[name] -= taken
            over -= taken
    while over > 0 and narrowed[widest := max(narrowed, key=narrowed.__getitem__)] > _NARROWEST:
        narrowed[widest] -= 1
        over -= 1
    return [*narrowed.values()]


@dataclass(frozen=True, slots=True)
class DescribedRun:
    """A manifest and the state of its run."""

    path: Path
    header: Header
    counts: Counter[State]
    is_running: bool
    is_settled: bool
    """Whether nothing is left to do."""
    is_removable: bool
    """Whether later runs do without its manifest."""


@dataclass(frozen=True, slots=True)
class RemoteRow:
    """An open run on Temporal."""

    run: str
    began_at: float
    """Seconds since the epoch."""
    states: Mapping[State, int]
    targets: int
    workflow_id: str


def run_lines(runs: Sequence[DescribedRun], remote: Sequence[RemoteRow] = ()) -> list[str]:
    """Return the table of ``zclone runs``, one line per run; only the heading if there are none."""
    heads = ["RUN", "BEGAN", "STATE", "CLONED", "MANIFEST OR WORKFLOW" if remote else "MANIFEST"]
    table = [heads, *map(_run_cells, runs), *map(_remote_cells, remote)]
    widths = [max(map(width, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(pad, cells, widths)).rstrip() for cells in table]


def _run_cells(run: DescribedRun) -> list[str]:
    total = run.counts.total() - run.counts[State.WITHDRAWN]
    state = "running" if run.is_running else "settled" if run.is_settled else "unfinished"
    name = f"{run.header.run} (rehearsal)" if run.header.simulated else run.header.run
    cloned = f"{run.counts[State.CLONED]} of {total}"
    return [escape(name), iso(run.header.created_at) or "", state, cloned, escape(str(run.path))]


def _remote_cells(row: RemoteRow) -> list[str]:
    cloned = f"{row.states.get(State.CLONED, 0)} of {row.targets}"
    return [escape(row.run), iso(row.began_at) or "", "on Temporal", cloned, escape(row.workflow_id)]


def show_lines(story: Story, language: Language = "en") -> list[str]:
    """Return the lines of ``zclone show``: the history of one target, attempt by attempt.

    Job uuids are shortened, because with the full one anyone can read the job's result from the server.
    """
    lines = [f"key          {escape(story.key)}", f"source_uuid  {escape(story.source_uuid)}"]
    if not story.records:
        return [*lines, "planned; nothing sent yet"]
    for record in story.records:
        lines += _record_lines(record, language)
    for line in story.hand_overs:
        lines += _hand_over_lines(line, language)
    return lines


def _hand_over_lines(line: HandOverRecord, language: Language) -> list[str]:
    result = "handed over" if line.error_code is None else "hand-over refused"
    details = {
        "clone_uuid": line.clone_uuid,
        "owner": line.wanted.owner,
        "share_with": ", ".join(line.wanted.share_with) or None,
        "error_code": line.error_code,
        "error": with_hint(line.error_code, line.error, language),
    }
    shown = [f"  {name:<15}{escape(value)}" for name, value in details.items() if value is not None]
    return [f"{iso(line.at)}  {result}", *shown]


def _record_lines(record: Record, language: Language) -> list[str]:
    how = " (found by its uuid)" if record.adopted else ""
    lines = [f"{iso(record.at)}  {record.state.value}, attempt {record.attempt}{how}"]
    if record.state is State.PLANNED:
        retried = "reopened by zclone retry; attempts count from zero"
        lines.append(f"  {retried if record.retried else 'the attempt was not executed and is not counted'}")
    if record.job_uuid is not None:
        lines.append(f"  job_uuid       {escape(record.job_uuid[:_SHOWN_JOB_DIGITS])}…")
    record = record._replace(error=with_hint(record.error_code, record.error, language))
    details = ((name, getattr(record, name)) for name in _RECORD_DETAILS)
    lines += [f"  {name:<15}{escape(value)}" for name, value in details if value is not None]
    if record.deadline is not None:
        lines.append(f"  {'deadline':<15}{iso(record.deadline)}")
    return lines
