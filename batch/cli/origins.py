"""Which layer set each parameter of a target, told from its manifest and the job file as it is now.

The manifest has no parameters, only the digest of what was sent: where the job file still gives that digest, its
layers are those of then, and where it does not, nobody can tell any more.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch import jobfile
from batch.errors import UsageError
from batch.manifest.pinned import Pinned
from batch.manifest.reading import reading
from batch.manifest.records import parse_line
from batch.model import Pins
from batch.plan import explain, pinned

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.manifest import Story
    from batch.model import Clone
    from batch.plan import Setting

_UNKNOWN: Final = "parameters: what set them is not known:"


def origin_lines(manifest: Path, story: Story) -> Iterator[str]:
    """Yield one line a parameter, or one that says why that is not known."""
    try:
        found = _explained(manifest, story)
    except UsageError as error:
        yield f"{_UNKNOWN} {str(error).splitlines()[0]}"
        return
    file = story.header.job_file
    sent = next((record.digest for record in reversed(story.records) if record.digest is not None), None)
    if found is None:
        yield f"{_UNKNOWN} {file} does not have this target any more"
    elif sent not in {None, found[0].digest}:
        yield f"{_UNKNOWN} {file} says something else now than what was sent"
    else:
        yield f"parameters, by {file}{'' if sent is None else ', as they were sent'}:"
        for name, setting in found[1].items():
            yield f"  {name:<22}{setting}"


def _explained(manifest: Path, story: Story) -> tuple[Clone, Mapping[str, Setting]] | None:
    """Find the target in the job file. Raises UsageError where the file is gone or cannot be read."""
    header = story.header
    if not header.job_file:
        raise UsageError("the manifest does not name the job file")
    job = jobfile.load(Path(header.job_file))
    if job.name != header.job:
        raise UsageError(f"{header.job_file} is of the job {job.name} now, and not of {header.job}")
    pins = _pins(manifest)
    at, sources = header.created_at, pins.sources.get
    return explain(pinned(job, pins), story.key, run=header.run, started_at=at, sources=sources)


def _pins(path: Path) -> Pins:
    found = Pinned()
    with reading(path) as manifest:
        for body in manifest.bodies():
            line = parse_line(body) if body.startswith(b'{"pinned":') else None
            if isinstance(line, Pins):
                found.take(line)
    return found.pins
