"""The longest stalls of the event loop in a whole run, and what the main thread did in them."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.stage.processes import light_server, settings, spend
from tests.benchmarks.stage.rounds import Table, interleaved, middle
from tests.benchmarks.throughput import FASTEST
from tests.crash.stage import write_job

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = (100_000,)
_SHOWN = 5
_WORKERS = 64


@dataclass(frozen=True, slots=True)
class Stall:
    """One pause of the loop, in seconds."""

    seconds: float
    processor: float
    """Processor time of the main thread in it; the rest was waiting."""
    collector: float
    """Time in the garbage collector."""
    seen: str
    """The most frequent place of the main thread in the stall; empty if none was sampled."""


def measure(targets: int, workers: int = _WORKERS) -> list[Stall]:
    """Run ``targets`` rows and return the worst stalls, the longest first."""
    with tempfile.TemporaryDirectory() as name, light_server() as server:
        folder = Path(name)
        write_job(folder, targets, rate=FASTEST, concurrency=workers)
        command = [sys.executable, "-m", "tests.benchmarks.stage.watched", "stalls.json"]
        spend([*command, "run", "job.yaml", "--progress", "none"], cwd=folder, env=settings(folder, server.url))
        found = json.loads((folder / "stalls.json").read_text(encoding="utf-8"))
        if server.figures().posts != targets:
            raise RuntimeError("not every target was sent")
    return [Stall(**stall) for stall in found["stalls"]]


def main(rounds: int = 5, sizes: Sequence[int] = SIZES) -> None:
    """Print the longest stall of each round's run and, of the last run, where the worst ones were."""
    for size in sizes:
        found = interleaved({"run": partial(measure, size)}, rounds)["run"]
        table = Table(f"Run of {size} targets, {rounds} rounds", "stall, ms", "wall", "cpu", "collector")
        rows = {"longest, median of rounds": [stalls[0] for stalls in found]}
        rows |= {f"last round, number {number}": [stall] for number, stall in enumerate(found[-1][:_SHOWN], 1)}
        for name, stalls in rows.items():
            table.row(
                name,
                middle(stalls, lambda one: one.seconds * 1000),
                middle(stalls, lambda one: one.processor * 1000),
                middle(stalls, lambda one: one.collector * 1000),
            )
        for number, stall in enumerate(found[-1][:_SHOWN], 1):
            print(f"{number}: {stall.seen or 'nothing to be seen'}")
