"""``zclone report`` by format and number of targets: processor time, peak memory and size of the file."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.stage.manifests import write_finished
from tests.benchmarks.stage.processes import settings, spend, zclone
from tests.benchmarks.stage.rounds import Table, interleaved, middle

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = (1_000, 20_000)
ENDINGS = ("html", "md", "csv", "xml", "json")


def main(rounds: int = 5, sizes: Sequence[int] = SIZES) -> None:
    """Print a row per format and size (targets, every 50th of which failed)."""
    table = Table(f"Reports, {rounds} rounds", "format", "targets", "cpu s", "MiB", "file kB", "file B/row")
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_finished(folder, size, failing=True)
            reports = {
                ending: partial(
                    spend,
                    zclone("report", "manifest.jsonl", "--out", f"report.{ending}"),
                    cwd=folder,
                    env=settings(folder),
                )
                for ending in ENDINGS
            }
            for ending, found in interleaved(reports, rounds).items():
                written = (folder / f"report.{ending}").stat().st_size
                processor, peak = middle(found, lambda one: one.processor), middle(found, lambda one: one.peak_mib)
                table.row(ending, size, processor, peak, written / 1000, written / size)
