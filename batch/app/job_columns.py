"""Columns of the job file for the rows of its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from batch import jobfile
from batch.app.origins import read_pins
from batch.app.runs import JOB_FILES
from batch.errors import UsageError
from batch.jobfile.columns import PARAM_COLUMN
from batch.manifest.reading import reading
from batch.plan import Planning
from batch.report.target_list import HAND_OVER_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch.jobfile.job import Target
    from batch.manifest import Header
    from batch.model import Clone, JsonValue, Row

    _Values = dict[str, JsonValue]


class JobColumns:
    """Joins columns of the job file to manifest rows; if both are in the same order it needs no extra memory."""

    def __init__(self, manifest: Path, named: Path, columns: Sequence[str]) -> None:
        """``named``: the file on the command line, job file or manifest. ``columns``: those of the job.

        Raises UsageError if the job file is unreadable, of another job, or has no such column.
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


def _header(manifest: Path) -> Header:
    with reading(manifest) as found:
        next(found.bodies(), None)
        return found.header
