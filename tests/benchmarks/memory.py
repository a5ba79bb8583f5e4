"""Peak memory of a run by number of targets and form of the job file, and of finding a duplicate key at its end."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.plan import lists, write_list, write_rows
from tests.benchmarks.stage.processes import ProcessCost, light_server, run_job, settings, spend, zclone
from tests.benchmarks.stage.rounds import Table, interleaved, middle
from tests.benchmarks.throughput import FASTEST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = (10_000, 100_000, 1_000_000)
_LIMITS = ("--rate", FASTEST, "--concurrency", "64")


def run(write: Callable[[Path, int], None], targets: int) -> ProcessCost:
    """Clone every target of the job that ``write`` makes."""
    with tempfile.TemporaryDirectory() as name, light_server() as server:
        folder = Path(name)
        write(folder, targets)
        cost = spend(run_job(*_LIMITS), cwd=folder, env=settings(folder, server.url))
        if server.figures().posts != targets:
            raise RuntimeError("not every target was sent")
    return cost


def refuse(targets: int) -> ProcessCost:
    """Let ``validate`` find that the last row duplicates the first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, targets)
        with (folder / "rows.jsonl").open("r+b") as stream:
            first = stream.readline()
            stream.seek(0, 2)
            stream.write(first)
        return spend(zclone("validate", "job.yaml"), cwd=folder, env=settings(folder), expected=2)


def main(rounds: int = 5, sizes: Sequence[int] = SIZES) -> None:
    """Print two rows per size (targets), and one for each YAML list."""
    contenders: dict[str, Callable[[], ProcessCost]] = {}
    for size in sizes:
        contenders[f"run, {size} JSON lines"] = partial(run, write_rows, size)
        contenders[f"doubled key found, {size} lines"] = partial(refuse, size)
    for size in lists(sizes):
        contenders[f"run, YAML list of {size}"] = partial(run, write_list, size)
    table = Table(f"Peak memory, {rounds} rounds", "command", "MiB", "seconds", "cpu s")
    for name, found in interleaved(contenders, rounds).items():
        table.row(
            name,
            middle(found, lambda one: one.peak_mib),
            middle(found, lambda one: one.seconds),
            middle(found, lambda one: one.processor),
        )
