"""The Gate: first come first served, evenly spaced, never above the rate, close to it while there is work; its stop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest

from batch.engine import Gate, hard_cap
from batch.engine.control import NOT_AFTER, DeadlineGate
from batch.engine.poll_schedule import PollWindow
from batch.model import CallKind
from tests.simulation.virtual import EPOCH, VirtualClock, VirtualLoop, run_virtual, virtual_gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

POST, ASK = CallKind.CLONE, CallKind.QUESTION
HOUR = 3600.0


def on_gate(rate: float, script: Callable[[Gate, VirtualLoop], Awaitable[None]]) -> None:
    """Run the script with a Gate on a virtual clock; nothing of the Gate may be left running after it."""
    loop = VirtualLoop()

    async def main() -> int:
        await script(virtual_gate(rate, loop), loop)
        return len(asyncio.all_tasks())

    assert run_virtual(loop, main()) == 1


def passes(gate: Gate, loop: VirtualLoop, waiters: int, calls: int) -> tuple[list[float], list[int]]:
    """Return times and order of ``calls`` passes by ``waiters`` tasks."""
    times: list[float] = []
    order: list[int] = []

    async def main() -> None:
        numbers = iter(range(calls))

        async def worker() -> None:
            for number in numbers:
                assert await gate.wait(ASK)
                times.append(loop.time())
                order.append(number)

        await asyncio.gather(*(worker() for _ in range(waiters)))

    run_virtual(loop, main())
    return times, order


def times_of(rate: float, waiters: int, calls: int) -> list[float]:
    loop = VirtualLoop()
    return passes(virtual_gate(rate, loop), loop, waiters, calls)[0]


def most_calls(times: Sequence[float], seconds: float) -> int:
    """Return how many of the sorted ``times`` lie in the fullest such span."""
    within: deque[float] = deque()
    most = 0
    for moment in times:
        within.append(moment)
        while moment - within[0] >= seconds:
            within.popleft()
        most = max(most, len(within))
    return most


@pytest.mark.parametrize("waiters", [1, 16, 512])
@pytest.mark.parametrize("rate", [1 / HOUR, 0.5, 1, 1.1, 2.5, 7.5, 10, 40, 199.5, 200, 333, 3000])
def test_no_second_holds_more_than_the_rate(rate: float, waiters: int) -> None:
    """In any second at most floor(rate) + 1 calls pass, no more than the rate itself in a minute, and 0.99 of it."""
    calls = max(20, int(rate * 8))
    times = times_of(rate, waiters, calls)
    assert most_calls(times, 1.0) <= int(rate) + 1
    for seconds in (60.0, 10 * HOUR):
        assert most_calls(times, seconds) <= max(1, -(-rate * seconds // 1))
    # The n calls span n-1 spaces.
    assert 0.99 <= (calls - 1) / (times[-1] - times[0]) / rate <= 1


@pytest.mark.parametrize("rate", [1 / HOUR, 0.5, 1, 7.5, 40, 200])
def test_both_caps_hold_to_one_schedule(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one clock the published Throttler and the simulation's let every call pass at the same moment."""
    schedules = []
    for is_published in (True, False):
        loop = VirtualLoop(1000.0)
        gate = virtual_gate(rate, loop)
        if is_published:
            monkeypatch.setattr(time, "monotonic", loop.time)
            gate = Gate(rate, cap=hard_cap(rate), clock=VirtualClock(loop, Random(1)))
        schedules.append(passes(gate, loop, 16, max(20, int(rate * 4)))[0])
    assert schedules[0] == schedules[1]


