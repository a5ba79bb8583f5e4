"""How often an api job is polled, how late its end is noticed, and what share of the ideal speed that leaves.

The ideal knows each end at once: the lengths of all jobs, divided by the clones in flight. The sizes are milliseconds
that a job takes; each is drawn up to 30 % shorter or longer.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.stage.processes import Figures, light_server, run_job, settings, spend
from tests.benchmarks.stage.rounds import Table, interleaved, middle, share
from tests.crash.stage import write_job

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = (100, 1_000, 5_000, 20_000)
WORKERS = 64
TURNS = 10
"""Clones that each worker makes: enough for the pace to be learned."""
SPREAD = 0.3


def measure(milliseconds: int, turns: int = TURNS) -> Figures:
    """Clone through jobs of that length."""
    with tempfile.TemporaryDirectory() as name, light_server(milliseconds / 1000, SPREAD) as server:
        folder = Path(name)
        write_job(folder, WORKERS * turns, rate="2000/s", concurrency=WORKERS)
        spend(run_job(), cwd=folder, env=settings(folder, server.url))
        seen = server.figures()
    if len(seen.late) < seen.posts:
        raise RuntimeError("not every end was seen")
    return seen


def efficiency(seen: Figures) -> float:
    """Return the ideal's time over the run's; the first clone, which goes alone, counts for both."""
    alone = seen.drawn / seen.posts
    return (alone + (seen.drawn - alone) / WORKERS) / seen.makespan


def main(rounds: int = 5, sizes: Sequence[int] = SIZES) -> None:
    """Print a row per length of a job."""
    columns = ("polls/clone", "late p50 s", "late p95 s", "late p50 %", "of ideal")
    table = Table(f"{WORKERS * TURNS} clones, {WORKERS} in flight, {rounds} rounds", "job", *columns)
    for name, found in interleaved({f"{size} ms": partial(measure, size) for size in sizes}, rounds).items():
        table.row(
            name,
            middle(found, lambda one: one.polls / one.posts),
            middle(found, lambda one: share(one.late, 0.5)),
            middle(found, lambda one: share(one.late, 0.95)),
            middle(found, lambda one: share(one.late, 0.5) / (one.drawn / one.posts) * 100),
            f"{middle(found, efficiency):.0%}",
        )
