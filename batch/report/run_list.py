"""``zclone runs``: one line per manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch.model import State
from batch.text import escape, iso, pad, width

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from batch.manifest import Header


@dataclass(frozen=True, slots=True)
class DescribedRun:
    """A manifest and the state of its run."""

    path: Path
    header: Header
    counts: Counter[State]
    is_running: bool
    is_settled: bool
    """Whether nothing is left to do."""
    is_removable: bool
    """Whether later runs do without its manifest."""


@dataclass(frozen=True, slots=True)
class RemoteRow:
    """An open run on Temporal."""

    run: str
    began_at: float
    """Seconds since the epoch."""
    states: Mapping[State, int]
    targets: int
    workflow_id: str


def run_lines(runs: Sequence[DescribedRun], remote: Sequence[RemoteRow] = ()) -> list[str]:
    """Return a table of the runs; only the heading if there are none."""
    heads = ["RUN", "BEGAN", "STATE", "CLONED", "MANIFEST OR WORKFLOW" if remote else "MANIFEST"]
    table = [heads, *map(_cells, runs), *map(_remote_cells, remote)]
    widths = [max(map(width, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(pad, cells, widths)).rstrip() for cells in table]


def _cells(run: DescribedRun) -> list[str]:
    total = run.counts.total() - run.counts[State.WITHDRAWN]
    state = "running" if run.is_running else "settled" if run.is_settled else "unfinished"
    name = f"{run.header.run} (rehearsal)" if run.header.simulated else run.header.run
    cloned = f"{run.counts[State.CLONED]} of {total}"
    return [escape(name), iso(run.header.created_at) or "", state, cloned, escape(str(run.path))]


def _remote_cells(row: RemoteRow) -> list[str]:
    cloned = f"{row.states.get(State.CLONED, 0)} of {row.targets}"
    return [escape(row.run), iso(row.began_at) or "", "on Temporal", cloned, escape(row.workflow_id)]