@pytest.mark.parametrize("rate", [0.5, 1, 7.5, 40])
def test_the_cap_holds_without_the_slots(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a distance between the slots the cap alone keeps every second to floor(rate) + 1, fractions too."""
    monkeypatch.setattr("batch.engine.gate._PACE", 0.0)
    times = times_of(rate, 16, max(20, int(rate * 8)))
    assert most_calls(times, 1.0) == -(-rate // 1)
    assert (len(times) - 1) / (times[-1] - times[0]) <= rate * 1.2


def test_one_caller_at_a_time_enters_the_cap() -> None:
    """However many wait, they enter the cap one after the other."""
    inside, most = 0, 0

    class Slow:
        async def __aenter__(self) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.1)
            inside -= 1

        async def __aexit__(self, *_: object) -> None:
            return None

    loop = VirtualLoop()
    times, order = passes(Gate(1000, cap=Slow(), clock=VirtualClock(loop, Random(1))), loop, 30, 60)
    assert (most, order) == (1, sorted(order))
    assert len(times) == 60


@pytest.mark.parametrize("rate", [10, 100, 3000])
def test_idle_time_is_not_saved_up(rate: float) -> None:
    """After a long idle time calls are spaced as ever, or go together as far as one timer serves them."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        for _ in range(100):
            await gate.wait(ASK)
        await asyncio.sleep(100)
        times = []
        for _ in range(round(rate)):
            await gate.wait(ASK)
            times.append(loop.now)
        assert most_calls(times, 0.001) <= max(1, 0.012 * rate)

    on_gate(rate, script)


@pytest.mark.parametrize("late", [0.005, 0.02])
@pytest.mark.parametrize("rate", [7.5, 40, 200])
def test_late_timers_cost_no_calls(rate: float, late: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The delay of late timers is made up: 0.99 of the rate is reached, and no second is too full."""
    sleep, number = asyncio.sleep, 0

    async def oversleep(seconds: float) -> None:
        nonlocal number
        number += 1
        await sleep(seconds + late * (number % 3 == 0))

    monkeypatch.setattr("batch.engine.gate.asyncio.sleep", oversleep)
    times = times_of(rate, 16, int(rate * 30))
    assert (len(times) - 1) / (times[-1] - times[0]) / rate > 0.99
    assert most_calls(times, 1.0) <= int(rate) + 1


def test_calls_are_spaced_evenly() -> None:
    """At 40 calls a second no two calls are closer than three quarters of their even distance."""
    gaps = [after - before for before, after in pairwise(times_of(40, 16, 200))]
    assert min(gaps) >= 0.75 / 40


def test_waiters_pass_in_the_order_they_came() -> None:
    """No waiter overtakes another, however many wait."""
    loop = VirtualLoop()
    _, order = passes(virtual_gate(500, loop), loop, 300, 1500)
    assert order == sorted(order)


def test_the_gate_counts_passed_calls() -> None:
    """Every call that passed is counted, also the logout, and none that was cut."""

    async def script(gate: Gate, _: VirtualLoop) -> None:
        await asyncio.gather(gate.wait(ASK), gate.wait(ASK), gate.wait(POST))
        waiting = asyncio.ensure_future(gate.wait(POST))
        await asyncio.sleep(0)
        gate.stop(30)
        assert list(await asyncio.gather(waiting, gate.wait(POST), gate.wait(ASK))) == [False, False, True]
        assert gate.calls == 4
        assert await gate.wait(CallKind.LOGOUT)
        assert gate.calls == 5

    on_gate(10, script)


def test_nothing_passes_during_a_pause() -> None:
    """A pause holds every call back, also waiting ones, and a shorter one does not end it early."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        times = []

        async def worker() -> None:
            for _ in range(4):
                await gate.wait(ASK)
                times.append(loop.time())

        async with asyncio.TaskGroup() as group:
            group.create_task(worker())
            group.create_task(worker())
            await asyncio.sleep(0.15)
            gate.pause(7)
            gate.pause(1)
        assert not [moment for moment in times if 0.15 < moment < 7.149]
        assert len(times) == 8

    on_gate(10, script)


def test_a_pause_that_begins_while_the_cap_is_full_is_kept() -> None:
    """A call that a full cap holds back when the server asks to come back later waits for that, too."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(1))

    class Full:
        async def __aenter__(self) -> None:
            await asyncio.sleep(1)

        async def __aexit__(self, *_: object) -> None:
            return None

    async def main() -> float:
        gate = Gate(10, cap=Full(), clock=clock)
        waiting = asyncio.ensure_future(gate.wait(ASK))
        await asyncio.sleep(0.5)
        gate.pause(20)
        await waiting
        return loop.now

    assert run_virtual(loop, main()) >= 20.5


def test_each_pause_is_reported_with_its_length() -> None:
    """A pause is reported once, and again when the server asks for one that ends more than a second later."""
    loop = VirtualLoop()
    pauses: list[float] = []

    async def main() -> None:
        gate = virtual_gate(10, loop, paused=pauses.append)
        for seconds in (7.0, 7.0, 7.5, 3.0, 900.0):
            gate.pause(seconds)
            await asyncio.sleep(0.1)

    run_virtual(loop, main())
    assert pauses == [7.0, 900.0]


def test_a_stop_rejects_posts_and_lets_polls_pass() -> None:
    """After a stop a POST is cut at once, also a waiting one; a poll passes at its time."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        assert await gate.wait(POST)
        posts = [asyncio.ensure_future(gate.wait(POST))]
        poll = asyncio.ensure_future(gate.wait(ASK))
        posts.append(asyncio.ensure_future(gate.wait(POST)))
        await asyncio.sleep(1)
        gate.stop(30)
        assert await asyncio.gather(*posts, gate.wait(POST)) == [False, False, False]
        assert loop.now == 1
        assert await poll
        assert loop.now == pytest.approx(10, rel=0.05)

    on_gate(0.1, script)


@pytest.mark.parametrize("rate", [1 / HOUR, 1 / 60, 0.1, 0.5, 2, 40])
def test_a_stop_lets_calls_pass_whose_turn_is_within_the_grace(rate: float) -> None:
    """Of a hundred waiting polls, those whose turn comes in the 30 s pass at the rate; the others are cut at once."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        await gate.wait(ASK)
        ends: list[tuple[bool, float]] = []

        async def poll() -> None:
            is_passed = await gate.wait(ASK)
            ends.append((is_passed, loop.now))

        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(poll())
            await asyncio.sleep(0.001)
            gate.stop(30)
        passed = [at for is_passed, at in ends if is_passed]
        assert len(passed) == pytest.approx(min(100, int(30 * rate)), abs=1)
        assert all(at < 30.1 for at in passed)
        assert {at for is_passed, at in ends if not is_passed} <= {0.001}

    on_gate(rate, script)


@pytest.mark.parametrize("kind", [POST, ASK])
def test_a_call_after_the_stop_is_cut_if_its_turn_is_too_late(kind: CallKind) -> None:
    """At 1/h a poll that comes within the grace is rejected at once, like a POST."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        await gate.wait(ASK)
        gate.stop(30)
        await asyncio.sleep(5)
        assert not await gate.wait(kind)
        assert loop.now == 5

    on_gate(1 / HOUR, script)


def test_a_stop_cuts_a_pause() -> None:
    """A pause longer than the grace cuts the calls that wait for its end, whether stop or pause came first."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        gate.pause(900)
        waiting = asyncio.ensure_future(gate.wait(ASK))
        await asyncio.sleep(8)
        gate.stop(30)
        assert not await waiting
        assert loop.now == 8
        other = virtual_gate(1, loop)
        await other.wait(ASK)
        waiting = asyncio.ensure_future(other.wait(ASK))
        await asyncio.sleep(0)
        other.stop(30)
        other.pause(900)
        assert not await waiting
        assert loop.now == 8

    on_gate(10, script)


def test_after_the_grace_only_the_logout_passes() -> None:
    """A stop without grace cuts everything that waits, also at a free slot; the logout passes rate and pause."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        gate.pause(900)
        waiting = [asyncio.ensure_future(gate.wait(kind)) for kind in (ASK, POST, ASK)]
        await asyncio.sleep(0)
        gate.stop(30)
        gate.stop(0)
        assert await asyncio.gather(*waiting) == [False, False, False]
        assert await gate.wait(CallKind.LOGOUT)
        fresh = virtual_gate(40, loop)
        fresh.stop(0)
        assert not await fresh.wait(ASK)
        assert loop.now == 0

    on_gate(1 / HOUR, script)


def test_a_post_whose_turn_coincides_with_the_stop_is_cut() -> None:
    """A stop in the very moment of its turn still holds a POST back."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        await gate.wait(POST)
        # After the timer that wakes the POST and before it continues.
        loop.call_at(1.006 + 5e-10, gate.stop, 30)
        assert not await gate.wait(POST)
        assert loop.now == 1.006

    on_gate(1, script)


def test_cancelled_waiters_delay_no_other() -> None:
    """Cancelled waiters cost no call, whether they are first in the queue or not, and nothing is left running."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        await gate.wait(ASK)
        leaving = [asyncio.ensure_future(gate.wait(ASK)) for _ in range(5)]
        staying = asyncio.ensure_future(gate.wait(ASK))
        await asyncio.sleep(0.1)
        for waiter in leaving:
            waiter.cancel()
        await staying
        assert loop.now == pytest.approx(1, rel=0.05)
        last = asyncio.ensure_future(gate.wait(ASK))
        await asyncio.sleep(0.1)
        last.cancel()
        await asyncio.wait({last})

    on_gate(1, script)


def test_a_new_waiter_passes_as_the_last_one_is_cancelled() -> None:
    """One who begins to wait in the moment in which all others are cancelled passes at its time."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        await gate.wait(ASK)
        leaving = asyncio.ensure_future(gate.wait(ASK))
        await asyncio.sleep(0.1)
        leaving.cancel()
        async with asyncio.timeout(30):
            await gate.wait(ASK)
        assert loop.now == pytest.approx(1, rel=0.05)

    on_gate(1, script)


@pytest.mark.parametrize("kind", [ASK, CallKind.POLL])
def test_a_waiter_cancelled_at_its_turn_costs_a_slot_at_most(kind: CallKind) -> None:
    """Cancelled just before or just after its turn was given: the next one passes at the next slot."""

    async def script(gate: Gate, loop: VirtualLoop) -> None:
        gate.polls.begin("job")
        gate.polls.expect("job", None)
        gate.polls.expect("unknown", None)
        granted = asyncio.ensure_future(gate.wait(kind, "job"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        granted.cancel()
        leaving, staying = (asyncio.ensure_future(gate.wait(ASK)) for _ in range(2))
        # After the timer that gives the turn, and before it is given.
        loop.call_at(1.006 + 5e-10, leaving.cancel)
        assert await staying
        assert granted.cancelled()
        assert leaving.cancelled()
        assert loop.now <= 2.1

    on_gate(1, script)


def test_the_turn_of_a_cancelled_waiter_is_not_lost() -> None:
    """A waiter cancelled while the cap is full gives up its turn; a delayed poll passes at its own time."""
    loop = VirtualLoop()

    class Full:
        async def __aenter__(self) -> None:
            await asyncio.sleep(1)

        async def __aexit__(self, *_: object) -> None:
            return None

    async def main() -> float:
        gate = Gate(10, cap=Full(), clock=VirtualClock(loop, Random(1)))
        gate.polls.begin("job")
        gate.polls.expect("job", PollWindow(EPOCH, EPOCH + 5.0))
        for _ in range(100):
            gate.polls.times.note_running(0.0, 600.0)
        gate.polls.times.refresh()
        poll = asyncio.ensure_future(gate.wait(CallKind.POLL, "job"))
        leaving = asyncio.ensure_future(gate.wait(ASK))
        await asyncio.sleep(0.5)
        leaving.cancel()
        assert await poll
        return loop.now

    assert 5.0 <= run_virtual(loop, main()) <= 6.5


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_an_invalid_rate_is_refused(rate: float) -> None:
    """A rate must be above 0."""
    loop = VirtualLoop()
    with pytest.raises(ValueError, match="above 0"):
        Gate(rate, cap=hard_cap(1), clock=VirtualClock(loop, Random(1)))
    loop.close()


def test_a_call_that_changes_the_server_is_not_made_after_its_deadline() -> None:
    """Others are, and pauses and slower rates reach the gate itself."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(1))
    inner = Gate(10, cap=hard_cap(10), clock=clock)
    gate = DeadlineGate(inner, clock)
    passed: list[bool] = []

    async def main() -> None:
        passed.append(await gate.wait(CallKind.CLONE))
        NOT_AFTER.set(clock.monotonic() + 5.0)
        passed.append(await gate.wait(CallKind.CLONE))
        gate.pause(10.0)
        passed.append(await gate.wait(CallKind.CLONE))
        passed.append(await gate.wait(CallKind.QUESTION))

    run_virtual(loop, main())
    assert passed == [True, True, False, True]
    assert gate.slow_down()
    assert inner.rate.is_lowered
