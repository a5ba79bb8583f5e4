"""The runs of a job as ``zclone runs`` lists and removes them, and the one that ``zclone plan`` continues."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.app.embedded_node import node_state
from batch.app.messages import say
from batch.app.runs import all_runs, manifest_name
from batch.errors import ManifestMismatchError, ZcloneError
from batch.manifest import is_locked, rows, summary
from batch.manifest.operations import UndoneFold
from batch.manifest.targets import open_targets
from batch.model import Pins, State
from batch.report.listings import DescribedRun, RemoteRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batch.jobfile import Job
    from batch.model import Plan


def describe_runs(job: Path) -> list[DescribedRun]:
    """Return every run of the job file with a manifest in this folder, newest first.

    Raises UsageError, and ManifestError for a damaged manifest.
    """
    return [_describe(one.path) for one in all_runs(job)]


def _describe(path: Path) -> DescribedRun:
    # Check the lock before reading: a process that ends in between has then written its ending line.
    locked = is_locked(path)
    found = summary(path)
    is_running = locked and found.ended is None
    return DescribedRun(
        path,
        found.header,
        found.counts,
        is_running=is_running,
        is_settled=not locked and found.is_settled,
        is_removable=not locked and found.is_removable,
    )


def list_open_runs(job: Path, environ: Mapping[str, str]) -> list[RemoteRow]:
    """Return the job's open runs on Temporal; empty without settings or, with a warning, if it does not answer."""
    if not any(environ.get(name) for name in ("TEMPORAL_ADDRESS", "TEMPORAL_PROFILE")):
        return []
    import asyncio

    from batch.app.temporal import find_open_runs
    from batch.jobfile import load

    try:
        found = asyncio.run(find_open_runs(environ, load(job).name))
    except ZcloneError as error:
        say(f"warning: runs that are open on Temporal are not listed: {error}")
        return []
    return [RemoteRow(one.run, one.began_at, one.states, one.targets, one.workflow_id) for one in found]


def prune_runs(runs: Sequence[DescribedRun], *, keep: int) -> Iterator[Path]:
    """Remove the manifests of all settled runs but the ``keep`` newest, with rehearsal state; yield each path.

    A run of several shards is settled once all of them are. The manifest of a run with undone clones stays: without it
    the next run would request their uuids again.
    """
    from batch.manifest.opening import remove_settled

    whole = sorted(runs, key=_identity)
    parts = [list(group) for _, group in groupby(whole, key=_identity)]
    settled = [group for group in parts if all(one.is_removable for one in group)]
    settled.sort(key=lambda group: max(one.header.created_at for one in group), reverse=True)
    for one in (one for group in settled[keep:] for one in group):
        if remove_settled(one.path):
            if one.header.simulated:
                node_state(one.path).unlink(missing_ok=True)
            yield one.path


def _identity(one: DescribedRun) -> tuple[str, str, bool]:
    return one.header.job, one.header.run, one.header.simulated


_ENDS: Final = (State.CLONED, State.FAILED, State.CONFLICT)
"""States that the next run does not change."""


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """The run that a plan belongs to, with its recorded progress; a new run has only a start time."""

    began: float
    """Seconds since the epoch."""
    pins: Pins = field(default_factory=Pins)
    path: Path | None = None
    """Path of its manifest; None if it has none."""
    undone: UndoneFold = field(default_factory=UndoneFold)
    """The undone clones, whose targets get new uuids."""

    def progress(self, plan: Plan) -> RunProgress:
        """Return how many targets of ``plan`` are settled and how many are left."""
        if self.path is None:
            return RunProgress({}, plan.count)
        keys = {key for key, _ in plan.listing()}
        states = Counter(row.state for row in rows(self.path) if row.key in keys)
        settled = {state: states[state] for state in _ENDS if states[state]}
        return RunProgress(settled, plan.count - sum(settled.values()))


class RunProgress(NamedTuple):
    """Progress of a run."""

    settled: dict[State, int]
    """Number of targets by final state."""
    left: int

    def describe(self, plan: Plan, path: Path) -> str:
        """Return the counts, by the manifest at ``path``."""
        counts = [f"{count} {state.value}" for state, count in self.settled.items()]
        return f"{plan.count} targets: {', '.join([*counts, f'{self.left} left'])}, by {path}"


def find_earlier_run(job: Job, run: str | None, *, at: float, simulated: bool) -> EarlierRun:
    """Return the run that ``run``, or ``run:`` rendered for the time ``at``, names, from its manifest in this folder.

    ``simulated``: whether it is a rehearsal. Raises ManifestError if the manifest is unreadable or of another job.
    """
    from batch.plan import run_id

    path = Path(manifest_name(job.path, run_id(job, run=run, started_at=at), simulated=simulated, shard=None))
    if not path.exists():
        return EarlierRun(at)
    with open_targets(path) as targets:
        if targets.header.job != job.name:
            raise ManifestMismatchError(f"{path}: is of the job {targets.header.job!r}, but {job.path} is {job.name!r}")
        return EarlierRun(targets.header.created_at, targets.pins, path, targets.undone)
