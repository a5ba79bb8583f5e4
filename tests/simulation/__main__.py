"""Run many schedules on several cores: ``python -m tests.simulation --schedules 1000000 --seed 0 --processes 2``.

Each line says with which ``--seed`` and ``--schedules`` to resume after a stop.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from tests.simulation.directed import KINDS
from tests.simulation.ranges import chunks, describe, put_on_record

if TYPE_CHECKING:
    from tests.simulation.schedule import Verdict

_CHUNK: Final = 500
_TELL_EVERY: Final = 20
_MOST_FAILED: Final = 10


def run_chunk(seeds: range, *, kind: str = "random") -> tuple[int, int, int, list[Verdict]]:
    """Run the schedules of some seeds; return their number, POSTs, kills, and the failed verdicts."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    posts = kills = 0
    failed = []
    for seed in seeds:
        verdict = KINDS[kind](seed)
        posts, kills = posts + verdict.posts, kills + verdict.kills
        if verdict.problems:
            failed.append(verdict)
    return len(seeds), posts, kills, failed


def main() -> int:
    """Print figures periodically; exit with 1 if any schedule failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kind", choices=KINDS, default="random")
    arguments = parser.parse_args()
    began, done, posts, kills, failed = time.monotonic(), 0, 0, 0, 0
    with multiprocessing.Pool(arguments.processes) as pool:
        ranges = chunks(arguments.seed, arguments.schedules, _CHUNK)
        for number, (ran, sent, ends, bad) in enumerate(pool.imap(partial(run_chunk, kind=arguments.kind), ranges), 1):
            done, posts, kills, failed = done + ran, posts + sent, kills + ends, failed + len(bad)
            for verdict in bad:
                if arguments.kind == "random":
                    put_on_record(verdict)
                print(describe(verdict, kind=arguments.kind), flush=True)
            if number % _TELL_EVERY == 0 or done == arguments.schedules:
                seconds = time.monotonic() - began
                rest = f"--seed {arguments.seed + done} --schedules {arguments.schedules - done}"
                figures = f"{done} schedules, {posts} POSTs, {kills} kills, {failed} failed, {done / seconds:.0f}/s"
                print(f"{figures}; the rest: {rest}", flush=True)
            if failed >= _MOST_FAILED:
                break
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
