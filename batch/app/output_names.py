"""Templates in the names of a run's output files: ``${run}``, ``${date}`` and ``${name}``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from batch.errors import UsageError
from batch.plan.render import RenderError, RunNames, render

if TYPE_CHECKING:
    from batch.app.options import RunOptions
    from batch.jobfile import Job


def is_template(path: Path) -> bool:
    """Return whether the name depends on the run."""
    return "${" in str(path)


def name_outputs(options: RunOptions, job: Job, *, run: str, began: float) -> RunOptions:
    """Return ``options`` with the names of report, metrics and log file rendered.

    ``began``: start of the run, seconds since the epoch, so that a run past midnight keeps writing the same files.
    Raises UsageError for an unknown name.
    """
    names = {"run": run, "date": RunNames.at(began, job.name, job.timezone).date, "name": job.name}

    def render_path(flag: str, path: Path | None) -> Path | None:
        if path is None or not is_template(path):
            return path
        try:
            return Path(render(str(path), names))
        except RenderError as error:
            raise UsageError(f"{flag} {path}: {error}") from None

    return replace(
        options,
        report=render_path("--report", options.report),
        metrics_file=render_path("--metrics-file", options.metrics_file),
        log_file=render_path("--log-file", options.log_file),
    )
