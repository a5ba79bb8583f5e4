"""The job files of the Worlds, read and planned as the command does it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from batch.jobfile import load
from batch.plan import Planning
from tests.simulation.virtual import EPOCH

if TYPE_CHECKING:
    from batch.model import Clone, Plan


@cache
def plan_of(numbers: tuple[int, ...]) -> Plan:
    """Load and plan a job of these targets, each with a different body."""
    targets = [
        {"uuid": f"{number + 1:032x}", "id": f"t{number}", "params": {"name": f"clone-{number}", "requestCpu": 4}}
        for number in numbers
    ]
    with TemporaryDirectory() as folder:
        path = Path(folder, "job.yaml")
        path.write_text(json.dumps({"version": 1, "name": "sim", "targets": targets}), encoding="utf-8")
        plan = Planning(load(path), run="default", started_at=EPOCH).plan()
        made = tuple(plan.clones())
    # The recorded seeds know an ``inputs`` of this length; with another one the disk would lose other bytes.
    return replace(plan, clones=lambda: iter(made), inputs=plan.digest)


class Spec(NamedTuple):
    """One target as a job file may have it."""

    number: int
    name: int = 0
    """The index of its name."""
    uuid: str | None = None
    """The resourceUuid that the job file gives."""


@cache
def plan_as(specs: tuple[Spec, ...]) -> Plan:
    """Load and plan a job of these targets."""
    targets = []
    for spec in specs:
        params = {"name": f"clone-{spec.number}-{spec.name}"} | (
            {} if spec.uuid is None else {"resourceUuid": spec.uuid}
        )
        targets.append({"uuid": f"{spec.number + 1:032x}", "id": f"t{spec.number}", "params": params})
    with TemporaryDirectory() as folder:
        path = Path(folder, "job.yaml")
        path.write_text(json.dumps({"version": 1, "name": "sim", "targets": targets}), encoding="utf-8")
        plan = Planning(load(path), run="default", started_at=EPOCH).plan()
        made = tuple(plan.clones())
    return replace(plan, clones=lambda: iter(made), inputs=plan.digest)


def planned_clone(number: int) -> Clone:
    """Return one target's Clone: it is the same whatever else is in the job."""
    return next(plan_of((number,)).clones())


def planned(count: int) -> list[Clone]:
    """Return the Clones of the first ``count`` targets."""
    return list(plan_of(tuple(range(count))).clones())
