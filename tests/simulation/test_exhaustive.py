"""The command is killed at every single step, and the next one finishes the work."""

from __future__ import annotations

from itertools import count
from random import Random
from typing import TYPE_CHECKING

import pytest

from batch.simulator.faults import Fault, FaultKind, FaultRule
from tests.simulation.command import run_process
from tests.simulation.directed import world_of
from tests.simulation.process import Process
from tests.simulation.schedule import heal_and_check

if TYPE_CHECKING:
    from tests.simulation.world import World

LOST = FaultRule(Fault(FaultKind.LOST_REPLY, seconds=0.1), requests=frozenset({1}))
"""The answer to the very first POST is lost."""


def world(targets: int, *faults: FaultRule) -> World:
    """A small World; every run of it is the same until its first kill."""
    return world_of(1, targets, *faults)


def steps_of(world: World) -> int:
    """Return the number of steps of an undisturbed run."""
    process = Process()
    run_process(world, process)
    return process.steps


def survive(world: World, *steps: int, power_cut: bool = False) -> bool:
    """Be killed at these steps one after the other, and then finish: exactly one clone each, nothing lost or invented.

    Return whether the last of these processes was killed, and did not end before its step.
    """
    ended = None
    for step in steps:
        ended = run_process(world, Process(die_at=step))
        if power_cut:
            world.disk.power_cut(Random(step))
    verdict = heal_and_check(world)
    assert verdict.problems == (), f"killed at {steps}"
    return ended is not None and ended.code is None


@pytest.mark.parametrize("power_cut", [False, True], ids=["kill", "power cut"])
@pytest.mark.parametrize("faults", [(), (LOST,)], ids=["calm", "lost reply"])
@pytest.mark.parametrize("targets", [1, 2, 3])
def test_a_kill_at_every_step_is_survived(targets: int, faults: tuple[FaultRule, ...], *, power_cut: bool) -> None:
    """For one to three targets, wherever the process is killed, also with the power, a rerun finishes."""
    for step in range(1, steps_of(world(targets, *faults)) + 1):
        survive(world(targets, *faults), step, power_cut=power_cut)


@pytest.mark.parametrize("part", range(4))
def test_two_kills_at_every_pair_of_steps_are_survived(part: int) -> None:
    """For one target, wherever the first and the second process are killed."""
    steps = steps_of(world(1))
    for first in range(1 + part, steps + 1, 4):
        for second in count(1):
            if not survive(world(1), first, second):
                break
