"""Which job is polled next, and when: the schedule of polls, alone and behind a gate."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import pytest

from batch.engine.breaker import Breaker
from batch.engine.control import Stop
from batch.engine.poll_schedule import PollSchedule, PollWindow
from batch.model import CallKind, Limits
from batch.zstack.answers import Absent, Done, NoAnswer, NotSent, Running, Unknown
from tests.engine.test_run import Scene
from tests.simulation.virtual import EPOCH, VirtualClock, VirtualLoop, run_virtual, virtual_gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch.engine import Gate

HOLD = PollWindow(EPOCH, EPOCH + 1e6)


@dataclass
class Stage:
    """A schedule on a clock to move."""

    loop: VirtualLoop
    changes: int = 0
    polls: PollSchedule = field(init=False)

    def __post_init__(self) -> None:
        self.polls = PollSchedule(VirtualClock(self.loop, Random(1)), self._note_change)

    def _note_change(self) -> None:
        self.changes += 1

    def teach(self, seconds: float, times: int = 50) -> None:
        """Show jobs of this length running just before their end, and then ended."""
        for number in range(times):
            job = f"taught-{number}"
            self.polls.begin(job)
            for part in (0.97, 0.03):
                self.loop.now += seconds * part
                self.polls.expect(job, None)
                self.polls.add(job)
                assert self.polls.pick() == job
                self.polls.note(job, Running() if part > 0.5 else Done(None))
        self.loop.now += 1.0

    def due_in(self, job: str) -> float:
        """Put the job's poll in the queue and return in how many seconds it is due."""
        self.polls.expect(job, HOLD)
        self.polls.add(job)
        return self.polls.next_due() - self.loop.now


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage whose loop is closed, although nothing ran on it."""
    loop = VirtualLoop()
    yield Stage(loop)
    loop.close()


def test_the_first_poll_comes_at_the_usual_length_of_jobs(stage: Stage) -> None:
    """Jobs that took 3 s are polled after about 3 s."""
    stage.teach(3.0)
    stage.polls.begin("a")
    assert 2.5 <= stage.due_in("a") <= 3.2


def test_an_instant_job_is_polled_after_20_ms(stage: Stage) -> None:
    """Jobs of 5 ms: no sooner than that, and hardly later."""
    stage.teach(0.005)
    stage.polls.begin("a")
    assert 0.02 <= stage.due_in("a") <= 0.03


def test_polls_come_sooner_while_clones_wait_for_a_slot(stage: Stage) -> None:
    """Three ends without a POST after them show that none waits; the next POST, that one does."""
    for seconds in (2.0, 3.0, 4.0, 5.0, 6.0):
        stage.teach(seconds, 10)
    stage.polls.begin("a")
    late = stage.due_in("a")
    stage.polls.note_post()
    stage.loop.now += 0.1
    soon = stage.polls.next_due() - stage.loop.now
    assert soon < late - 1.0


def test_the_job_that_has_most_likely_ended_goes_first(stage: Stage) -> None:
    """Of those that are due, not the one that is due the longest."""
    for seconds in (2.0, 4.0, 6.0):
        stage.teach(seconds, 10)
    stage.polls.begin("seen late")
    stage.loop.now += 5.0
    stage.polls.expect("seen late", HOLD)
    stage.polls.add("seen late")
    assert stage.polls.pick() == "seen late"
    stage.polls.begin("new")
    stage.polls.note("seen late", Running())
    for job in ("seen late", "new"):
        stage.due_in(job)
    stage.loop.now += 3.5
    assert stage.polls.pick() == "seen late"
    stage.loop.now += 3.5
    assert stage.polls.pick() == "new"
    assert stage.polls.pick() is None


def test_a_poll_waits_no_longer_than_its_deadline(stage: Stage) -> None:
    """A clone whose time is over is polled, however long jobs take."""
    stage.teach(3000.0, 3)
    stage.polls.begin("a")
    now = EPOCH + stage.loop.now
    stage.polls.expect("a", PollWindow(now, now + 2.0))
    stage.polls.add("a")
    assert stage.polls.next_due() - stage.loop.now == pytest.approx(2.0)
    stage.loop.now += 2.5
    assert stage.polls.pick() == "a"


def test_a_job_slower_than_all_before_is_polled_in_growing_steps(stage: Stage) -> None:
    """At most a second or a quarter of its age later, so that an hour costs a few dozen polls."""
    stage.teach(1.0)
    stage.polls.begin("a")
    began, polls = stage.loop.now, 0
    while stage.loop.now < began + 3600.0:
        step = stage.due_in("a")
        age = stage.loop.now + step - began
        assert step <= max(1.0, 0.25 * age) + 0.1
        stage.loop.now += step
        assert stage.polls.pick() == "a"
        stage.polls.note("a", Running())
        polls += 1
    assert polls < 60


def test_a_job_of_an_earlier_process_is_queued_but_not_learned_from(stage: Stage) -> None:
    """It is unknown when its POST arrived."""
    stage.loop.now = 50.0
    assert stage.due_in("old") > 0.0
    stage.loop.now += 1000.0
    assert stage.polls.pick() == "old"
    stage.polls.note("old", Running())
    assert stage.due_in("old") > 0.0
    stage.loop.now += 1000.0
    assert stage.polls.pick() == "old"
    stage.polls.note("old", Done(None))
    assert stage.polls.times.quantile(0.95) == 0.0


def test_an_outage_teaches_nothing_about_jobs(stage: Stage) -> None:
    """What was under way when the server came back is not learned from; what is sent later is."""
    clock = VirtualClock(stage.loop, Random(1))
    breaker = Breaker(clock, Stop(), returned=stage.polls.skip_sampling)
    stage.polls.begin("a")
    for answer in (*[NoAnswer("lost")] * 10, Absent()):
        breaker.note(answer)
    stage.loop.now += 14.0
    stage.polls.note("a", Done(None))
    assert stage.polls.times.quantile(0.95) == 0.0
    stage.polls.begin("b")
    stage.loop.now += 0.9
    stage.polls.note("b", Done(None))
    assert stage.polls.times.quantile(0.95) > 0.0


def test_no_answer_teaches_nothing(stage: Stage) -> None:
    """A poll that was lost or cut leaves the job as it was, and an unknown job is forgotten."""
    stage.polls.begin("a")
    for answer in (NoAnswer("lost"), NotSent("cut", is_held_back=True)):
        stage.polls.note("a", answer)
    assert stage.polls.is_known("a")
    assert stage.changes == 0
    stage.polls.note("a", Unknown())
    assert not stage.polls.is_known("a")
    assert stage.polls.times.quantile(0.95) == 0.0


def teach_long(polls: PollSchedule) -> None:
    """Let jobs take more than ten minutes."""
    for _ in range(100):
        polls.times.note_running(0.0, 600.0)
    polls.times.refresh()


def on_gate(rate: float, script: Callable[[Gate, VirtualLoop], object]) -> None:
    loop = VirtualLoop()

    async def main() -> None:
        await script(virtual_gate(rate, loop), loop)  # type: ignore[misc]

    run_virtual(loop, main())


async def passes(gate: Gate, name: str, seen: list[str], kind: CallKind, job: str = "") -> None:
    if await gate.wait(kind, job):
        seen.append(name)


def test_logins_go_before_posts_and_posts_before_queries() -> None:
    """Each slot goes to the most urgent waiting call, whichever came first."""

    async def script(gate: Gate, _: VirtualLoop) -> None:
        seen: list[str] = []
        gate.polls.begin("job")
        gate.polls.expect("job", None)
        async with asyncio.TaskGroup() as group:
            for name, kind, job in (
                ("first", CallKind.QUESTION, ""),
                ("question", CallKind.QUESTION, ""),
                ("poll", CallKind.POLL, "job"),
                ("poll of an unknown job", CallKind.POLL, "other"),
                ("post", CallKind.CLONE, ""),
                ("login", CallKind.LOGIN, ""),
            ):
                group.create_task(passes(gate, name, seen, kind, job))
                await asyncio.sleep(0.01)
        assert seen[:3] == ["first", "login", "post"]
        assert sorted(seen[3:]) == ["poll", "poll of an unknown job", "question"]

    on_gate(2, script)


def test_no_call_starves_behind_posts() -> None:
    """A query and a poll that have waited for five seconds take turns with the POSTs."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        seen: list[str] = []
        gate.polls.begin("job")
        gate.polls.expect("job", None)
        posts = [asyncio.ensure_future(passes(gate, "post", seen, CallKind.CLONE)) for _ in range(100)]
        await asyncio.gather(
            passes(gate, "question", seen, CallKind.QUESTION), passes(gate, "poll", seen, CallKind.POLL, "job")
        )
        assert loop.now < 5.6
        assert seen[-3:] in (["poll", "post", "question"], ["question", "post", "poll"])
        await asyncio.gather(*posts)

    on_gate(10, script)


