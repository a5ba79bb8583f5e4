"""The journal under a full pool: clones a second, and how long a record waits to be durable before its POST.

Each worker commits a ``sent`` record and then notes its end, as a run does: back to back, where the wait is the work of
all the others, and paced like a run, where it is the journal's own. Beside it the same disk without a journal: batches
of the same bytes, each appended and synced in turn.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from batch.manifest import Header, open_manifest
from batch.model import Plan, Record, State
from tests.benchmarks.stage.eventloop import run
from tests.benchmarks.stage.rounds import Table, interleaved, middle, share

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch.manifest import Manifest

SIZES = (64, 256)
CLONES = 20_000
PACE = 4_000
"""Clones a second of the paced rounds."""
_LINES = 600
"""Bytes of a clone's two lines."""


@dataclass(frozen=True, slots=True)
class Commits:
    """One round."""

    clones: int
    seconds: float
    processor: float
    waits: list[float]
    """Seconds until each commit was durable, sorted."""

    @property
    def rate(self) -> float:
        """Clones a second."""
        return self.clones / self.seconds


def journal(workers: int, clones: int = CLONES, *, pause: float = 0.0) -> Commits:
    """Record ``clones`` by ``workers`` at a time, each of which pauses ``pause`` seconds between its clones."""
    waits: list[float] = []

    async def worker(manifest: Manifest, keys: Iterator[str]) -> None:
        for key in keys:
            now = time.time()
            began = time.perf_counter()
            await manifest.commit(Record(State.SENT, key, now, 1, key, key, key, key, now))
            waits.append(time.perf_counter() - began)
            if pause:
                await asyncio.sleep(pause)
            manifest.note(Record(State.CLONED, key, now, 1, clone_uuid=key, name="clone"))

    async def work(path: Path) -> Commits:
        manifest = open_manifest(path, Header("j", "r", "u", simulated=False))
        keys = [f"{number:032x}" for number in range(clones)]
        await manifest.write_plan(Plan("j", "r", "d", clones, lambda: iter(())), zip(keys, keys, strict=True))
        began, processor_time = time.perf_counter(), time.process_time()
        left = iter(keys)
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(worker(manifest, left))
        await manifest.close(0)
        return Commits(clones, time.perf_counter() - began, time.process_time() - processor_time, sorted(waits))

    with tempfile.TemporaryDirectory() as name:
        return run(work(Path(name, "manifest.jsonl")))


def disk(workers: int, clones: int = CLONES) -> Commits:
    """Append and sync as many bytes, ``workers`` clones at a time."""
    waits = []
    with tempfile.TemporaryDirectory() as name:
        handle = os.open(Path(name, "f"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        began, processor_time = time.perf_counter(), time.process_time()
        for _ in range(clones // workers):
            at = time.perf_counter()
            os.write(handle, b"x" * (_LINES * workers))
            os.fdatasync(handle)
            waits.append(time.perf_counter() - at)
        ended = Commits(clones, time.perf_counter() - began, time.process_time() - processor_time, sorted(waits))
        os.close(handle)
    return ended


def main(rounds: int = 5, sizes: Sequence[int] = SIZES) -> None:
    """Print three rows per size (clones in flight)."""
    columns = ("clones/s", "us/clone", "p50 ms", "p99 ms", "worst ms")
    table = Table(f"{CLONES} clones, two records each, {rounds} rounds", "contender", "in flight", *columns)
    for size in sizes:
        contenders = {
            "journal": partial(journal, size),
            f"journal at {PACE}/s": partial(journal, size, pause=size / PACE),
            "disk": partial(disk, size),
        }
        for name, found in interleaved(contenders, rounds).items():
            table.row(
                name,
                size,
                middle(found, lambda one: one.rate),
                middle(found, lambda one: one.processor / one.clones * 1e6),
                middle(found, lambda one: share(one.waits, 0.5) * 1000),
                middle(found, lambda one: share(one.waits, 0.99) * 1000),
                middle(found, lambda one: one.waits[-1] * 1000),
            )
