"""The budget of a run for second POSTs, and how many clones it keeps in flight."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from batch.engine.control import Stop
from batch.engine.policy import Policy, RetryBudget, retry_cost
from batch.engine.settle import settle
from batch.engine.steps import End, Send
from batch.errors import EndReason
from batch.model import Limits, State
from batch.zstack.answers import Accepted, Done, NoAnswer, NotSent
from tests.engine.scripted_api import CLONE, MemoryJournal, ScriptedApi, new_dependencies, service
from tests.engine.test_run import Scene
from tests.simulation.virtual import VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from batch.engine.steps import Step

RETRY = retry_cost(is_after_silence=False)


class Spender:
    """A budget, and the times at which its retries passed."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.stop = Stop()
        self.budget = RetryBudget(VirtualClock(self.loop, Random(1)))
        self.times: list[float] = []

    async def spend(self, count: int, *, cost: float = RETRY, is_answered: bool = False) -> None:
        for _ in range(count):
            await self.budget.reserve(cost, self.stop)
            self.times.append(self.loop.time())
            self.budget.note_retry(cost, is_answered=is_answered)

    def run(self, scenario: Coroutine[None, None, None]) -> list[float]:
        run_virtual(self.loop, scenario)
        return self.times


def test_ten_fruitless_retries_are_allowed_in_any_minute() -> None:
    """Without first POSTs the eleventh waits until the first is a minute old."""
    spender = Spender()
    times = spender.run(spender.spend(25))
    assert times[:10] == [0.0] * 10
    assert all(later - one >= 60.0 for one, later in zip(times, times[10:], strict=False))


def test_a_tenth_of_the_first_posts_may_be_fruitless_retries() -> None:
    """With 300 first POSTs in a minute thirty retries may go unanswered, and not one more."""
    spender = Spender()
    for _ in range(300):
        spender.budget.note_first()
    times = spender.run(spender.spend(31))
    assert times[29] == 0.0
    assert times[30] >= 60.0


def test_the_first_posts_of_an_earlier_minute_do_not_count() -> None:
    """The ratio is of the last minute."""
    spender = Spender()

    async def scenario() -> None:
        for _ in range(300):
            spender.budget.note_first()
        await asyncio.sleep(61.0)
        spender.budget.note_first()
        await spender.spend(11)

    times = spender.run(scenario())
    assert times[9] == 61.0
    assert times[10] >= 121.0


def test_an_answered_retry_costs_nothing() -> None:
    """However many are needed: an answered retry does not burden the server."""
    spender = Spender()
    assert set(spender.run(spender.spend(2000, is_answered=True))) == {0.0}


def test_an_answer_ends_the_outage() -> None:
    """As soon as any call is answered the waiting clones continue."""
    spender = Spender()
    spender.loop.call_later(7.0, spender.budget.note, Accepted(None))
    times = spender.run(spender.spend(15))
    assert times[9:] == [0.0] + [7.0] * 5


def test_a_lost_call_ends_no_outage() -> None:
    """Neither a call that was not sent nor one without an answer says that the server is back."""
    spender = Spender()
    for answer in (NotSent("refused"), NoAnswer("lost")):
        spender.loop.call_later(7.0, spender.budget.note, answer)
    assert spender.run(spender.spend(11))[10] >= 60.0


def test_a_retry_counts_while_it_is_under_way() -> None:
    """Ten unanswered ones leave no room for an eleventh, however long their answers take."""
    spender = Spender()

    async def scenario() -> None:
        for _ in range(10):
            await spender.budget.reserve(RETRY, spender.stop)
        asyncio.get_running_loop().call_later(500.0, lambda: spender.budget.note_retry(RETRY, is_answered=True))
        await spender.spend(1)

    assert spender.run(scenario())[0] >= 500.0


@pytest.mark.parametrize(("cost", "most"), [(retry_cost(is_after_silence=True), 50), (RETRY, 100)])
def test_an_empty_bucket_leaves_the_minimum(cost: float, most: int) -> None:
    """500 tokens pay for 50 retries after silence or 100 others; then ten a minute, whatever the ratio allows."""
    spender = Spender()
    for _ in range(2_000):
        spender.budget.note_first()
    times = spender.run(spender.spend(most + 1, cost=cost))
    assert times[most - 1] == 0.0
    assert times[most] >= 60.0


def test_clones_made_by_their_first_post_fill_the_bucket() -> None:
    """One token each: five pay for a retry."""
    spender = Spender()
    for _ in range(2_000):
        spender.budget.note_first()

    async def scenario() -> None:
        await spender.spend(100)
        for _ in range(5):
            spender.budget.reward()
        await spender.spend(2)

    times = spender.run(scenario())
    assert times[100] == 0.0
    assert times[101] >= 60.0


def test_a_waiting_retry_leaves_at_the_stop() -> None:
    """A waiting clone does not delay the end of the run."""
    spender = Spender()
    spender.loop.call_later(5.0, spender.stop.request, "signal", EndReason.SIGNAL)
    run_virtual(spender.loop, spender.spend(11))
    assert spender.loop.now == 5.0


def test_a_waiting_retry_is_not_charged() -> None:
    """Waiting for the budget neither fails a clone nor uses up its time or its attempts."""
    loop = VirtualLoop()
    clock, policy, journal = VirtualClock(loop, Random(7)), Policy(timeout=30.0), MemoryJournal()
    api = ScriptedApi([("submit", Accepted(None)), ("poll", Done(service()))])
    budget, stop = RetryBudget(clock), Stop()
    world = replace(new_dependencies(api, journal, clock, policy=policy, stop=stop), budget=budget)
    given_up = End(State.FAILED, 1)

    async def scenario() -> Step:
        for _ in range(50):
            budget.note(Accepted(None))
            await budget.reserve(retry_cost(is_after_silence=True), stop)
            budget.note_retry(retry_cost(is_after_silence=True), is_answered=False)
        return await settle(CLONE, Send(2, None, clock.time(), given_up, is_after_silence=True), world)

    step = run_virtual(loop, scenario())
    assert isinstance(step, End)
    assert (step.state, step.attempt) == (State.CLONED, 2)
    assert loop.now > 60.0


def test_a_clone_that_was_never_sent_has_its_whole_time() -> None:
    """If no byte of the POST was sent during an outage, its timeout begins with the POST that is sent."""
    scene = Scene(count=3, limits=Limits(timeout=20.0))
    scene.server.away = True
    assert scene.run(at=(120.0, lambda: setattr(scene.server, "away", False))) == {State.CLONED: 3}
