"""What ``list`` and ``show`` read: the targets of a manifest, and what the job file says of them.

The manifest has no parameters, only a digest of what was sent. If the job file still yields that digest, its layers are
those of the run; otherwise they are unknown. The job file is read only where a column or an origin needs it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.app.options import ListOutput
from batch.app.runs import JOB_FILES
from batch.errors import UsageError
from batch.manifest import rows
from batch.manifest.kinds import PlanLine
from batch.manifest.operations import PinFold, UndoneFold
from batch.manifest.reader import open_reader
from batch.manifest.records import parse_line
from batch.model import Pins, State
from batch.report.filters import Filter, read_filter
from batch.report.listings import COLUMNS, HAND_OVER_COLUMNS, csv_rows, json_rows, jsonl_rows
from batch.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from batch.jobfile.job import Target
    from batch.manifest import Header, Story
    from batch.manifest.listing import Row
    from batch.model import Clone, JsonValue
    from batch.plan import Planning, Setting
    from batch.zstack.classify import Language

    _Values = dict[str, JsonValue]

_RECORDED: Final = frozenset({"key", "source", "name", "state", "code"})
"""Fields of a recorded target."""
_UNKNOWN: Final = "parameters: their origin is not known:"
_PLAN: Final = b'{"plan":'
"""Prefix of a plan line."""
_INSERT_AFTER: Final = "name"
"""The column after which the hand-over columns are inserted."""
_WRITERS: Final[Mapping[ListOutput, Callable[..., Iterator[str]]]] = {
    ListOutput.JSON: json_rows,
    ListOutput.JSONL: jsonl_rows,
    ListOutput.CSV: partial(csv_rows, escapes_formulas=False),
}
"""By format for programs: how rows are written."""


def select_rows(
    manifest: Path, *, only: Sequence[str], shard: str | None, states: frozenset[State], codes: frozenset[str]
) -> Iterator[Row]:
    """Yield the targets of a manifest that match all conditions; empty ``states`` or ``codes`` match any.

    Raises UsageError.
    """
    wanted = read_filter(only, shard=shard, fields=_RECORDED)
    return (
        row
        for row in rows(manifest)
        if (not states or row.state in states) and (not codes or row.error_code in codes) and _is_selected(row, wanted)
    )


def _is_selected(row: Row, wanted: Filter) -> bool:
    """Return whether a target of a manifest matches a filter over ``_RECORDED``."""
    return wanted.matches(
        {
            "key": (row.key,),
            "source": (row.source_uuid,),
            "name": (row.name or "",),
            "state": (row.state.value,),
            "code": (row.error_code or "",),
        }
    )


def choose_columns(
    manifest: Path, named: Path, requested: Sequence[str] | None, default: Sequence[str], *, warn: Callable[[str], None]
) -> tuple[tuple[str, ...], Callable[[Row], dict[str, JsonValue]] | None]:
    """Return the columns to show, and the reader of those that come from the job file, if any.

    ``requested``: value of ``--columns``; None for the ``default`` ones, with owner and shares if the run has
    hand-overs. If the job file is unreadable, these are left out and ``warn`` is called with the reason. Raises
    UsageError.
    """
    of_job = [name for name in requested or () if name not in COLUMNS]
    if not of_job and (requested is not None or not _has_hand_overs(manifest)):
        return tuple(default if requested is None else requested), None
    if requested is not None:
        try:
            return tuple(requested), JobColumns(manifest, named, of_job).of
        except UsageError as error:
            known = ", ".join(COLUMNS)
            raise UsageError(
                f"--columns: {', '.join(of_job)}: not of a manifest ({known}), and {escape(str(error))}"
            ) from None
    try:
        found = JobColumns(manifest, named, HAND_OVER_COLUMNS)
    except UsageError as error:
        warn(f"without the columns {' and '.join(HAND_OVER_COLUMNS)}: {escape(str(error))}")
        return tuple(default), None
    return tuple(_with_hand_overs(default)), found.of


def data_lines(
    rows: Iterable[Row],
    form: ListOutput,
    language: Language,
    *,
    columns: Sequence[str],
    of_job: Callable[[Row], dict[str, JsonValue]] | None,
) -> Iterator[str]:
    """Yield the lines of ``rows`` in a format for programs; ``of_job``: the reader of columns from the job file."""
    texts = _WRITERS[form](rows, language, columns=columns, of_job=of_job)
    return (line for text in texts for line in text.removesuffix("\n").split("\n"))


def _has_hand_overs(manifest: Path) -> bool:
    """Return whether any recorded plan has hand-overs."""
    with open_reader(manifest) as found:
        plans = (parse_line(body) for body in found.bodies() if body.startswith(_PLAN))
        return any(isinstance(plan, PlanLine) and plan.hand_overs for plan in plans)


def _with_hand_overs(default: Sequence[str]) -> Iterator[str]:
    for name in default:
        yield name
        if name == _INSERT_AFTER:
            yield from HAND_OVER_COLUMNS


def origin_lines(manifest: Path, story: Story) -> Iterator[str]:
    """Yield one line per parameter, or one that says why the origins are unknown."""
    try:
        found = _explain(manifest, story)
    except UsageError as error:
        yield f"{_UNKNOWN} {str(error).splitlines()[0]}"
        return
    file = story.header.job_file
    sent = next((record.digest for record in reversed(story.records) if record.digest is not None), None)
    if found is None:
        yield f"{_UNKNOWN} {file} no longer has this target"
    elif sent not in {None, found[0].digest}:
        yield f"{_UNKNOWN} {file} has changed since they were sent"
    else:
        yield f"parameters, by {file}{'' if sent is None else ', as they were sent'}:"
        for name, setting in found[1].items():
            yield f"  {name:<22}{setting}"


def _explain(manifest: Path, story: Story) -> tuple[Clone, Mapping[str, Setting]] | None:
    """Return the target in the job file, if present. Raises UsageError if the file is missing or unreadable."""
    from batch.plan import Identities
    from batch.plan.identity import regenerate_clone

    header = story.header
    if not header.job_file:
        raise UsageError("the manifest does not name the job file")
    planning = _read_job(Path(header.job_file), header, manifest, named=header.job_file)
    found = next(((clone, settings()) for clone, settings in planning.explain() if clone.key == story.key), None)
    if found is None:
        return None
    undone = UndoneFold()
    for record in story.records:
        if record.state is State.UNDONE:
            undone.add(record)
    return regenerate_clone(found[0], Identities(header.job, header.run), undone), found[1]


def _read_job(file: Path, header: Header, manifest: Path, *, named: str) -> Planning:
    """Return the planning of a manifest's run by the job file; ``named``: the file, as an error begins with it.

    Raises UsageError if the file is missing, unreadable or of another job.
    """
    from batch.jobfile import load
    from batch.plan import Planning

    job = load(file)
    if job.name != header.job:
        raise UsageError(f"{named} now holds the job {job.name}, not {header.job}")
    return Planning(job, run=header.run, started_at=header.created_at, pins=_read_pins(manifest))


def _read_pins(path: Path) -> Pins:
    """Return the pins of the manifest at ``path``."""
    found = PinFold()
    with open_reader(path) as manifest:
        for body in manifest.bodies():
            line = parse_line(body) if body.startswith(b'{"pinned":') else None
            if isinstance(line, Pins):
                found.take(line)
    return found.pins


class JobColumns:
    """Joins columns of the job file to manifest rows; if both are in the same order it needs no extra memory."""

    def __init__(self, manifest: Path, named: Path, columns: Sequence[str]) -> None:
        """``named``: the file on the command line, job file or manifest. ``columns``: those of the job.

        Raises UsageError if the job file is unreadable, of another job, or has no such column.
        """
        from batch.jobfile.rows import PARAM_COLUMN

        self._columns = columns
        self._param_column = PARAM_COLUMN
        header = _read_header(manifest)
        file = named if named.suffix.lower() in JOB_FILES else Path(header.job_file)
        if not header.job_file and file is not named:
            raise UsageError(f"{manifest}: does not name its job file: give that instead of the manifest")
        planning = _read_job(file, header, manifest, named=f"{file}:")
        self._passed: dict[str, _Values] = {}
        self._targets = planning.pairs()
        self._require(file, planning)

    def of(self, row: Row) -> dict[str, JsonValue]:
        """Return the values of a target, None for missing ones; all None if it is not in the job file."""
        found = self._passed.pop(row.key, None)
        while found is None and (pair := next(self._targets, None)) is not None:
            values = self._values(*pair)
            if pair[1].key == row.key:
                found = values
            else:
                self._passed[pair[1].key] = values
        return found or dict.fromkeys(self._columns)

    def _values(self, target: Target, clone: Clone) -> _Values:
        return {name: self._value(name, target, clone) for name in self._columns}

    def _value(self, name: str, target: Target, clone: Clone) -> JsonValue:
        if name in HAND_OVER_COLUMNS:
            if clone.hand_over is None:
                return None
            return clone.hand_over.owner if name == "owner" else [*clone.hand_over.share_with] or None
        if name.startswith(self._param_column):
            return clone.params.get(name.removeprefix(self._param_column))
        return target.columns.get(name)

    def _require(self, file: Path, planning: Planning) -> None:
        """Raise UsageError for a column that no target has."""
        missing = [name for name in self._columns if name not in HAND_OVER_COLUMNS]
        known: dict[str, None] = {}
        for target, clone in planning.pairs() if missing else ():
            known |= dict.fromkeys((*target.columns, *(self._param_column + name for name in clone.params)))
            missing = [name for name in missing if name not in known]
            if not missing:
                return
        if missing:
            columns = ", ".join((*HAND_OVER_COLUMNS, *known))
            raise UsageError(f"{file}: has no column {missing[0]!r}: it has {columns}")


def _read_header(manifest: Path) -> Header:
    with open_reader(manifest) as found:
        next(found.bodies(), None)
        return found.header
