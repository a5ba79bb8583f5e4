"""Web hooks in the engine: which one is an answer, which one makes a poll due, and what happens if none comes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import pytest
import structlog.testing

from batch.engine.poll_schedule import HOOK_DUE, PollSchedule, PollWindow
from batch.engine.webhooks import _MAX_REMEMBERED, HookVerdict, WebHooks, judge_hook
from batch.model import Limits, State
from batch.zstack.answers import Accepted, Done, NoAnswer, Running, Service
from tests.engine.test_poll_schedule import Stage
from tests.engine.test_run import Scene
from tests.simulation.virtual import EPOCH, VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from typing import Any

    from batch.model import Clone
    from batch.zstack.answers import PollAnswer, SubmitAnswer

UUID = "90d425a802ff44eeb530f21587633700"
MADE = Done(Service(UUID, "x", {}))
OTHER = Done(Service("1" * 32, "x", {}))
ENDED = Done(None)
NOTHING = NoAnswer("no result of a job")


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage whose loop is closed, although nothing ran on it."""
    loop = VirtualLoop()
    yield Stage(loop)
    loop.close()


@pytest.mark.parametrize(
    ("hook", "asked_for", "verdict"),
    [
        (MADE, UUID, HookVerdict.ANSWER),
        (OTHER, UUID, HookVerdict.IGNORED),
        (MADE, "", HookVerdict.IGNORED),
        (Done(Service("", None, {})), UUID, HookVerdict.IGNORED),
        (ENDED, UUID, HookVerdict.POLL),
        (NOTHING, UUID, HookVerdict.IGNORED),
    ],
)
def test_the_use_of_each_hook(hook: Done | NoAnswer, asked_for: str, verdict: HookVerdict) -> None:
    """A success under the requested uuid is an answer, an end that shows nothing a reason to poll."""
    assert judge_hook(hook, asked_for) is verdict


@dataclass
class HookedScene(Scene):
    """A run whose server calls web hooks: each job's end is reported ``late`` seconds afterwards, as ``tells`` says."""

    has_hooks: bool = True
    late: float = 0.02
    sent_jobs: list[str] = field(default_factory=list)
    missing: frozenset[int] = frozenset()
    """Numbers of the jobs, from 0, that have no hook."""
    content: Done | None = None
    """What every hook says; None: what was made."""

    def __post_init__(self) -> None:
        super().__post_init__()
        submit = self.server.submit

        async def hooked(clone: Clone, job_uuid: str) -> SubmitAnswer:
            answer = await submit(clone, job_uuid)
            number = len(self.sent_jobs)
            self.sent_jobs.append(job_uuid)
            if isinstance(answer, Accepted) and number not in self.missing:
                self._tell(clone, job_uuid)
            return answer

        self.server.submit = hooked  # type: ignore[method-assign]

    def _tell(self, clone: Clone, job_uuid: str) -> None:
        assert self.hooks is not None
        hook = self.content or Done(Service(clone.resource_uuid, None, {}))
        seconds = max(0.0, self.server.made[clone.resource_uuid] - self.loop.time()) + self.late
        self.loop.call_later(seconds, self.hooks.receive, job_uuid, hook)


def test_a_clone_costs_one_call() -> None:
    """If every hook comes, nothing is polled, and every clone is recorded as one that a poll reported."""
    scene = HookedScene(count=100, limits=Limits(concurrency=10))
    scene.server.takes = 2.0
    assert scene.run() == {State.CLONED: 100}
    assert scene.server.count("submit") == 100
    assert scene.server.count("poll") == 0
    assert scene.loop.now < 2.5 + 100 * 2.0 / 10 + 2.0
    made = [record for record in scene.journal.records if record.state is State.CLONED]
    assert {record.clone_uuid for record in made} == set(scene.server.made)


def test_a_missing_hook_costs_a_later_poll() -> None:
    """A job without a hook is polled once its hook should have come, and no other one is."""
    scene = HookedScene(count=100, limits=Limits(concurrency=10), missing=frozenset({40, 70}))
    scene.server.takes = 2.0
    assert scene.run() == {State.CLONED: 100}
    asked = {what for _, kind, what in scene.server.log if kind == "poll"}
    assert asked == {scene.sent_jobs[40], scene.sent_jobs[70]}
    assert scene.server.count("poll") <= 4


