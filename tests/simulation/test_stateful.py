"""A state machine that invents schedules and shortens those that break a promise."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from batch.errors import ExitCode
from tests.simulation import promises
from tests.simulation.command import run_process, run_processes
from tests.simulation.directed import world_of
from tests.simulation.jobs import planned_clone
from tests.simulation.process import Process
from tests.simulation.schedule import SUBMIT_FAULTS, heal_and_check, rules
from tests.simulation.virtual import EPOCH

if TYPE_CHECKING:
    from batch.simulator.faults import Fault
    from tests.simulation.world import World

_SEEDS = st.integers(0, 2**16)


class Machine(RuleBasedStateMachine):
    """One World; each rule is an event in it."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World = world_of(0, 1)
        self.misreported: list[str] = []

    @initialize(
        seed=_SEEDS,
        count=st.integers(1, 4),
        faults=st.lists(st.sampled_from(SUBMIT_FAULTS), max_size=3, unique=True),
        share=st.sampled_from((0.1, 0.4)),
    )
    def begin(self, seed: int, count: int, faults: list[Fault], share: float) -> None:
        found = rules(faults, share) if faults else ()
        self.world = world_of(seed, count, *found, latency=1.0)

    def _run(self, process: Process) -> None:
        self.misreported += promises.misreported(self.world, run_process(self.world, process))

    @rule(steps=st.integers(1, 150))
    def run_some_steps_and_kill(self, steps: int) -> None:
        self._run(Process(die_at=steps))

    @rule(steps=st.integers(1, 60), seed=_SEEDS)
    def lose_power(self, steps: int, seed: int) -> None:
        self._run(Process(die_at=steps))
        self.world.disk.power_cut(Random(seed))

    @rule(seconds=st.floats(0.01, 5.0))
    def stop(self, seconds: float) -> None:
        self._run(Process(stop_after=seconds))

    @rule()
    def resume(self) -> None:
        self._run(Process())

    @rule(at=st.integers(2, 8))
    def fill_the_disk(self, at: int) -> None:
        self._run(Process(bad_write_at=at))

    @rule(at=st.integers(2, 8))
    def break_the_disk(self, at: int) -> None:
        self._run(Process(bad_sync_at=at))

    @rule(after=st.floats(0.0, 3.0), steps=st.integers(1, 150))
    def start_a_second_runner(self, after: float, steps: int) -> None:
        rival = Process(starts_after=after)
        ended = run_processes(self.world, Process(die_at=steps), rival)[1]
        if ended.code == ExitCode.LOCKED:
            assert not self.world.witness.life(rival).calls

    @rule(numbers=st.sets(st.integers(0, 5), min_size=1))
    def edit_the_job_file(self, numbers: set[int]) -> None:
        self.world.edit([planned_clone(number) for number in sorted(numbers)])

    @rule(seconds=st.floats(0.5, 10.0))
    def restart_the_server(self, seconds: float) -> None:
        self.world.node.restart(EPOCH + self.world.now, seconds=seconds)

    @rule(hours=st.sampled_from((0.01, 1.2, 4.5)))
    def let_jobs_expire(self, hours: float) -> None:
        self.world.wait(hours * 3600.0)

    @rule()
    def expire_sessions(self) -> None:
        self.world.node.expire_sessions()

    @invariant()
    def every_promise_is_kept(self) -> None:
        assert self.misreported + promises.broken(self.world) == []

    def teardown(self) -> None:
        assert heal_and_check(self.world, self.misreported).problems == ()


def explore(examples: int, steps: int) -> None:
    """Let the machine invent so many histories of at most so many steps, the same ones each time."""
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_no_history_breaks_a_promise() -> None:
    """Whatever happens in any order, every promise holds after each step, and in the end everything is settled."""
    explore(40, 20)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_no_longer_history_breaks_a_promise() -> None:
    """The same for 2,000 histories of up to 50 steps."""
    explore(2000, 50)
