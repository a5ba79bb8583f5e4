"""The cost of a run on Temporal beside one process: ``python -m tests.temporal.measure [TARGETS [RATE]]``.

With ``--kills [--at-most-once]``: the run on Temporal undisturbed, then the same with a worker, the Temporal server and
the command each killed once. Lost, phantom and duplicate clones, and at most once second POSTs, end it with an error.

Three workers with a third of the rate each, lost replies, jobs of 0.5 to 2 s, payloads encrypted. Processor time
depends less on the machine's load than seconds do.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import secrets
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from batch.app.temporal import connect_temporal
from batch.errors import ExitCode
from tests.crash.stage import node, rows, write_job
from tests.temporal.stage import faults, staged, temporal_server

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.crash.stage import NodeProcess
    from tests.temporal.stage import Stage

_FAULTS: Final = """
version: 1
node: {latency: [0.5, 2.0]}
faults:
  - {fault: lost_reply, probability: 0.03}
"""
_WORKERS: Final = 3
_MISSING: Final = 10.0
"""Seconds between a kill and the start of the same part."""
_LONGEST: Final = 7200.0
"""Seconds after which a run is given up."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def processor_of(pid: int) -> float:
    """Return the processor seconds of a running process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def processor_of_children() -> float:
    """Return the processor seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def events(stage: Stage) -> tuple[int, int]:
    """Return how many events all workflows of the namespace have, and the longest history."""
    client = (await connect_temporal(stage.settings)).client
    found = [one.history_length async for one in client.list_workflows()]
    return sum(found), max(found)


def timed(stage: Stage, *arguments: str) -> tuple[float, float]:
    """Run the job; return the seconds and the processor seconds of its command."""
    began, used = time.monotonic(), processor_of_children()
    code, output = stage.run("run", "job.yaml", "--progress", "none", *arguments, timeout=3600)
    assert code == 0, output
    return time.monotonic() - began, processor_of_children() - used


def calls_while_working(ledger: dict[str, Any]) -> float:
    """Return the calls a second from the second POST to the last, by the node's clock: the first clone goes alone."""
    timeline = zip(ledger["call_times"], ledger["call_kinds"], strict=True)
    _, first, *_, last = sorted(at for at, kind in timeline if kind == "submit")
    return float(sum(first <= at < last for at in ledger["call_times"]) / (last - first))


@contextmanager
def prepared(targets: int, rate: int) -> Iterator[tuple[Stage, NodeProcess]]:
    """Prepare a job and a key, and serve Temporal and a node until the end of the block."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_job(place, targets, concurrency=4 * rate)
        (place / "key").write_text(secrets.token_hex(32), encoding="utf-8")
        (place / "key").chmod(0o600)
        with (
            temporal_server(place) as server,
            node(faults(place, _FAULTS), cwd=place) as served,
            staged(place, served.url, server) as stage,
        ):
            stage.others = {"ZCLONE_TEMPORAL_KEY_FILE": str(place / "key")}
            yield stage, served


def start_worker(stage: Stage, rate: int) -> None:
    """Start a worker with its share of the rate."""
    stage.work(rate=f"{rate}/s", share=f"1/{_WORKERS}")


def longest_pause(ledger: dict[str, Any]) -> float:
    """Return the longest time between two calls, in seconds."""
    times: list[float] = sorted(ledger["call_times"])
    return max(after - before for before, after in pairwise(times))


def measure(targets: int, rate: int) -> None:
    """Run the same job in one process and on Temporal, and print a line for each."""
    with prepared(targets, rate) as (stage, served):
        seconds, command = timed(stage, "--rate", f"{rate}/s")
        print(f"local     {seconds:.1f} s, processor {1000 * command / targets:.1f} ms a clone")
        print_calls(served.ledger())
    with prepared(targets, rate) as (stage, served):
        for _ in range(_WORKERS):
            start_worker(stage, rate)
        before = sum(processor_of(one.pid) for one in stage.workers)
        seconds, command = timed(stage, "--engine", "temporal")
        used = sum(processor_of(one.pid) for one in stage.workers) - before
        assert stage.server.process is not None
        theirs = processor_of(stage.server.process.pid)
        count, longest = asyncio.run(events(stage))
        size = sum(path.stat().st_size for path in stage.folder.glob("temporal.db*"))
        print(
            f"temporal  {seconds:.1f} s, processor a clone: command {1000 * command / targets:.1f} ms, "
            f"workers {1000 * used / targets:.1f} ms, server {1000 * theirs / targets:.1f} ms; "
            f"{count / targets:.1f} events a clone, longest history {longest}, "
            f"{size / targets / 1024:.1f} KiB a clone stored"
        )
        print_calls(served.ledger())


def print_calls(ledger: dict[str, Any]) -> None:
    """Print a line of the node's counts."""
    print(
        f"          {ledger['clones_made']} made, {len(ledger['duplicates'])} twice, "
        f"{ledger['calls_peak_1s']} calls in the fullest second, "
        f"{calls_while_working(ledger):.1f} a second on average from the second POST to the last"
    )