def test_hooks_that_never_come_are_abandoned() -> None:
    """After three ends that only polls reported, jobs are polled as without web hooks, which is reported once."""
    scene = HookedScene(count=60, limits=Limits(concurrency=4), missing=frozenset(range(60)))
    scene.server.takes = 2.0
    with structlog.testing.capture_logs() as events:
        assert scene.run() == {State.CLONED: 60}
    assert [event["event"] for event in events].count("webhook.missing") == 1
    assert scene.loop.now < 60.0


def test_hooks_that_come_again_are_awaited_again() -> None:
    """One hook of a job, also of one whose end is known, shows that they arrive."""
    scene = HookedScene(count=60, limits=Limits(concurrency=4), missing=frozenset(range(20)))
    scene.server.takes = 2.0
    assert scene.run() == {State.CLONED: 60}
    asked = {what for _, kind, what in scene.server.log if kind == "poll"}
    assert asked >= set(scene.sent_jobs[:20])
    assert not asked & set(scene.sent_jobs[30:])


def test_a_failure_makes_the_poll_due_and_nothing_else() -> None:
    """What a hook says of an end without a service is polled at once, one call per clone."""
    scene = HookedScene(count=20, limits=Limits(concurrency=10), content=ENDED)
    scene.server.takes = 2.0
    assert scene.run() == {State.CLONED: 20}
    assert scene.server.count("poll") == 20
    assert scene.loop.now < 2.0 + 20 * 2.0 / 10 + 2.0


def test_a_hook_before_the_posts_own_answer() -> None:
    """A job may end before its POST is answered: its hook waits for the poll, which is not made."""
    scene = HookedScene(count=5, late=0.0)
    scene.server.takes = 0.0

    async def main() -> PollAnswer:
        assert scene.hooks is not None
        scene.hooks.expect("j", UUID)
        assert scene.hooks.receive("j", MADE) is HookVerdict.ANSWER
        job = scene.hooks.find_open_job("j")
        assert job is not None
        answer, is_brought = await job.first_answer(never)
        assert is_brought
        return answer

    assert run_virtual(scene.loop, main()) == MADE


async def never() -> PollAnswer:
    """A poll that must not be made."""
    raise AssertionError("asked")


