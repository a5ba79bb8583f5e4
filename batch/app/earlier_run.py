"""The recorded state of an earlier run, for ``zclone plan``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.app.runs import manifest_name
from batch.errors import ManifestMismatchError
from batch.manifest import rows
from batch.manifest.targets import open_targets
from batch.manifest.uuids import UndoneFold
from batch.model import Pins, State
from batch.plan import run_id

if TYPE_CHECKING:
    from batch.jobfile import Job
    from batch.model import Plan

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
    path = Path(manifest_name(job.path, run_id(job, run=run, started_at=at), simulated=simulated, shard=None))
    if not path.exists():
        return EarlierRun(at)
    with open_targets(path) as targets:
        if targets.header.job != job.name:
            raise ManifestMismatchError(f"{path}: is of the job {targets.header.job!r}, but {job.path} is {job.name!r}")
        return EarlierRun(targets.header.created_at, targets.pins, path, targets.undone)