@dataclass(frozen=True, slots=True)
class Outages:
    """Seconds for which each part was missing."""

    worker: float = 0.0
    server: float = 0.0
    command: float = 0.0

    @property
    def loss(self) -> float:
        """Return the seconds that the outages cost: a worker has a share of the rate, the command makes no calls."""
        return self.worker / _WORKERS + self.server


def replace_after_kill(process: subprocess.Popen[Any], start: Callable[[], object]) -> float:
    """SIGKILL a process and start it again after a while; return the seconds until it was ready."""
    began = time.monotonic()
    assert process.poll() is None, "nothing was left to kill"
    process.kill()
    process.communicate()
    time.sleep(_MISSING)
    start()
    return time.monotonic() - began


def run_with_kills(stage: Stage, targets: int, rate: int, *options: str) -> tuple[int, Outages]:
    """Kill a worker at a third of the clones, the server at half, the command at two thirds; return the exit code."""
    first = stage.start_job("--quiet", *options)
    stage.wait_for(targets // 3, patience=_LONGEST)
    worker = replace_after_kill(stage.workers[0], lambda: start_worker(stage, rate))
    stage.wait_for(targets // 2, patience=_LONGEST)
    assert stage.server.process is not None
    server = replace_after_kill(stage.server.process, stage.server.start)
    stage.wait_for(2 * targets // 3, patience=_LONGEST)
    again: list[subprocess.Popen[str]] = []
    command = replace_after_kill(first, lambda: again.append(stage.start_job("--quiet", *options)))
    again[0].communicate(timeout=_LONGEST)
    return again[0].returncode, Outages(worker, server, command)


def run_undisturbed(stage: Stage, *options: str) -> int:
    """Run the job on Temporal and return its exit code."""
    command = stage.start_job("--quiet", *options)
    command.communicate(timeout=_LONGEST)
    return command.returncode


def examine(
    ledger: dict[str, Any], listed: list[dict[str, Any]], targets: int, *, at_most_once: bool
) -> dict[str, int]:
    """Compare the manifest with the node's ledger. Raises AssertionError for a broken promise."""
    states = Counter(row["state"] for row in listed)
    made = {clone["uuid"]: clone["source"] for clone in ledger["clones"]}
    cloned = {row["clone_uuid"] for row in listed if row["state"] == "cloned"}
    in_doubt = {row["source_uuid"] for row in listed if row["state"] == "uncertain"}
    counts = {
        "cloned": len(cloned),
        "uncertain": states["uncertain"],
        "twice": len(ledger["duplicates"]),
        "lost": sum(uuid not in cloned and source not in in_doubt for uuid, source in made.items()),
        "phantom": len(cloned - made.keys()),
        "second POSTs": sum(count > 1 for count in ledger["posts_per_source"].values()),
    }
    broken = ("twice", "lost", "phantom", *(["second POSTs"] if at_most_once else ["uncertain"]))
    assert not any(counts[name] for name in broken), counts
    assert counts["cloned"] + counts["uncertain"] == targets, states
    return counts


def measure_kills(targets: int, rate: int, *, at_most_once: bool) -> None:
    """Run the same job on Temporal undisturbed and with kills, and print a line of a table for each."""
    options = ("--at-most-once",) if at_most_once else ()
    undisturbed = 0.0
    for name in ("undisturbed", "kills"):
        with prepared(targets, rate) as (stage, served):
            for _ in range(_WORKERS):
                start_worker(stage, rate)
            began, outages = time.monotonic(), Outages()
            if name == "kills":
                code, outages = run_with_kills(stage, targets, rate, *options)
            else:
                code = run_undisturbed(stage, *options)
            seconds, ledger = time.monotonic() - began, served.ledger()
            undisturbed = undisturbed or seconds
            listed = rows("job.manifest.jsonl", cwd=stage.folder)
            counts = examine(ledger, listed, targets, at_most_once=at_most_once)
            expected = {ExitCode.FAILED, ExitCode.UNFINISHED} if counts["uncertain"] else {ExitCode.OK}
            assert code in expected, (code, counts)
            line = {
                "run        ": name,
                "seconds": f"{seconds:.1f}",
                "worker/server/command missing": f"{outages.worker:.1f}/{outages.server:.1f}/{outages.command:.1f}",
                "over": f"{seconds / (undisturbed + outages.loss) - 1:+.1%}",
                "exit": code,
                **counts,
                "fullest second": ledger["calls_peak_1s"],
                "calls/s": f"{calls_while_working(ledger):.1f}",
                "longest pause": f"{longest_pause(ledger):.1f}",
            }
        if name == "undisturbed":
            print(" | ".join(line))
        print(" | ".join(f"{value:>{len(title)}}" for title, value in line.items()), flush=True)


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.temporal.measure")
    parser.add_argument("targets", nargs="?", type=int, default=500)
    parser.add_argument("rate", nargs="?", type=int, default=40, help="calls a second of all workers together")
    parser.add_argument("--kills", action="store_true", help="kill a worker, the Temporal server and the command")
    parser.add_argument("--at-most-once", action="store_true", help="with --kills: run at most once")
    given = parser.parse_intermixed_args()
    if given.kills:
        measure_kills(given.targets, given.rate, at_most_once=given.at_most_once)
    else:
        measure(given.targets, given.rate)


if __name__ == "__main__":
    main()
