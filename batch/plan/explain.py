"""Why a Clone has the parameters it has: which layer set each, and where that stands."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.jobfile.problems import Complaint, Problems
from batch.jobfile.targets import read_targets
from batch.plan.expand import run_id
from batch.plan.planner import Planner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batch.jobfile import Job
    from batch.jobfile.job import Target
    from batch.model import Clone, Place
    from batch.plan.sources import Sources


_REARCHITECTED: Final = frozenset({"cpuArchitectures", "architectureImages", "vendorToSpecUuidsMap"})


class Setting(NamedTuple):
    """Where a parameter's value comes from."""

    layer: str
    """``target``, ``from`` (the entry of its file), ``defaults``, ``source`` (``keep``) or ``rearchitect``."""
    place: Place
    """Of the value as written; of the target for ``source`` and ``rearchitect``."""
    rendered: bool = False
    """Whether it was written with ``$`` and the plan put the values in."""

    def __str__(self) -> str:
        """Show layer and place."""
        how = ", rendered" if self.rendered else ""
        return f"{self.layer}{how}, {self.place.file}:{self.place.line}:{self.place.column}"


def explain(
    job: Job, key: str, *, run: str | None, started_at: float, sources: Sources | None = None
) -> tuple[Clone, Mapping[str, Setting]] | None:
    """Return the clone ``key`` and the Setting of each of its parameters; None where the job has no such clone.

    Raises JobFileError where a file cannot be read on.
    """
    found = explained(job, run=run, started_at=started_at, sources=sources)
    return next(((clone, settings()) for clone, settings in found if clone.key == key), None)


def explained(
    job: Job, *, run: str | None, started_at: float, sources: Sources | None
) -> Iterator[tuple[Clone, Callable[[], Mapping[str, Setting]]]]:
    """Stream every clone, and how to learn the Setting of each of its parameters; targets with problems are left out.

    Raises JobFileError where a file cannot be read on.
    """
    planner = Planner(job, run_id(job, run=run, started_at=started_at), started_at, sources)
    problems = Problems()
    for target in read_targets(job, problems):
        for clone in planner.clones(target, problems.add):
            yield clone, partial(_settings, target, clone)


def _settings(target: Target, clone: Clone) -> Mapping[str, Setting]:
    return {name: _setting(target, name) for name in clone.params}


def _setting(target: Target, name: str) -> Setting:
    place = target.problem(Complaint(f"params.{name}", "")).place
    if name in target.layer.params:
        return Setting("target", place, name in target.layer.templates)
    rendered = name in target.entry.base.templates
    if name in target.entry.own:
        return Setting("from", place, rendered)
    if name in target.entry.base.params:
        return Setting("defaults", place, rendered)
    return Setting("rearchitect" if name in _REARCHITECTED else "source", place)
