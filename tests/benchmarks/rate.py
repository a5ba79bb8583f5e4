"""The gate on the real clock: the share of the rate that is reached, the fullest second, and the cost of waiting."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from batch.clock import SystemClock
from batch.engine.gate import Gate, hard_cap
from batch.model import CallKind
from tests.benchmarks.stage.eventloop import run
from tests.benchmarks.stage.rounds import Table, interleaved, middle

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = (1, 7.5, 10, 40, 100, 200)
WAITERS = (1, 8, 64, 512)
SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Kept:
    """One round at one rate."""

    mean: float
    """Calls a second, over the set rate."""
    worst: int
    """Most calls in any one second."""
    processor: float
    """Share of a core."""


def measure(rate: float, waiters: int, seconds: float = SECONDS) -> Kept:
    """Let ``waiters`` pass the gate repeatedly for ``seconds``."""
    passed: list[float] = []

    async def wait(gate: Gate) -> None:
        while True:
            await gate.wait(CallKind.QUESTION)
            passed.append(time.monotonic())

    async def work() -> None:
        gate = Gate(rate, cap=hard_cap(rate), clock=SystemClock())
        waiting = [asyncio.ensure_future(wait(gate)) for _ in range(waiters)]
        await asyncio.sleep(seconds)
        for waiter in waiting:
            waiter.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    processor_time = time.process_time()
    run(work())
    processor_time = time.process_time() - processor_time
    return Kept(reached(passed, rate), fullest_second(passed), processor_time / seconds)


def reached(times: Sequence[float], rate: float) -> float:
    """Return calls a second over the ``rate``, over whole seconds' worth of calls: windows start with a lead."""
    count = int((len(times) - 1) // rate * rate) or len(times) - 1
    return count / (times[count] - times[0]) / rate


def fullest_second(times: Sequence[float]) -> int:
    """Return how many of the sorted ``times`` lie in the fullest second."""
    first = worst = 0
    for number, at in enumerate(times):
        while at - times[first] >= 1.0:
            first += 1
        worst = max(worst, number - first + 1)
    return worst


def main(rounds: int = 5, sizes: Sequence[float] = SIZES) -> None:
    """Print a row per rate (the sizes) and number of waiters."""
    table = Table(
        f"{SECONDS:.0f} s each, 20 calls at least, {rounds} rounds",
        "asked, waiters",
        "mean/asked",
        "worst 1 s",
        "over",
        "core",
    )
    contenders = {
        (rate, waiters): partial(measure, rate, waiters, max(SECONDS, 20 / rate))
        for rate in sizes
        for waiters in WAITERS
    }
    named = {f"{rate}/s, {waiters}": contender for (rate, waiters), contender in contenders.items()}
    rates = dict(zip(named, (rate for rate, _ in contenders), strict=True))
    for name, found in interleaved(named, rounds).items():
        worst = max(one.worst for one in found)
        mean, core = middle(found, lambda one: one.mean), middle(found, lambda one: one.processor)
        table.row(name, f"{mean:.3f}", worst, worst - rates[name], f"{core:.1%}")
