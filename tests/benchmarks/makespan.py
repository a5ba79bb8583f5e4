"""How long N clones take, against what rate and job length allow: ``mean job + max(calls, places) + longest job``.

``calls`` is two a clone over the rate, ``places`` the time of all jobs over the clones in flight. The first table is
the engine on a virtual clock, whose rows appear at the end of their jobs; the second whole processes against an
embedded node, with and without web hooks, beside scripts with a poll a second and the same rate: GNU parallel and
requests where they are installed. The size is the number of clones.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from batch.model import Limits
from tests.benchmarks.stage.processes import run_job, settings, spend
from tests.benchmarks.stage.rounds import Table, interleaved, middle, share
from tests.benchmarks.throughput import write_requests
from tests.crash.stage import SESSION, node, write_job
from tests.engine.test_run import Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batch.zstack.answers import PollAnswer

SIZES = (400,)
_CLONE = Path(__file__).parent / "stage" / "clone.sh"
LENGTHS: dict[str, Callable[[Random], float]] = {
    "0.1 s": lambda _: 0.1,
    "0.5-1.5 s": lambda random: random.uniform(0.5, 1.5),
    "2-6 s": lambda random: random.uniform(2.0, 6.0),
    "3 s": lambda _: 3.0,
    "heavy tail": lambda random: min(60.0, random.lognormvariate(0.7, 1.0)),
    "30-90 s": lambda random: random.uniform(30.0, 90.0),
}
RATES = (10.0, 40.0, 100.0, 200.0)
PLACES = (8, 64, 200)
CHOSEN = ((40.0, 64), (100.0, 200))
"""Rates and concurrencies that are measured with whole processes."""
SPANS = {"2-6 s": (2.0, 6.0), "3 s": (3.0, 3.0)}


@dataclass(frozen=True, slots=True)
class Result:
    """One run."""

    seconds: float
    bound: float
    calls: float
    """Per clone."""
    late: float = 0.0
    """Median seconds from the end of a job to the poll that reported it."""

    @property
    def ratio(self) -> float:
        """Time over bound."""
        return self.seconds / self.bound


def bound(mean: float, longest: float, *, clones: int, rate: float, places: int) -> float:
    """Return the seconds that a client which knew every end at once would need."""
    return mean + max(2 * clones / rate, clones * mean / places) + longest


def virtual(draw: Callable[[Random], float], rate: float, places: int, clones: int) -> Result:
    """Run the engine over an in-memory server."""
    random, lengths, late = Random(1), [0.0] * 0, [0.0] * 0
    scene = Scene(count=clones, limits=Limits(rate=rate, concurrency=places), rate=rate)
    poll, submit = scene.server.poll, scene.server.submit

    async def drawn(*call: object) -> object:
        lengths.append(draw(random))
        scene.server.takes = lengths[-1]
        return await submit(*call)  # type: ignore[arg-type]

    async def noted(job_uuid: str) -> PollAnswer:
        ends = scene.server.made[scene.server.jobs[job_uuid]]
        now = scene.loop.time()
        if now >= ends:
            late.append(now - ends)
        return await poll(job_uuid)

    scene.server.submit, scene.server.poll = drawn, noted  # type: ignore[method-assign,assignment]
    scene.run()
    mean = sum(lengths) / len(lengths)
    whole = bound(mean, max(lengths), clones=clones, rate=rate, places=places)
    return Result(scene.loop.now, whole, len(scene.server.log) / clones, share(sorted(late), 0.5))


def process(command: list[str], span: tuple[float, float], rate: float, places: int, clones: int) -> Result:
    """Run a whole command against an embedded node; ``{url}`` in it is the node's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        switches = f"version: 1\nnode: {{latency: [{span[0]}, {span[1]}]}}\n"
        (folder / "node.yaml").write_text(switches, encoding="utf-8")
        with node("node.yaml", cwd=folder) as server:
            write_job(folder, clones, rate=f"{rate:.0f}/s", concurrency=places)
            write_requests(folder, server.url)
            filled = [part.replace("{url}", server.url) for part in command]
            cost = spend(filled, cwd=folder, env=settings(folder, server.url))
            books = server.ledger()
    if books["clones_made"] != clones:
        raise RuntimeError(f"{books['clones_made']} clones for {clones} targets")
    whole = bound(sum(span) / 2, span[1], clones=clones, rate=rate, places=places)
    return Result(cost.seconds, whole, sum(books["calls"].values()) / clones)


def scripts(rate: float, places: int, *, tries: int) -> dict[str, list[str]]:
    """Return the command lines of the scripts that can run on this machine; each sends what fails ``tries`` times."""
    found = {}
    for name in ("gather", "threads") if find_spec("requests") else ("gather",):
        script = [sys.executable, "-m", "tests.benchmarks.stage.scripts", name, "{url}"]
        found[name] = [*script, "targets.jsonl", str(places), str(rate), str(tries)]
    if all(map(shutil.which, ("parallel", "curl", "flock"))):
        options = ["-q", "--will-cite", f"-j{places}", "-N2", "-a", "requests"]
        found["parallel + curl"] = ["parallel", *options, "bash", str(_CLONE), str(1 / rate), str(tries), "{url}"]
        # parallel puts the two lines of a request in the place of these.
        found["parallel + curl"] += [SESSION, "{1}", "{2}"]
    return found


def contenders(span: tuple[float, float], rate: float, places: int, clones: int) -> dict[str, Callable[[], Result]]:
    """Return zclone, with and without web hooks, and the scripts that can run on this machine."""
    commands = {"zclone": run_job(), "zclone, web hooks": run_job("--webhook-listen", "127.0.0.1:0")}
    commands |= scripts(rate, places, tries=1)
    return {name: partial(process, command, span, rate, places, clones) for name, command in commands.items()}


def main(rounds: int = 5, sizes: Sequence[int] = SIZES) -> None:
    """Print both tables."""
    for clones in sizes:
        table = Table(
            f"{clones} clones, virtual clock", "jobs, rate, in flight", "s", "bound", "ratio", "calls", "late"
        )
        for name, draw in LENGTHS.items():
            for rate in RATES:
                for places in PLACES:
                    seen = virtual(draw, rate, places, clones)
                    row = f"{name}, {rate:.0f}/s, {places}"
                    table.row(row, seen.seconds, seen.bound, seen.ratio, seen.calls, seen.late)
        table = Table(f"{clones} clones, whole processes, {rounds} rounds", "", "s", "bound", "ratio", "calls")
        for name, span in SPANS.items():
            for rate, places in CHOSEN:
                for who, found in interleaved(contenders(span, rate, places, clones), rounds).items():
                    figures = [middle(found, lambda one: one.seconds), found[0].bound]
                    figures += [middle(found, lambda one: one.ratio), middle(found, lambda one: one.calls)]
                    table.row(f"{name}, {rate:.0f}/s, {places}: {who}", *figures)
