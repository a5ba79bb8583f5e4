"""How many clones a run keeps in flight, and when it starts no more."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest

from batch.engine.breaker import Breaker
from batch.engine.flight import Flight
from batch.engine.pace import PollPace
from batch.engine.policy import Policy
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
    """One that is closed also where nothing ran on it."""
    loop = VirtualLoop()
    yield loop
    loop.close()


class Airport:
    """A Flight and a clock to move."""

    def __init__(self, most: int, loop: VirtualLoop) -> None:
        self.loop = loop
        self.flight = Flight(most, VirtualClock(self.loop, Random(1)))

    def trouble(self) -> None:
        self.flight.note(NoAnswer("no answer in time", is_push_back=True))

    def ended(self, count: int) -> None:
        for _ in range(count):
            self.flight.note(Done(None))


def test_room_grows_from_four_with_every_ended_job(loop: VirtualLoop) -> None:
    """Until the first trouble one more for each, up to what the operator allows."""
    airport = Airport(8, loop)
    assert airport.flight.room == 4
    airport.ended(3)
    assert airport.flight.room == 7
    airport.ended(30)
    assert airport.flight.room == 8
    assert Airport(2, loop).flight.room == 2


def test_trouble_halves_the_room_once_a_round(loop: VirtualLoop) -> None:
    """Several signs within a second are one; at least one clone stays in flight."""
    airport = Airport(16, loop)
    airport.ended(12)
    for expected in (8, 8, 4, 4, 2, 2, 1, 1, 1):
        airport.trouble()
        assert airport.flight.room == expected
        airport.loop.now += 0.6


def test_after_trouble_room_grows_by_one_a_round(loop: VirtualLoop) -> None:
    """Additive increase: as many ended jobs as there is room make one more place."""
    airport = Airport(16, loop)
    airport.trouble()
    assert airport.flight.room == 2
    airport.ended(1)
    assert airport.flight.room == 2
    airport.ended(1)
    assert airport.flight.room == 3
    airport.ended(3)
    assert airport.flight.room == 4


def test_what_says_nothing_about_load_changes_nothing(loop: VirtualLoop) -> None:
    """A lost connection, a refused one and an accepted job leave the room as it is."""
    airport = Airport(16, loop)
    for answer in (NoAnswer("the connection was lost"), NotSent("refused"), Accepted(None)):
        airport.flight.note(answer)
    assert airport.flight.room == 4


def test_nobody_enters_above_the_room_and_who_came_first_is_first(loop: VirtualLoop) -> None:
    """After a halving the next one enters when enough have left; who gave up waiting is passed over."""
    airport = Airport(4, loop)
    entered: list[int] = []

    async def clone(number: int) -> None:
        await airport.flight.enter()
        entered.append(number)

    async def story() -> None:
        tasks = [asyncio.ensure_future(clone(number)) for number in range(7)]
        await asyncio.sleep(0)
        assert entered == [0, 1, 2, 3]
        airport.trouble()
        airport.flight.leave()
        airport.flight.leave()
        tasks[4].cancel()
        await asyncio.sleep(0)
        assert entered == [0, 1, 2, 3]
        airport.flight.leave()
        await asyncio.sleep(0)
        assert entered == [0, 1, 2, 3, 5]
        tasks[6].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run_virtual(airport.loop, story())


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
    flying, most = 0, 0
    for record in scene.journal.records:
        flying += (record.state is State.SENT and record.attempt == 1) - (record.state is State.CLONED)
        most = max(most, flying)
    assert most < 32


def test_the_slow_jobs_decide_when_a_deadline_is_near(loop: VirtualLoop) -> None:
    """95 of 100 jobs keep to the time that is left before the deadline."""
    clock = VirtualClock(loop, Random(1))
    pace, random = PollPace(Policy(), clock), Random(5)
    times = [random.random() for _ in range(3000)]
    slow = []
    for seconds in times:
        pace.learn(seconds, 1)
        slow.append(pace.slow)
    above = sum(seconds > limit for seconds, limit in zip(times[501:], slow[500:], strict=False))
    assert 0.01 < above / len(times[501:]) < 0.1


def test_an_outage_makes_no_job_look_slow(loop: VirtualLoop) -> None:
    """What was under way when the server came back is not learned from; what is sent later is."""
    clock = VirtualClock(loop, Random(1))
    pace = PollPace(Policy(), clock)
    loop.now = 100.0
    breaker = Breaker(clock, returned=pace.spoil)
    before = pace.delay(0)
    run_virtual(loop, outage(breaker))
    back = loop.now
    loop.now = back + 1.0
    for _ in range(64):
        pace.learn(14.0, 3)
    assert pace.slow == 0.0
    assert pace.delay(0) == pytest.approx(before, rel=0.25)
    pace.learn(0.9, 1)
    assert pace.slow == 0.9


async def outage(breaker: Breaker) -> None:
    """Ten calls without an answer, and one that gets one after the breaker's pause."""

    async def call(answer: object) -> object:
        return answer

    for _ in range(10):
        await breaker.guard(lambda: call(NoAnswer("lost")))
    await breaker.guard(lambda: call(Done(None)))


def test_whoever_waits_for_room_leaves_at_the_stop() -> None:
    """A clone that got its place after the Stop is not begun."""
    scene = Scene(count=20, limits=Limits(concurrency=8, rate=1000.0))
    scene.server.takes = 5.0
    scene.run(at=(7.0, lambda: scene.stop.request("signal")))
    assert scene.past.counts == {State.CLONED: 6}
