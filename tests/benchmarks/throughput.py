"""Clones a second where the server answers at once: zclone with journal and log, against what one would write instead.

Rates are POSTs a second by the server's clock, from the first to the last, so that no start-up counts; ``whole`` is
clones a second of the whole command, from its start to its exit.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from batch.jobfile.values import MAX_RATE
from tests.benchmarks.stage.processes import Figures, ProcessCost, light_server, run_job, settings, spend
from tests.benchmarks.stage.rounds import Table, interleaved, middle, ratio
from tests.crash.stage import SESSION, write_job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = (20_000,)
WORKERS = 64
FASTEST = f"{MAX_RATE:.0f}/s"
"""A rate has to be set; this one is never reached."""
_SLOWER = {"threads": 10, "parallel": 50, "xargs": 50}
"""How many times fewer targets a contender gets, to end in the same time as the others."""
_CURL = ["curl", "-sf", "-o", "/dev/null", "-X", "POST", "-H", "Content-Type: application/json;charset=UTF-8"]


@dataclass(frozen=True, slots=True)
class Result:
    """One contender's round."""

    spent: ProcessCost
    seen: Figures

    @property
    def rate(self) -> float:
        """Clones a second, by the server's clock."""
        return self.seen.rate

    @property
    def whole(self) -> float:
        """Clones a second of the whole command."""
        return self.seen.posts / self.spent.seconds

    @property
    def cost(self) -> float:
        """Microseconds of processor time a clone, start-up included."""
        return self.spent.processor / self.seen.posts * 1e6


def measure(command: Callable[[str], list[str]], targets: int, *, extras: bool = True) -> Result:
    """Clone ``targets`` rows by the command made for the server's url, in a folder of its own."""
    with tempfile.TemporaryDirectory() as name, light_server() as server:
        folder = Path(name)
        write_job(folder, targets, rate=FASTEST, concurrency=WORKERS)
        write_requests(folder, server.url)
        spent = spend(command(server.url), cwd=folder, env=settings(folder, server.url, extras=extras))
        seen = server.figures()
    if seen.posts != targets:
        raise RuntimeError(f"{seen.posts} POSTs for {targets} targets")
    return Result(spent, seen)


def write_requests(folder: Path, url: str) -> None:
    """Write each row's body and url in two lines, as xargs and parallel read them."""
    with (folder / "targets.jsonl").open("rb") as rows, (folder / "requests").open("w", encoding="utf-8") as stream:
        for row in map(json.loads, rows):
            stream.write(f"{json.dumps({'params': row['params']})}\n{url}/v1/ai/model-services/{row['uuid']}\n")


def loop(name: str, url: str, *, workers: int = WORKERS) -> list[str]:
    """Return the command line of a script in ``stage/loops.py``."""
    return [sys.executable, "-m", "tests.benchmarks.stage.loops", name, url, "targets.jsonl", str(workers)]


def ours(_url: str) -> list[str]:
    """Return the command line of zclone, its log going to stderr and so to a file."""
    return run_job()


def ours_in_detail(_url: str) -> list[str]:
    """Return the same with a log file, which has every detail."""
    return run_job("--log-file", "log")


def _parallel(_url: str) -> list[str]:
    curl = [*_CURL, "-H", f"Authorization:OAuth {SESSION}"]
    options = ["-q", "--will-cite", "-j64", "-N2", "--joblog", "joblog", "-a", "requests"]
    return ["parallel", *options, *curl, "--data", "{1}", "{2}"]


def _xargs(_url: str) -> list[str]:
    curl = [*_CURL, "-H", f"Authorization: OAuth {SESSION}"]
    return ["xargs", "-a", "requests", "-d", "\n", "-n", "2", "-P64", *curl, "--data"]


def contenders(targets: int) -> dict[str, Callable[[], Result]]:
    """Return the ones that can run on this machine; each one's rival is named in RIVALS."""
    found: dict[str, Callable[[], Result]] = {
        "tuned loop": partial(measure, partial(loop, "tuned"), targets),
        "zclone": partial(measure, ours, targets),
        "zclone --log-file": partial(measure, ours_in_detail, targets),
        "stdlib loop": partial(measure, partial(loop, "tuned"), targets, extras=False),
        "zclone without [speed]": partial(measure, ours, targets, extras=False),
        "naive gather": partial(measure, partial(loop, "naive"), targets),
    }
    if find_spec("requests"):
        rows = max(1, targets // _SLOWER["threads"])
        found["16 threads + requests"] = partial(measure, partial(loop, "threads", workers=16), rows)
    for name, command in (("parallel", _parallel), ("xargs", _xargs)):
        if shutil.which(name) and shutil.which("curl"):
            found[f"{name} -64 + curl"] = partial(measure, command, max(1, targets // _SLOWER[name]))
    return found


def rival(name: str) -> str:
    """Return which contender's rate a row is divided by."""
    return "stdlib loop" if name == "zclone without [speed]" else "tuned loop"


def main(rounds: int = 5, sizes: Sequence[int] = SIZES) -> None:
    """Print a row per contender: against its bare loop, and how many times faster zclone is."""
    for size in sizes:
        results = interleaved(contenders(size), rounds)
        table = Table(
            f"{size} clones, {WORKERS} in flight, {rounds} rounds",
            *("contender", "clones/s", "x bare", "zclone x", "whole/s", "zclone x whole", "us/clone", "MiB", "server"),
        )
        for name, found in results.items():
            table.row(
                name,
                middle(found, lambda one: one.rate),
                ratio(found, results[rival(name)], lambda one: one.rate),
                ratio(results["zclone"], found, lambda one: one.rate),
                middle(found, lambda one: one.whole),
                ratio(results["zclone"], found, lambda one: one.whole),
                middle(found, lambda one: one.cost),
                middle(found, lambda one: one.spent.peak_mib),
                f"{middle(found, lambda one: one.seen.processor / one.seen.seconds):.0%}",
            )
        print("server: its share of a core; near 100 % it was the slow half.")
