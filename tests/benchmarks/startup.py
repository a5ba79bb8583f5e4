"""Processor time of each command on a small job and on a manifest of 10,000 targets, beside an interpreter alone."""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.stage.manifests import URL, write_finished
from tests.benchmarks.stage.processes import ProcessCost, run_job, settings, spend, zclone
from tests.benchmarks.stage.rounds import Table, interleaved, middle
from tests.crash.stage import write_job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = (10_000,)
_SMALL = 10
_MANIFEST = "manifest.jsonl"
_KEY = f"{1:032x}"
ON_A_JOB = {
    "--help": ["--help"],
    "--version": ["--version"],
    "run --help": ["run", "--help"],
    "schema": ["schema"],
    "validate": ["validate", "job.yaml"],
    "plan": ["plan", "job.yaml"],
}
ON_A_MANIFEST = {
    "status": ["status", _MANIFEST],
    "list": ["list", _MANIFEST, "-o", "jsonl"],
    "list --state failed": ["list", _MANIFEST, "--state", "failed"],
    "show": ["show", _MANIFEST, _KEY],
    "report": ["report", _MANIFEST, "--out", "report.csv"],
}


def commands(small: Path, large: Path) -> dict[str, Callable[[], ProcessCost]]:
    """Return the commands to measure: a job in one folder, a finished run in the other."""
    made: dict[str, Callable[[], ProcessCost]] = {}
    made["python -c pass"] = partial(spend, [sys.executable, "-c", "pass"], cwd=small, env=settings(small))
    for name, arguments in ON_A_JOB.items():
        made[name] = partial(spend, zclone(*arguments), cwd=small, env=settings(small))
    for name, arguments in ON_A_MANIFEST.items():
        made[name] = partial(spend, zclone(*arguments), cwd=large, env=settings(large))
    made["run of a finished job"] = partial(spend, run_job(), cwd=large, env=settings(large, URL))
    return made


def main(rounds: int = 5, sizes: Sequence[int] = SIZES) -> None:
    """Print a row per command; the size is the manifest's."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            small, large = Path(one), Path(other)
            write_job(small, _SMALL)
            write_finished(large, size)
            table = Table(f"Commands, manifest of {size}, {rounds} rounds", "command", "cpu s", "seconds", "MiB")
            for name, found in interleaved(commands(small, large), rounds).items():
                table.row(
                    name,
                    middle(found, lambda one: one.processor),
                    middle(found, lambda one: one.seconds),
                    middle(found, lambda one: one.peak_mib),
                )
