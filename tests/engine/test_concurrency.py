"""How many clones a run keeps in flight, and when it starts no more."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest

from batch.engine.dispatch import ConcurrencyLimiter
from batch.errors import EndReason
from batch.model import Limits, State
from batch.zstack.answers import Accepted, Done, NoAnswer, NotSent
from tests.engine.test_run import Scene
from tests.simulation.virtual import VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.model import Clone
    from batch.zstack.answers import SubmitAnswer


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    """A loop that is closed although nothing ran on it."""
    loop = VirtualLoop()
    yield loop
    loop.close()


class LimiterStage:
    """A ConcurrencyLimiter and a clock to move."""

    def __init__(self, most: int, loop: VirtualLoop) -> None:
        self.loop = loop
        self.limiter = ConcurrencyLimiter(most, VirtualClock(self.loop, Random(1)))

    def trouble(self) -> None:
        self.limiter.note(NoAnswer("no answer in time", is_push_back=True))

    def ended(self, count: int) -> None:
        for _ in range(count):
            self.limiter.note(Done(None))


def test_the_limit_starts_at_the_set_concurrency(loop: VirtualLoop) -> None:
    """Ended jobs raise it no further."""
    stage = LimiterStage(200, loop)
    assert stage.limiter.limit == 200
    stage.ended(300)
    assert stage.limiter.limit == 200


@pytest.mark.parametrize(
    "trouble", [NoAnswer("no answer in time", is_push_back=True), NotSent("connection refused")], ids=str
)
def test_trouble_halves_the_limit_once_a_round(trouble: NoAnswer | NotSent, loop: VirtualLoop) -> None:
    """Several signs within a second are one; at least one clone stays in flight."""
    stage = LimiterStage(16, loop)
    for expected in (8, 8, 4, 4, 2, 2, 1, 1, 1):
        stage.limiter.note(trouble)
        assert stage.limiter.limit == expected
        loop.now += 0.6


def test_after_trouble_the_limit_recovers_in_rounds(loop: VirtualLoop) -> None:
    """As many ended jobs as the limit raise it by an eighth of the set concurrency, and never above that."""
    stage = LimiterStage(16, loop)
    stage.trouble()
    assert stage.limiter.limit == 8
    stage.ended(7)
    assert stage.limiter.limit == 8
    stage.ended(1)
    assert stage.limiter.limit == 10
    stage.ended(1000)
    assert stage.limiter.limit == 16


def test_answers_unrelated_to_load_change_nothing(loop: VirtualLoop) -> None:
    """A lost connection, an accepted job, the server's own rate limit and a call that was not made are no trouble."""
    stage = LimiterStage(16, loop)
    over_limit, cut = NotSent("HTTP 429", is_over_limit=True), NotSent("stopped", is_held_back=True)
    for answer in (NoAnswer("the connection was lost"), Accepted(None), over_limit, cut):
        stage.limiter.note(answer)
    assert stage.limiter.limit == 16


def test_the_limit_holds_and_waiters_enter_in_order(loop: VirtualLoop) -> None:
    """After a halving the next one enters when enough have left; a waiter that gave up is skipped."""
    stage = LimiterStage(4, loop)
    entered: list[int] = []

    async def clone(number: int) -> None:
        await stage.limiter.acquire()
        entered.append(number)

    async def scenario() -> None:
        tasks = [asyncio.ensure_future(clone(number)) for number in range(7)]
        await asyncio.sleep(0)
        assert entered == [0, 1, 2, 3]
        stage.trouble()
        stage.limiter.release()
        stage.limiter.release()
        tasks[4].cancel()
        await asyncio.sleep(0)
        assert entered == [0, 1, 2, 3]
        stage.limiter.release()
        await asyncio.sleep(0)
        assert entered == [0, 1, 2, 3, 5]
        tasks[6].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run_virtual(stage.loop, scenario())


def test_an_overloaded_server_gets_fewer_clones_at_a_time() -> None:
    """A run whose server asks to come back later keeps fewer in flight than it may."""
    scene = Scene(count=150, limits=Limits(concurrency=32, rate=1000.0))
    pushed: list[str] = []

    def answer(clone: Clone) -> SubmitAnswer | None:
        if clone.key in {"k20", "k21"} and clone.key not in pushed:
            pushed.append(clone.key)
            return NoAnswer("429", 1.0, is_push_back=True)
        return None

    scene.server.answer = answer
    assert scene.run() == {State.CLONED: 150}
    in_flight = 0
    when_sent: dict[str, int] = {}
    for record in scene.journal.records:
        in_flight += (record.state is State.SENT and record.attempt == 1) - (record.state is State.CLONED)
        when_sent.setdefault(record.key, in_flight)
    assert when_sent["k20"] > 18
    assert max(when_sent[f"k{number}"] for number in range(45, 55)) <= 20


def test_a_waiter_for_a_slot_leaves_at_the_stop() -> None:
    """A clone that got its slot after the Stop is not begun."""
    scene = Scene(count=20, limits=Limits(concurrency=8, rate=1000.0))
    scene.server.takes = 5.0
    scene.run(at=(8.0, lambda: scene.stop.request("signal", EndReason.SIGNAL)))
    assert scene.past.counts == {State.CLONED: 9}