def in_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` on a virtual clock."""
    run_virtual(VirtualLoop(), work)


def hooks_here() -> tuple[WebHooks, PollSchedule]:
    """Make hooks and their schedule for the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    polls = PollSchedule(VirtualClock(loop, Random(1)), lambda: None)
    return WebHooks(polls), polls


def test_only_the_first_hook_of_a_job_counts() -> None:
    """A duplicate or late hook changes nothing, and one of a job that was never sent is not even read."""

    async def main() -> None:
        hooks, _ = hooks_here()
        hooks.expect("j", UUID)
        assert (hooks.knows("j"), hooks.knows("k")) == (True, False)
        assert hooks.receive("k", MADE) is HookVerdict.IGNORED
        assert hooks.receive("j", OTHER) is HookVerdict.IGNORED
        assert hooks.receive("j", NOTHING) is HookVerdict.IGNORED
        assert hooks.receive("j", MADE) is HookVerdict.ANSWER
        assert hooks.receive("j", MADE) is HookVerdict.IGNORED
        job = hooks.find_open_job("j")
        assert job is not None
        hooks.end(job)
        assert hooks.find_open_job("j") is None
        assert hooks.receive("j", ENDED) is HookVerdict.IGNORED

    in_loop(main())


def test_a_job_whose_post_is_repeated_is_awaited_again() -> None:
    """Its end was reported when nothing waited for it; beyond the remembered number of jobs the oldest is dropped."""

    async def main() -> None:
        hooks, _ = hooks_here()
        hooks.expect("j", UUID)
        job = hooks.find_open_job("j")
        assert job is not None
        hooks.end(job)
        hooks.expect("j", UUID)
        assert hooks.find_open_job("j") is job
        for number in range(_MAX_REMEMBERED):
            hooks.expect(str(number), UUID)
        assert (hooks.knows("j"), hooks.knows("0")) == (False, True)

    in_loop(main())


def test_a_poll_that_came_first_is_the_answer() -> None:
    """If both come at once, an end that the server itself reported stands; "running" gives way to the hook."""

    async def main() -> None:
        hooks, _ = hooks_here()
        for polled, brought in ((Done(Service(UUID, "asked", {})), False), (Running(), True)):
            hooks.expect(str(brought), UUID)
            job = hooks.find_open_job(str(brought))
            assert job is not None

            async def poll(polled: PollAnswer = polled, name: str = str(brought)) -> PollAnswer:
                hooks.receive(name, MADE)
                return polled

            answer, is_brought = await job.first_answer(poll)
            assert (is_brought, answer) == (brought, MADE if brought else polled)

    in_loop(main())


def test_a_cancelled_wait_cancels_its_poll() -> None:
    """Nothing stays at the gate for a clone that was abandoned."""
    states = []

    async def poll() -> PollAnswer:
        try:
            await asyncio.sleep(100.0)
        finally:
            states.append("ended")
        return Running()

    async def main() -> None:
        hooks, _ = hooks_here()
        hooks.expect("j", UUID)
        job = hooks.find_open_job("j")
        assert job is not None
        waiting = asyncio.ensure_future(job.first_answer(poll))
        await asyncio.sleep(1.0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert states == ["ended"]

    in_loop(main())


def test_a_job_with_a_hook_is_polled_once_the_hook_should_have_come(stage: Stage) -> None:
    """Jobs of 3 s: after their time and one repetition of the hook; one of an earlier process as without hooks."""
    stage.teach(3.0)
    stage.polls.set_hook_chance(HOOK_DUE)
    stage.polls.begin("a", is_accepted=True)
    assert 5.9 <= stage.due_in("a") <= 6.6
    stage.polls.set_hook_chance(None)
    stage.polls.begin("b", is_accepted=True)
    assert 2.5 <= stage.due_in("b") <= 3.2


def test_a_post_without_an_answer_is_polled_as_without_hooks(stage: Stage) -> None:
    """It is unknown whether its job exists, so that no hook may ever come."""
    stage.teach(3.0)
    stage.polls.set_hook_chance(HOOK_DUE)
    stage.polls.begin("lost")
    assert stage.due_in("lost") < 3.3


def test_a_job_of_an_earlier_process_is_polled_as_without_hooks(stage: Stage) -> None:
    """Its hook leads to a path that nothing listens on any more."""
    stage.teach(3.0)
    stage.polls.set_hook_chance(HOOK_DUE)
    stage.polls.expect("old", PollWindow(EPOCH + stage.loop.now, EPOCH + 1e6))
    stage.polls.add("old")
    assert stage.polls.next_due() - stage.loop.now < 3.3


def test_the_first_job_shows_whether_hooks_come(stage: Stage) -> None:
    """The job that goes alone is polled after ten seconds and the hook's time, those beside it much later."""
    stage.polls.set_hook_chance(HOOK_DUE)
    stage.polls.begin("first", is_accepted=True)
    assert 12.0 <= stage.due_in("first") <= 14.0
    stage.polls.begin("second", is_accepted=True)
    stage.polls.expect("second", PollWindow(EPOCH, EPOCH + 1e6))
    stage.polls.add("second")
    stage.loop.now += 12.9
    assert stage.polls.pick() is None
    stage.loop.now += 0.2
    assert stage.polls.pick() == "first"
    stage.loop.now += 40.0
    assert stage.polls.pick() is None
    stage.loop.now += 11.0
    assert stage.polls.pick() == "second"


def test_a_few_ends_are_enough_to_miss_a_hook_soon(stage: Stage) -> None:
    """After five jobs of two seconds one whose hook is lost is polled within twenty."""
    stage.teach(2.0, times=5)
    stage.polls.set_hook_chance(HOOK_DUE)
    stage.polls.begin("a", is_accepted=True)
    assert stage.due_in("a") < 20.0


def test_a_poll_is_hastened_only_while_it_waits(stage: Stage) -> None:
    """A job that nothing waits for is not in the queue; one that waits is due at once, and the gate is woken."""
    stage.polls.set_hook_chance(HOOK_DUE)
    stage.polls.begin("a", is_accepted=True)
    assert not stage.polls.make_due("a")
    assert not stage.polls.make_due("b")
    assert stage.due_in("a") > 5.0
    changes = stage.changes
    assert stage.polls.make_due("a")
    assert stage.changes == changes + 1
    assert stage.polls.pick() == "a"
