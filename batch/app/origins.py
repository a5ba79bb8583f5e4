"""The origin of each parameter of a target: the layer that set it, from the manifest and the current job file.

The manifest has no parameters, only a digest of what was sent. If the job file still yields that digest, its layers are
those of the run; otherwise they are unknown.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch import jobfile
from batch.errors import UsageError
from batch.manifest.pins import PinFold
from batch.manifest.reading import reading
from batch.manifest.records import parse_line
from batch.model import Pins, State
from batch.plan import Identities, Planning
from batch.plan.identity import regenerate_clone

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.manifest import Story
    from batch.model import Clone
    from batch.plan import Setting

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
    generation = sum(record.state is State.UNDONE for record in story.records)
    return regenerate_clone(found[0], Identities(header.job, header.run), generation), found[1]


def read_pins(path: Path) -> Pins:
    """Return the pins of the manifest at ``path``."""
    found = PinFold()
    with reading(path) as manifest:
        for body in manifest.bodies():
            line = parse_line(body) if body.startswith(b'{"pinned":') else None
            if isinstance(line, Pins):
                found.take(line)
    return found.pins
