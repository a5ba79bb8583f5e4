"""What the job file says of a manifest's targets: columns for ``list``, the layer of each parameter for ``show``.

The manifest has no parameters, only a digest of what was sent. If the job file still yields that digest, its layers are
those of the run; otherwise they are unknown.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch import jobfile
from batch.app.runs import JOB_FILES
from batch.errors import UsageError
from batch.jobfile.columns import PARAM_COLUMN
from batch.manifest.pins import PinFold
from batch.manifest.reading import reading
from batch.manifest.records import parse_line
from batch.manifest.uuids import UndoneFold
from batch.model import Pins, State
from batch.plan import Identities, Planning
from batch.plan.identity import regenerate_clone
from batch.report.target_list import HAND_OVER_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batch.jobfile.job import Target
    from batch.manifest import Header, Story
    from batch.manifest.listing import Row
    from batch.model import Clone, JsonValue
    from batch.plan import Setting

    _Values = dict[str, JsonValue]

_UNKNOWN: Final = "parameters: their origin is not known:"


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
    header = story.header
    if not header.job_file:
        raise UsageError("the manifest does not name the job file")
    job = jobfile.load(Path(header.job_file))
    if job.name != header.job:
        raise UsageError(f"{header.job_file} now holds the job {job.name}, not {header.job}")
    planning = Planning(job, run=header.run, started_at=header.created_at, pins=read_pins(manifest))
    found = next(((clone, settings()) for clone, settings in planning.explain() if clone.key == story.key), None)
    if found is None:
        return None
    undone = UndoneFold()
    for record in story.records:
        if record.state is State.UNDONE:
            undone.add(record)
    return regenerate_clone(found[0], Identities(header.job, header.run), undone), found[1]


def read_pins(path: Path) -> Pins:
    """Return the pins of the manifest at ``path``."""
    found = PinFold()
    with reading(path) as manifest:
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
        self._columns = columns
        header = _read_header(manifest)
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
            columns = ", ".join((*HAND_OVER_COLUMNS, *known))
            raise UsageError(f"{file}: has no column {missing[0]!r}: it has {columns}")


def _value(name: str, target: Target, clone: Clone) -> JsonValue:
    if name in HAND_OVER_COLUMNS:
        if clone.hand_over is None:
            return None
        return clone.hand_over.owner if name == "owner" else [*clone.hand_over.share_with] or None
    if name.startswith(PARAM_COLUMN):
        return clone.params.get(name.removeprefix(PARAM_COLUMN))
    return target.columns.get(name)


def _read_header(manifest: Path) -> Header:
    with reading(manifest) as found:
        next(found.bodies(), None)
        return found.header
