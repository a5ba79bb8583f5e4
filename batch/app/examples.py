"""The job files that ``zclone init`` writes, with the files they refer to and the JSON Schema for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from batch import outputs
from batch.app.options import Example
from batch.errors import UsageError
from batch.jobfile.schema import job_schema
from batch.text import to_json

SCHEMA: Final = "job.schema.json"
"""File name of the schema, as the modeline of job files gives it."""
_HERE: Final = Path(__file__).resolve()
_STARTER: Final = _HERE.with_name("starter.yaml")
_DEFAULT: Final = Path("job.yaml")


_FILES: Final = {
    Example.MIGRATE: ("migrate-arm64.yaml", "migrate-arm64.jsonl"),
    Example.NIGHTLY: ("nightly.yaml",),
    Example.TENANTS: ("onboard-tenants.yaml", "tenants.csv"),
}
"""Files of each example: the job file, then the files it refers to."""


def write_example(example: Example | None, file: Path | None) -> list[Path]:
    """Write an example's job file to ``file``, with its other files and the schema beside it; return the paths.

    ``example``: None for the commented starter job file. ``file``: None for the default name in this folder. An
    existing schema is kept. Raises UsageError, and writes nothing, if another of the files exists.
    """
    if example is None:
        texts = {file or _DEFAULT: _STARTER.read_text(encoding="utf-8")}
    else:
        name, *others = _FILES[example]
        main = file or Path(name)
        texts = {main: _read(name), **{main.parent / other: _read(other) for other in others}}
    folder = next(iter(texts)).parent
    for path in texts:
        if path.exists():
            raise UsageError(f"{path}: File exists: name another, as in zclone init FILE, or move it away")
    for path, text in texts.items():
        outputs.write_new(path, text, mode=outputs.PUBLIC)
    return [*texts, *write_schema(folder)]


def write_schema(folder: Path) -> list[Path]:
    """Write the job file schema into ``folder`` unless it exists; return the paths written. Raises UsageError."""
    path = folder / SCHEMA
    if path.exists():
        return []
    outputs.write_new(path, to_json(job_schema(), indent=2) + "\n", mode=outputs.PUBLIC)
    return [path]


def _read(name: str) -> str:
    """Return the text of a file in ``jobs/``, which a wheel ships as ``batch/examples/``."""
    package = _HERE.parents[1]
    shipped = package / "examples"
    folder = shipped if shipped.is_dir() else package.parent / "jobs"
    return (folder / name).read_text(encoding="utf-8")
