"""Share of a core that a run takes while the gate passes as many calls as a ZStack server admits.

The sizes are calls a second. The figures are a long run less a short one, so that start-up, planning and ending do not
count. The row of the script, which has no journal and no log, shows what the machine needs for the calls alone: a core
that sleeps between calls can need twice the processor time of one that is kept awake by another program.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.makespan import scripts
from tests.benchmarks.stage.processes import light_server, run_job, settings, spend
from tests.benchmarks.stage.rounds import Table, interleaved, middle
from tests.crash.stage import write_job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = (200,)
JOB_SECONDS = 0.5
_SHORT = 2.0
_LONG = 12.0
"""Seconds' worth of POSTs; each clone is polled too, so that a run takes about twice as long."""


@dataclass(frozen=True, slots=True)
class Steady:
    """The difference between a short run and a long one."""

    processor: float
    """Seconds of processor time."""
    seconds: float
    calls: int

    @property
    def core(self) -> float:
        """Share of a core."""
        return self.processor / self.seconds


def measure(rate: int, command: Sequence[str], *, extras: bool = True) -> Steady:
    """Clone through api jobs at ``rate`` calls a second, for a short time and for a long one."""
    short, long = (_run(rate, int(rate * seconds), command, extras=extras) for seconds in (_SHORT, _LONG))
    return Steady(long.processor - short.processor, long.seconds - short.seconds, long.calls - short.calls)


def _run(rate: int, targets: int, command: Sequence[str], *, extras: bool) -> Steady:
    with tempfile.TemporaryDirectory() as name, light_server(JOB_SECONDS) as server:
        folder = Path(name)
        write_job(folder, targets, rate=f"{rate}/s", concurrency=2 * rate)
        filled = [part.replace("{url}", server.url) for part in command]
        cost = spend(filled, cwd=folder, env=settings(folder, server.url, extras=extras))
        seen = server.figures()
    return Steady(cost.processor, cost.seconds, seen.posts + seen.polls)


def contenders(rate: int) -> dict[str, Callable[[], Steady]]:
    """Return zclone, with and without the extra [speed], and a script at the same rate."""
    script = scripts(float(rate), 2 * rate, tries=1)["gather"]
    return {
        f"{rate}/s": partial(measure, rate, run_job()),
        f"{rate}/s without [speed]": partial(measure, rate, run_job(), extras=False),
        f"{rate}/s, asyncio.gather": partial(measure, rate, script),
    }


def main(rounds: int = 3, sizes: Sequence[int] = SIZES) -> None:
    """Print three rows per rate."""
    named = {name: contender for rate in sizes for name, contender in contenders(rate).items()}
    table = Table(f"api jobs of {JOB_SECONDS} s, {rounds} rounds", "rate", "core", "us/call", "calls/s")
    for name, found in interleaved(named, rounds).items():
        table.row(
            name,
            f"{middle(found, lambda one: one.core):.1%}",
            middle(found, lambda one: one.processor / one.calls * 1e6),
            middle(found, lambda one: one.calls / one.seconds),
        )
