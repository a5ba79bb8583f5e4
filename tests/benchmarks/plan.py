"""What validating and planning cost by number of targets: microseconds of processor time each, and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SIZES = (10_000, 100_000, 1_000_000)
LIST_SIZE = 20_000
"""The most that a YAML list holds."""
_CHILD = """
import json, resource, sys, time
from pathlib import Path
from batch.jobfile import load
from batch.plan import expand

def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

began = spent()
plan = expand(load(Path("job.yaml")), run=None, started_at=0.0)
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


def main() -> None:
    """Print a row per size."""
    print(f"{'targets':>9} {'from':>6} {'plan us':>8} {'pass us':>8} {'peak MiB':>9}")
    for kind, write, size in [("jsonl", write_rows, size) for size in SIZES] + [("yaml", write_list, LIST_SIZE)]:
        with tempfile.TemporaryDirectory() as name:
            write(Path(name), size)
            cost = measure(Path(name))
        planned, streamed = (seconds / cost.targets * 1e6 for seconds in (cost.planned, cost.streamed))
        print(f"{cost.targets:9} {kind:>6} {planned:8.1f} {streamed:8.1f} {cost.peak_mib:9.0f}")
