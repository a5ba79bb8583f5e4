"""The columns of ``zclone list`` that the manifest does not have: what the job file says of each target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch import jobfile
from batch.app.origins import read_pins
from batch.app.runs import JOB_FILES
from batch.errors import UsageError
from batch.jobfile.columns import PARAM_COLUMN
from batch.manifest.kinds import PlanLine
from batch.manifest.reading import reading
from batch.manifest.records import parse_line
from batch.plan import Planning
from batch.report.listing import COLUMNS, HAND_OVER_COLUMNS
from batch.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batch.jobfile.job import Target
    from batch.manifest import Header
    from batch.model import Clone, JsonValue, Row

    _Values = dict[str, JsonValue]

_PLAN: Final = b'{"plan":'
"""How the line of a plan begins."""
_AFTER: Final = "name"
"""The column that those of the hand-over stand behind."""


class JobColumns:
    """Reads the columns of a job's targets beside the rows of its manifest; in one order both cost no memory."""

    def __init__(self, manifest: Path, named: Path, columns: Sequence[str]) -> None:
        """``named``: the file of the command line, the job's or the manifest's. ``columns``: of the job.

        Raises UsageError where the job cannot be read, is another one, or has no such column.
        """
        self._columns = columns
        header = _header(manifest)
        file = named if named.suffix.lower() in JOB_FILES else Path(header.job_file)
        if not header.job_file and file is not named:
            raise UsageError(f"{manifest}: does not name its job file: give that instead of the manifest")
        job = jobfile.load(file)
        if job.name != header.job:
            raise UsageError(f"{file}: now holds the job {job.name}, not {header.job}")
        planning = Planning(job, run=header.run, started_at=header.created_at, pins=read_pins(manifest))
        self._known: dict[str, None] = {}
        self._passed: dict[str, _Values] = {}
        self._targets = planning.pairs()
        self._require(file, planning)

    def of(self, row: Row) -> dict[str, JsonValue]:
        """Return the values of a target, None for what it has not; all None where it is not in the job file."""
        found = self._passed.pop(row.key, None)
        while found is None and (pair := next(self._targets, None)) is not None:
            values = self._values(*pair)
            if pair[1].key == row.key:
                found = values
            else:
                self._passed[pair[1].key] = values
        return found or dict.fromkeys(self._columns)

    def _values(self, target: Target, clone: Clone) -> _Values:
        return {name: _value(name, target, clone) for name in self._columns}

    def _require(self, file: Path, planning: Planning) -> None:
        """Raise UsageError for a column that no target has."""
        missing = [name for name in self._columns if name not in HAND_OVER_COLUMNS]
        known: dict[str, None] = {}
        for target, clone in planning.pairs() if missing else ():
            known |= dict.fromkeys((*target.columns, *(PARAM_COLUMN + name for name in clone.params)))
            missing = [name for name in missing if name not in known]
            if not missing:
                return
        if missing:
            choice = ", ".join((*HAND_OVER_COLUMNS, *known))
            raise UsageError(f"{file}: has no column {missing[0]!r}: it has {choice}")


def _value(name: str, target: Target, clone: Clone) -> JsonValue:
    if name in HAND_OVER_COLUMNS:
        if clone.hand_over is None:
            return None
        return clone.hand_over.owner if name == "owner" else [*clone.hand_over.share_with] or None
    if name.startswith(PARAM_COLUMN):
        return clone.params.get(name.removeprefix(PARAM_COLUMN))
    return target.columns.get(name)


def choose_columns(
    manifest: Path, named: Path, asked: Sequence[str] | None, usual: Sequence[str], *, tell: Callable[[str], None]
) -> tuple[tuple[str, ...], Callable[[Row], dict[str, JsonValue]] | None]:
    """Return the columns to show, and what gives those of them that the job file has; None where there are none.

    ``asked``: of ``--columns``; None: the ``usual`` ones, with owner and shares where the run has hand-overs; where
    the job file cannot be read, ``tell`` is called with the reason and they are left out. Raises UsageError.
    """
    if asked is not None:
        of_job = [name for name in asked if name not in COLUMNS]
        if not of_job:
            return tuple(asked), None
        try:
            return tuple(asked), JobColumns(manifest, named, of_job).of
        except UsageError as error:
            known = ", ".join(COLUMNS)
            raise UsageError(
                f"--columns: {', '.join(of_job)}: not of a manifest ({known}), and {escape(str(error))}"
            ) from None
    if not _has_hand_overs(manifest):
        return tuple(usual), None
    try:
        found = JobColumns(manifest, named, HAND_OVER_COLUMNS)
    except UsageError as error:
        tell(f"without the columns {' and '.join(HAND_OVER_COLUMNS)}: {escape(str(error))}")
        return tuple(usual), None
    return tuple(_with_hand_overs(usual)), found.of


def _header(manifest: Path) -> Header:
    with reading(manifest) as found:
        next(found.bodies(), None)
        return found.header


def _has_hand_overs(manifest: Path) -> bool:
    """Whether any plan on record has one."""
    with reading(manifest) as found:
        plans = (parse_line(body) for body in found.bodies() if body.startswith(_PLAN))
        return any(isinstance(plan, PlanLine) and plan.hand_overs for plan in plans)


def _with_hand_overs(usual: Sequence[str]) -> Iterator[str]:
    for name in usual:
        yield name
        if name == _AFTER:
            yield from HAND_OVER_COLUMNS
