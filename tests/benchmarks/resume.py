"""``run`` of a finished manifest to its exit, and ``status`` of it: seconds, processor time and peak memory by size.

Nothing listens at the endpoint: a run that called the server would fail.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.stage.manifests import URL, write_finished
from tests.benchmarks.stage.processes import ProcessCost, run_job, settings, spend, zclone
from tests.benchmarks.stage.rounds import Table, interleaved, middle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = (10_000, 100_000, 1_000_000)


def commands(folder: Path) -> dict[str, Callable[[], ProcessCost]]:
    """Return the commands to measure on the manifest in ``folder``."""
    env = settings(folder, URL)
    return {
        "run": partial(spend, run_job(), cwd=folder, env=env),
        "status": partial(spend, zclone("status", "manifest.jsonl"), cwd=folder, env=env),
    }


def main(rounds: int = 5, sizes: Sequence[int] = SIZES) -> None:
    """Print two rows per size (targets)."""
    table = Table(f"Finished manifests, {rounds} rounds", "command", "targets", "MB", "seconds", "cpu s", "MiB")
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            path = write_finished(Path(name), size)
            for command, found in interleaved(commands(Path(name)), rounds).items():
                table.row(
                    command,
                    size,
                    path.stat().st_size / 1e6,
                    middle(found, lambda one: one.seconds),
                    middle(found, lambda one: one.processor),
                    middle(found, lambda one: one.peak_mib),
                )
