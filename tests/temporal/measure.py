"""The cost of a run on Temporal beside one process: ``python -m tests.temporal.measure [TARGETS [RATE]]``.

Three workers with a third of the rate each, lost replies, jobs of 0.5 to 2 s, payloads encrypted. Processor time
depends less on the machine's load than seconds do.
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from batch.app.temporal import connect_temporal
from tests.crash.stage import node, write_job
from tests.temporal.stage import faults, staged, temporal_server

if TYPE_CHECKING:
    from tests.temporal.stage import Stage

_FAULTS: Final = """
version: 1
node: {latency: [0.5, 2.0]}
faults:
  - {fault: lost_reply, probability: 0.03}
"""
_WORKERS: Final = 3
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


def measure(targets: int, rate: int) -> None:
    """Run the same job in one process and on Temporal, and print a line for each."""
    for engine in ("local", "temporal"):
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
                if engine == "local":
                    seconds, command = timed(stage, "--rate", f"{rate}/s")
                    print(f"local     {seconds:.1f} s, processor {1000 * command / targets:.1f} ms a clone")
                else:
                    for _ in range(_WORKERS):
                        stage.work(rate=f"{rate}/s", share=f"1/{_WORKERS}")
                    before = sum(processor_of(one.pid) for one in stage.workers)
                    seconds, command = timed(stage, "--engine", "temporal")
                    used = sum(processor_of(one.pid) for one in stage.workers) - before
                    assert server.process is not None
                    theirs = processor_of(server.process.pid)
                    count, longest = asyncio.run(events(stage))
                    size = sum(path.stat().st_size for path in place.glob("temporal.db*"))
                    print(
                        f"temporal  {seconds:.1f} s, processor a clone: command {1000 * command / targets:.1f} ms, "
                        f"workers {1000 * used / targets:.1f} ms, server {1000 * theirs / targets:.1f} ms; "
                        f"{count / targets:.1f} events a clone, longest history {longest}, "
                        f"{size / targets / 1024:.1f} KiB a clone stored"
                    )
                found = served.ledger()
                print(
                    f"          {found['clones_made']} made, {len(found['duplicates'])} twice, "
                    f"{found['calls_peak_1s']} calls in the fullest second, "
                    f"{calls_while_working(found):.1f} a second on average from the second POST to the last"
                )


if __name__ == "__main__":
    measure(*[int(word) for word in (*sys.argv[1:], *("500", "40")[len(sys.argv) - 1 :])][:2])