def test_a_delayed_poll_delays_no_other_call() -> None:
    """While it waits for its job a POST passes at once, and the poll at its time."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        gate.polls.begin("job")
        gate.polls.expect("job", PollWindow(EPOCH, EPOCH + 1.0))
        teach_long(gate.polls)
        polling = asyncio.ensure_future(gate.wait(CallKind.POLL, "job"))
        await asyncio.sleep(0.3)
        assert await gate.wait(CallKind.CLONE)
        assert loop.now == pytest.approx(0.3)
        assert await polling
        assert loop.now == pytest.approx(1.0)

    on_gate(10, script)


def test_a_second_poll_of_a_job_is_an_ordinary_query() -> None:
    """The schedule queues one poll per job; its answer does not leave the other one waiting."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        gate.polls.begin("job")
        gate.polls.expect("job", HOLD)
        teach_long(gate.polls)
        held = asyncio.ensure_future(gate.wait(CallKind.POLL, "job"))
        await asyncio.sleep(0.01)
        assert await gate.wait(CallKind.POLL, "job")
        gate.polls.note("job", Done(None))
        assert await held
        assert loop.now < 1.0

    on_gate(100, script)


def test_a_cancelled_poll_leaves_the_queue() -> None:
    """A later poll of the job gets its turn."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        gate.polls.begin("job")
        gate.polls.expect("job", HOLD)
        teach_long(gate.polls)
        held = asyncio.ensure_future(gate.wait(CallKind.POLL, "job"))
        await asyncio.sleep(0.01)
        held.cancel()
        await asyncio.wait({held})
        gate.polls.expect("job", None)
        assert await gate.wait(CallKind.POLL, "job")
        assert loop.now < 1.0

    on_gate(100, script)


@pytest.mark.parametrize(("rate", "concurrency"), [(10.0, 64), (40.0, 200)])
def test_if_the_rate_is_short_a_clone_costs_two_calls(rate: float, concurrency: int) -> None:
    """Polls wait until POSTs leave calls over, and by then their jobs have ended."""
    scene = Scene(count=200, limits=Limits(rate=rate, concurrency=concurrency), rate=rate)
    scene.server.takes = 3.0
    assert scene.run() == {"cloned": 200}
    assert len(scene.server.log) / 200 < 2.15
    assert scene.loop.now < 2 * 200 / rate + 3 * 3.0


def test_if_slots_are_short_an_end_is_noticed_soon() -> None:
    """With calls to spare the end of a job frees its slot within a twentieth of its length."""
    scene = Scene(count=100, limits=Limits(rate=100.0, concurrency=8), rate=100.0)
    scene.server.takes = 4.0
    assert scene.run() == {"cloned": 100}
    assert scene.loop.now < (4.0 + 100 * 4.0 / 8) * 1.1
