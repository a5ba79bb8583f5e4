"""Cost per target before the first POST, and the memory of a run, by number of targets."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.stage.rounds import Table, interleaved, middle
from tests.crash.stage import node, start, write_job

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

SIZES = (10_000, 100_000, 300_000)
_SETTLING = 5.0
"""Seconds of cloning before the memory is read."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One run, stopped some seconds after its first POST."""

    targets: int
    first_post: float
    """Seconds from the start of the process."""
    processor: float
    """Seconds of processor time until then."""
    peak_mib: float

    @property
    def per_target(self) -> float:
        """Microseconds of processor time, the start of the interpreter included."""
        return self.processor / self.targets * 1e6


def measure(targets: int) -> Cost:
    """Start a run of ``targets`` JSONL rows against an embedded node, and stop it after its first clones."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_job(folder, targets, rate="2000/s", concurrency=32)
        with node("calm", cwd=folder) as served:
            began = time.time()
            process = start(["run", "job.yaml", "--progress", "none", "--log-file", "log"], cwd=folder, url=served.url)
            while "submit" not in served.ledger()["calls"]:
                if process.poll() is not None:
                    raise RuntimeError(process.communicate()[1])
                time.sleep(0.05)
            spent = _processor_seconds(process)
            ledger = served.ledger()
            first = ledger["call_times"][ledger["call_kinds"].index("submit")] - began
            time.sleep(_SETTLING)
            peak = _peak_mib(process)
            process.send_signal(signal.SIGTERM)
            process.communicate()
    return Cost(targets, first, spent, peak)


def _processor_seconds(process: subprocess.Popen[str]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mib(process: subprocess.Popen[str]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main(rounds: int = 5, sizes: Sequence[int] = SIZES) -> None:
    """Print a row per size (targets)."""
    table = Table(f"Before the first POST, {rounds} rounds", "targets", "seconds", "cpu us each", "peak MiB")
    for name, found in interleaved({str(size): partial(measure, size) for size in sizes}, rounds).items():
        table.row(
            name,
            middle(found, lambda one: one.first_post),
            middle(found, lambda one: one.per_target),
            middle(found, lambda one: one.peak_mib),
        )
