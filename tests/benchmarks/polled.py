"""Clones a second where each POST is answered 202 and polled: zclone against a bare loop that makes the same calls.

The bare loop waits before its polls as zclone does, with the same code, so that only the work differs. Many are in
flight, so that the client is the slow half and not the wait.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.stage.processes import light_server, run_job, settings, spend
from tests.benchmarks.stage.rounds import Table, interleaved, middle, ratio
from tests.benchmarks.throughput import FASTEST, Result, loop
from tests.crash.stage import write_job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = (20_000,)
WORKERS = 1024
JOB_SECONDS = 0.05


def measure(command: Callable[[str], list[str]], targets: int) -> Result:
    """Clone ``targets`` rows through api jobs."""
    with tempfile.TemporaryDirectory() as name, light_server(JOB_SECONDS) as server:
        folder = Path(name)
        write_job(folder, targets, rate=FASTEST, concurrency=WORKERS)
        process_cost = spend(command(server.url), cwd=folder, env=settings(folder, server.url))
        seen = server.figures()
    if len(seen.late) < targets:
        raise RuntimeError(f"{len(seen.late)} ends seen of {targets} targets")
    return Result(process_cost, seen)


def rate(one: Result) -> float:
    """Return clones a second, from the first POST to the last end."""
    return one.seen.posts / one.seen.makespan


def calls(one: Result) -> float:
    """Return calls per clone."""
    return (one.seen.posts + one.seen.polls) / one.seen.posts


def main(rounds: int = 5, sizes: Sequence[int] = SIZES) -> None:
    """Print two rows per size (targets)."""
    for size in sizes:
        results = interleaved(
            {
                "tuned loop": partial(measure, partial(loop, "tuned", workers=WORKERS), size),
                "zclone": partial(measure, lambda _: run_job(), size),
            },
            rounds,
        )
        table = Table(
            f"{size} clones with api jobs of {JOB_SECONDS} s, {WORKERS} in flight, {rounds} rounds",
            *("contender", "clones/s", "x bare", "calls/clone", "us/clone", "MiB", "server"),
        )
        for name, found in results.items():
            table.row(
                name,
                middle(found, rate),
                ratio(found, results["tuned loop"], rate),
                middle(found, calls),
                middle(found, lambda one: one.cost),
                middle(found, lambda one: one.spent.peak_mib),
                f"{middle(found, lambda one: one.seen.processor / one.seen.makespan):.0%}",
            )
