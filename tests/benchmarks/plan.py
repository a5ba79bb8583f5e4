"""Cost of validating and planning by number of targets: microseconds of processor time each, and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.stage.rounds import Table, interleaved, middle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parents[2]
SIZES = (10_000, 100_000, 1_000_000)
LIST_SIZES = (20_000, 1_000_000)
"""Targets of a YAML list: the most without a warning, and very many."""
_CHILD = """
import json, resource, sys, time
from pathlib import Path
from batch.jobfile import load
from batch.plan import Planning

def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

began = spent()
plan = Planning(load(Path("job.yaml")), run=None, started_at=0.0).plan()
planned = spent()
count = sum(1 for _ in plan.clones())
again = spent()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([count, planned - began, again - planned, peak]))
"""


@dataclass(frozen=True, slots=True)
class PlanCost:
    """One job, validated and planned in a process of its own, then streamed once more as a run does."""

    targets: int
    planned: float
    """Seconds of processor time for load, validation and plan."""
    streamed: float
    """Seconds of processor time for one more pass over the clones."""
    peak_mib: float


def write_rows(folder: Path, targets: int) -> None:
    """Write a job of ``targets`` JSON Lines rows, each with two parameters of its own."""
    (folder / "job.yaml").write_text("version: 1\nname: j\ntargets: [{from: rows.jsonl}]\n", encoding="utf-8")
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(targets):
            row = {"uuid": f"{number:032x}", "params": {"name": f"clone-{number}", "requestCpu": 4}}
            stream.write(json.dumps(row) + "\n")


def write_list(folder: Path, targets: int) -> None:
    """Write the same job as a YAML list."""
    with (folder / "job.yaml").open("w", encoding="utf-8") as stream:
        stream.write("version: 1\nname: j\ntargets:\n")
        for number in range(targets):
            stream.write(f'  - {{uuid: "{number:032x}", params: {{name: clone-{number}, requestCpu: 4}}}}\n')


def measure(folder: Path) -> PlanCost:
    """Plan the job in ``folder`` in a child process."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return PlanCost(*json.loads(done.stdout))


def costs(write: Callable[[Path, int], None], targets: int) -> PlanCost:
    """Plan a job that ``write`` makes, in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), targets)
        return measure(Path(name))


def lists(sizes: Sequence[int]) -> list[int]:
    """Return the lengths of the YAML lists if the largest of ``sizes`` is wanted."""
    return sorted({min(size, max(sizes)) for size in LIST_SIZES})


def main(rounds: int = 5, sizes: Sequence[int] = SIZES) -> None:
    """Print a row per size of JSON lines, and the YAML lists, at most as long as the largest size."""
    contenders = {f"{size} JSON lines": partial(costs, write_rows, size) for size in sizes}
    for size in lists(sizes):
        contenders[f"YAML list of {size}"] = partial(costs, write_list, size)
    table = Table(f"Load, validate and plan, {rounds} rounds", "targets", "plan us", "pass us", "peak MiB")
    for name, found in interleaved(contenders, rounds).items():
        table.row(
            name,
            middle(found, lambda one: one.planned / one.targets * 1e6),
            middle(found, lambda one: one.streamed / one.targets * 1e6),
            middle(found, lambda one: one.peak_mib),
        )
