"""The Gate: first come first served, evenly spaced, never above the rate, close to it while there is work."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from batch.engine import Gate
from tests.simulation.virtual import VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Sequence


class TimedLoop(VirtualLoop):
    """Counts the timers that are set."""

    timers = 0

    def call_at(self, *args: Any, **more: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        self.timers += 1
        return super().call_at(*args, **more)


def fullest(times: Sequence[float], seconds: float) -> int:
    """Return how many of the sorted ``times`` lie in the fullest such span."""
    within: deque[float] = deque()
    most = 0
    for moment in times:
        within.append(moment)
        while moment - within[0] >= seconds:
            within.popleft()
        most = max(most, len(within))
    return most


def passes(rate: float, waiters: int, calls: int) -> tuple[list[float], list[int]]:
    """Times and order of ``calls`` passes by ``waiters`` tasks on a virtual clock."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(1))
    times: list[float] = []
    order: list[int] = []

    async def main() -> None:
        gate = Gate(rate, clock=clock)
        numbers = iter(range(calls))

        async def worker() -> None:
            for number in numbers:
                await gate.wait()
                times.append(loop.time())
                order.append(number)

        await asyncio.gather(*(worker() for _ in range(waiters)))

    run_virtual(loop, main())
    return times, order


@pytest.mark.parametrize("waiters", [1, 16, 200])
@pytest.mark.parametrize("rate", [0.5, 2.5, 10, 40, 333, 3000])
def test_no_window_of_one_second_holds_more_than_the_rate(rate: float, waiters: int) -> None:
    """In any second at most ceil(rate) calls pass, and the mean is close to the rate from the first second on."""
    calls = max(20, int(rate * 4))
    times, _ = passes(rate, waiters, calls)
    most = max(sum(1 for later in times[i:] if later < start + 1) for i, start in enumerate(times[: len(times) // 2]))
    assert most <= max(1, -(-rate // 1))
    # The n calls span n-1 spaces.
    assert (calls - 1) / (times[-1] - times[0]) == pytest.approx(rate, rel=0.04)


@pytest.mark.parametrize("waiters", [1, 512])
@pytest.mark.parametrize("rate", [74, 100, 1000, 3000])
def test_a_timer_lets_in_many(rate: float, waiters: int) -> None:
    """However many calls pass in a second and however many wait, no more than 75 timers are set in it."""
    loop = TimedLoop()

    async def main() -> None:
        gate = Gate(rate, clock=VirtualClock(loop, Random(1)))

        async def worker() -> None:
            while loop.now < 3:
                await gate.wait()

        await asyncio.gather(*(worker() for _ in range(waiters)))

    run_virtual(loop, main())
    assert 35 < loop.timers / loop.now < 75


@pytest.mark.parametrize(
    ("rate", "workers", "busy"), [(3000, 1, 0.0003), (3000, 64, 0.02), (1000, 8, 0.007), (100, 4, 0.01)]
)
def test_who_has_work_between_its_calls_gets_the_whole_rate(rate: float, workers: int, busy: float) -> None:
    """Callers just fast enough for the rate reach it, with as few timers as those who only wait."""
    loop = TimedLoop()
    times: list[float] = []

    async def main() -> None:
        gate, random = Gate(rate, clock=VirtualClock(loop, Random(1))), Random(3)

        async def worker() -> None:
            while loop.now < 5:
                await gate.wait()
                times.append(loop.now)
                await asyncio.sleep(busy * (0.5 + random.random()))

        await asyncio.gather(*(worker() for _ in range(workers)))

    run_virtual(loop, main())
    assert (len(times) - 1) / (times[-1] - times[0]) == pytest.approx(rate, rel=0.012)
    assert fullest(times, 1.0) <= rate
    assert fullest(times, 0.1) <= 0.13 * rate
    # Each of the callers' own sleeps is a timer too.
    assert loop.timers - len(times) < 75 * loop.now


@pytest.mark.parametrize("rate", [10, 100, 3000])
def test_rest_is_not_saved_up(rate: float) -> None:
    """After a long rest no more pass at once than in a twentieth of a second, or two where that is less."""
    loop = VirtualLoop()

    async def main() -> list[float]:
        gate = Gate(rate, clock=VirtualClock(loop, Random(1)))
        for _ in range(100):
            await gate.wait()
        await asyncio.sleep(100)
        times = []
        for _ in range(round(rate)):
            await gate.wait()
            times.append(loop.now)
        return times

    assert fullest(run_virtual(loop, main()), 0.001) <= max(2, 0.05 * rate)


def test_the_gate_counts_what_it_let_pass() -> None:
    """Every call that passed is counted, and no POST that was turned away."""
    loop = VirtualLoop()

    async def main() -> int:
        gate = Gate(10, clock=VirtualClock(loop, Random(1)))
        await asyncio.gather(gate.wait(), gate.wait(), gate.wait_to_send())
        waiting = asyncio.ensure_future(gate.wait_to_send())
        await asyncio.sleep(0)
        gate.stop_sending()
        await asyncio.gather(waiting, gate.wait_to_send(), gate.wait())
        return gate.calls

    assert run_virtual(loop, main()) == 4


def test_calls_are_spaced_evenly() -> None:
    """At 40 calls a second no two calls are closer than three quarters of their even distance."""
    times, _ = passes(40, 16, 200)
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) >= 0.75 / 40


def test_waiters_pass_in_the_order_they_came() -> None:
    """Nobody overtakes, however many wait."""
    _, order = passes(500, 300, 1500)
    assert order == sorted(order)


def test_nothing_passes_during_a_pause() -> None:
    """A pause holds every call back, also those that already wait, and a shorter one does not end it early."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(1))

    async def main() -> list[float]:
        gate = Gate(10, clock=clock)
        times = []

        async def worker() -> None:
            for _ in range(4):
                await gate.wait()
                times.append(loop.time())

        async with asyncio.TaskGroup() as group:
            group.create_task(worker())
            group.create_task(worker())
            await asyncio.sleep(0.15)
            gate.pause(7)
            gate.pause(1)
        return times

    times = run_virtual(loop, main())
    assert not [moment for moment in times if 0.15 < moment < 7.15]
    assert len(times) == 8


def test_a_stop_turns_away_posts_and_lets_polls_pass() -> None:
    """After stop_sending a POST is told no at once, also one that already waits; a poll passes."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(1))

    async def main() -> tuple[bool, bool, float]:
        gate = Gate(0.1, clock=clock)
        first = await gate.wait_to_send()
        waiting = asyncio.ensure_future(gate.wait_to_send())
        await asyncio.sleep(1)
        gate.stop_sending()
        second = await waiting
        told = loop.time()
        assert await gate.wait_to_send() is False
        assert loop.time() == told
        await gate.wait()
        return first, second, loop.time() - told

    first, second, poll_wait = run_virtual(loop, main())
    assert (first, second) == (True, False)
    assert poll_wait > 0


def test_a_stop_leaves_the_queue_to_those_who_ask() -> None:
    """POSTs in the queue are told at once, a poll between them passes at its time, and then nothing is left running."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(1))

    async def main() -> tuple[list[bool], float, int]:
        gate = Gate(0.1, clock=clock)
        await gate.wait()
        posts = [asyncio.ensure_future(gate.wait_to_send())]
        poll = asyncio.ensure_future(gate.wait())
        posts.append(asyncio.ensure_future(gate.wait_to_send()))
        await asyncio.sleep(1)
        gate.stop_sending()
        told = await asyncio.gather(*posts)
        assert loop.time() == 1
        await poll
        passed_at = loop.time()
        another = Gate(0.1, clock=clock)
        await another.wait()
        post = asyncio.ensure_future(another.wait_to_send())
        await asyncio.sleep(1)
        another.stop_sending()
        await post
        await asyncio.sleep(20)
        return told, passed_at, len(asyncio.all_tasks())

    told, passed_at, tasks = run_virtual(loop, main())
    assert told == [False, False]
    assert passed_at == pytest.approx(10, rel=0.05)
    assert tasks == 1


def test_those_who_leave_the_queue_keep_nobody_waiting() -> None:
    """Cancelled waiters cost no call, and when all have left nothing is left running."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(1))

    async def main() -> tuple[float, int]:
        gate = Gate(1, clock=clock)
        await gate.wait()
        began = loop.time()
        leaving = [asyncio.ensure_future(gate.wait()) for _ in range(5)]
        staying = asyncio.ensure_future(gate.wait())
        await asyncio.sleep(0.1)
        for waiter in leaving:
            waiter.cancel()
        await staying
        passed_after = loop.time() - began
        last = asyncio.ensure_future(gate.wait())
        await asyncio.sleep(0.1)
        last.cancel()
        await asyncio.sleep(0.1)
        return passed_after, len(asyncio.all_tasks())

    passed_after, tasks = run_virtual(loop, main())
    assert passed_after == pytest.approx(1, rel=0.05)
    assert tasks == 1


def test_who_comes_as_the_last_one_leaves_is_let_in() -> None:
    """One who begins to wait in the moment in which all others are cancelled passes at its time."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(1))

    async def main() -> tuple[float, int]:
        gate = Gate(1, clock=clock)
        await gate.wait()
        leaving = asyncio.ensure_future(gate.wait())
        await asyncio.sleep(0.1)
        leaving.cancel()
        coming = asyncio.ensure_future(gate.wait())
        async with asyncio.timeout(30):
            await coming
        await asyncio.sleep(0.1)
        return loop.time() - 0.1, len(asyncio.all_tasks())

    passed_at, tasks = run_virtual(loop, main())
    assert passed_at == pytest.approx(1, rel=0.05)
    assert tasks == 1


def test_a_pause_holds_back_who_was_just_let_in() -> None:
    """A pause that comes between the usher's nod and the call is kept; a POST turned away meanwhile is told so."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(1))

    async def main() -> list[float]:
        gate = Gate(3000, clock=clock)
        times = []

        async def poll() -> None:
            await gate.wait()
            times.append(loop.time())
            gate.pause(5)

        for _ in range(30):
            await gate.wait()
        await asyncio.gather(*(poll() for _ in range(3)))
        return times

    times = run_virtual(loop, main())
    assert [after - before for before, after in pairwise(times)] == pytest.approx([5.0, 5.0], abs=0.2)


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_that_would_wait_for_ever_is_refused(rate: float) -> None:
    """A rate must be above 0."""
    loop = VirtualLoop()
    with pytest.raises(ValueError, match="above 0"):
        Gate(rate, clock=VirtualClock(loop, Random(1)))
    loop.close()
