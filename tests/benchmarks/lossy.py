"""Clones over a server that loses 2 % of the answers to POSTs and fails 3 % of the jobs temporarily.

Whole processes at 200 calls a second: time, calls, and the duplicates and gaps in the node's ledger. The scripts send
what fails in any way once, or up to four times as zclone does. The size is the number of clones.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.makespan import scripts
from tests.benchmarks.stage.processes import run_job, settings, spend
from tests.benchmarks.stage.rounds import Table, interleaved, middle
from tests.benchmarks.throughput import write_requests
from tests.crash.stage import node, write_job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = (2000,)
RATE = 200.0
PLACES = 200
_NODE = """\
version: 1
node: {latency: [0.5, 1.5]}
faults:
  - {fault: lost_reply, on: submit, probability: 0.02, seconds: 0.2}
  - {fault: fail, on: submit, probability: 0.03, code: SYS.1011}
"""


@dataclass(frozen=True, slots=True)
class Result:
    """One run, by the node's ledger."""

    seconds: float
    calls: float
    """Per target."""
    duplicates: int
    """Clones beyond the first of a target."""
    holes: int
    """Targets without a clone."""
    exit_code: int


def measure(command: list[str], clones: int) -> Result:
    """Run a whole command against an embedded node; ``{url}`` in it is the node's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "node.yaml").write_text(_NODE, encoding="utf-8")
        with node("node.yaml", cwd=folder) as server:
            write_job(folder, clones, rate=f"{RATE:.0f}/s", concurrency=PLACES)
            write_requests(folder, server.url)
            filled = [part.replace("{url}", server.url) for part in command]
            cost = spend(filled, cwd=folder, env=settings(folder, server.url), expected=None)
            books = server.ledger()
    made: Counter[str] = Counter(books["clones_per_source"])
    calls = sum(books["calls"].values()) / clones
    return Result(cost.seconds, calls, made.total() - len(made), clones - len(made), cost.exit_code)


def contenders(clones: int) -> dict[str, Callable[[], Result]]:
    """Return zclone, with and without web hooks, and the scripts that can run on this machine."""
    commands = {"zclone": run_job(), "zclone, web hooks": run_job("--webhook-listen", "127.0.0.1:0")}
    for tries in (1, 4):
        commands |= {f"{name}, tries: {tries}": line for name, line in scripts(RATE, PLACES, tries=tries).items()}
    return {name: partial(measure, command, clones) for name, command in commands.items()}


def main(rounds: int = 3, sizes: Sequence[int] = SIZES) -> None:
    """Print a row per contender: medians of time and calls, the worst of the rest."""
    for clones in sizes:
        title = f"{clones} clones at {RATE:.0f}/s, {PLACES} in flight, 2 % lost and 3 % failing, {rounds} rounds"
        table = Table(title, "", "s", "calls", "duplicates", "holes", "exit")
        for who, found in interleaved(contenders(clones), rounds).items():
            table.row(
                who,
                middle(found, lambda one: one.seconds),
                middle(found, lambda one: one.calls),
                max(one.duplicates for one in found),
                max(one.holes for one in found),
                "/".join(sorted({str(one.exit_code) for one in found})),
            )
