"""What only the server can object to: sources it does not have, parameters it does not know yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.jobfile.problems import Complaint, Problems
from batch.jobfile.targets import read_targets
from batch.plan.planner import Planner
from batch.zstack.params import BODY_PARAMS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from batch.jobfile import Job
    from batch.model import Pins, Problem


def crosscheck(
    job: Job,
    *,
    run: str,
    started_at: float,
    pins: Pins,
    version: tuple[int, int, int] | None,
    absent: Collection[str] = (),
) -> None:
    """Check the plan of a job that has no other problem; ``run`` is as ``run_id`` gives it, the job ``pinned``.

    ``version``: of the server, None where it is not known. ``absent``: source uuids that do not exist. Raises
    JobFileError with every problem, each at the place of what it is about.
    """
    # wire: below its since-version a parameter is dropped without a word, and the clone is another one.
    newer = {
        name: ".".join(map(str, param.since))
        for name, param in BODY_PARAMS.items()
        if version is not None and param.since > version
    }
    if not newer and not absent:
        return
    planner = Planner(job, run, started_at, pins.sources.get)
    problems = Problems()
    for target in read_targets(job, problems):
        if target.uuid in absent:
            message = f"the source {target.uuid} does not exist on the server, or this account may not see it"
            problems.add(target.problem(Complaint("", message)))
        for clone in planner.clones(target, _ignore):
            for name in newer.keys() & clone.params.keys():
                message = f"{name} needs ZStack {newer[name]}; this server would drop it without a word"
                problems.add(target.problem(Complaint(f"params.{name}", message)))
    problems.raise_any()


def at_sources(job: Job, messages: Mapping[str, str]) -> Iterator[Problem]:
    """Place each of the messages, which are by source uuid, at the first target of its source."""
    told: set[str] = set()
    for target in read_targets(job, Problems()) if messages else ():
        if target.uuid in messages and target.uuid not in told:
            told.add(target.uuid)
            yield target.problem(Complaint("", messages[target.uuid]))


def _ignore(_problem: Problem) -> None:
    """Drop a problem that ``expand`` has told."""
