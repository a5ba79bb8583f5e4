"""The server's own rate limiter: all calls pause, the rate is lowered and grows back, and no clone is charged."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from random import Random

import pytest

from batch.engine.adaptive_rate import AdaptiveRate
from batch.engine.settle import settle
from batch.engine.steps import End, Send
from batch.model import CallKind, State
from batch.zstack.answers import Accepted, Done, NotSent
from tests.engine.scripted_api import CLONE, MemoryJournal, ScriptedApi, new_dependencies, service
from tests.simulation.virtual import VirtualClock, VirtualLoop, run_virtual, virtual_gate

LIMITED = NotSent("HTTP 429: Rate limit exceeded", is_over_limit=True)


@dataclass
class LimitedServer:
    """Admits ``limit`` calls in any ``window`` seconds; some callers use a gate as long as the test lasts."""

    limit: int
    window: float
    rate: float
    seconds: float = 150.0
    callers: int = 8
    loop: VirtualLoop = field(default_factory=VirtualLoop)
    calls: list[tuple[float, bool]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def run(self) -> None:
        gate = virtual_gate(self.rate, self.loop, paused=self.pauses.append)
        admitted: deque[float] = deque()

        async def call() -> None:
            while self.loop.now < self.seconds:
                await gate.wait(CallKind.QUESTION)
                await asyncio.sleep(0.01)
                now = self.loop.now
                while admitted and now - admitted[0] >= self.window:
                    admitted.popleft()
                is_admitted = len(admitted) < self.limit
                if is_admitted:
                    admitted.append(now)
                self.calls.append((now, is_admitted))
                await asyncio.sleep(0.01)
                if not is_admitted:
                    assert gate.slow_down()

        async def main() -> None:
            await asyncio.gather(*(call() for _ in range(self.callers)))

        run_virtual(self.loop, main())

    def after_the_first_refusal(self, seconds: float) -> tuple[float, float]:
        """Return the share of calls that were refused in that time, and of the limit that was used."""
        first = next(at for at, is_admitted in self.calls if not is_admitted)
        seen = [is_admitted for at, is_admitted in self.calls if first <= at < first + seconds]
        return seen.count(False) / len(seen), seen.count(True) / (self.limit / self.window * seconds)


@pytest.mark.parametrize("rate", [31.0, 40.0, 80.0])
def test_the_rate_finds_what_the_server_admits(rate: float) -> None:
    """150 calls in any 5 s: in the two minutes after the first refusal few are refused and most of it is used."""
    server = LimitedServer(150, 5.0, rate)
    server.run()
    refused, used = server.after_the_first_refusal(120.0)
    assert refused < 0.02
    assert used >= 0.9
    assert server.pauses


def test_a_limiter_of_a_minute_is_not_hammered() -> None:
    """12,000 in any minute, at twice the rate: a call in a hundred is refused at most."""
    server = LimitedServer(12_000, 60.0, 400.0, seconds=200.0)
    server.run()
    refused, used = server.after_the_first_refusal(150.0)
    assert refused < 0.01
    assert used > 0.5


def test_pauses_double_with_consecutive_refusals_and_then_reset() -> None:
    """From about a second up to half a minute; calls under way at the first one change nothing."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(3))
    rate = AdaptiveRate(50.0, clock)
    for least in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        pause = rate.slow_down()
        assert 0.75 * least <= pause <= 1.25 * least
        assert rate.slow_down() == 0.0
        loop.now += pause
        assert rate.note_call() == pytest.approx(50.0 * 0.85, rel=0.01)
    for _ in range(200):
        rate.note_call()
        loop.now += 0.02
    assert rate.slow_down() <= 1.25
    loop.close()


def test_the_rate_grows_back_to_the_set_one() -> None:
    """A server that refuses nothing more is called as often as before within minutes, and never more often."""
    loop = VirtualLoop()
    rate = AdaptiveRate(50.0, VirtualClock(loop, Random(3)))
    loop.now += rate.slow_down()
    assert rate.is_lowered
    for _ in range(3000):
        assert rate.note_call() <= 50.0
        loop.now += 0.1
    assert rate.note_call() == 50.0
    loop.close()


def test_a_limited_post_costs_the_clone_nothing() -> None:
    """No poll, no lookup, no attempt, no wait of its own and nothing of the retry budget, however often it comes."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(7))
    script = [*[("submit", LIMITED)] * 11, ("submit", Accepted(None)), ("poll", Done(service()))]
    api, journal = ScriptedApi(script), MemoryJournal()
    deps = new_dependencies(api, journal, clock)
    deps = replace(deps, budget=_NoBudget())  # type: ignore[arg-type]
    step = run_virtual(loop, settle(CLONE, Send(1), deps))
    assert isinstance(step, End)
    assert (step.state, step.attempt) == (State.CLONED, 1)
    assert [kind for kind, _ in api.calls] == ["submit"] * 12 + ["poll"]
    assert len({argument for kind, argument in api.calls if kind == "submit"}) == 1
    assert loop.now < 1.0
    # It is recorded again if the pauses are long: the next process counts from when it was sent.
    assert 1 < sum(record.state is State.SENT for record in journal.records) < 12


class _NoBudget:
    """A budget that allows no retry and accepts first POSTs."""

    def note_first(self) -> None:
        """Accept it."""

    def reward(self) -> None:
        """Accept it."""


def test_each_change_of_the_rate_is_reported_with_its_value() -> None:
    """A refusal that lowers it, and its return to the set rate; growing back is not reported call by call."""
    loop, rates = VirtualLoop(), list[float]()
    rate = AdaptiveRate(100.0, VirtualClock(loop, Random(1)))
    rate.on_change = lambda now, _: rates.append(now)
    assert rate.slow_down() > 0
    assert rates == [85.0] == [rate.value]
    assert rate.slow_down() == 0
    loop.now += 5.0
    while rate.is_lowered:
        rate.note_call()
        loop.now += 0.5
    rate.note_call()
    assert rates == [85.0, 100.0]
    assert rate.value == 100.0
    loop.now += 60.0
    assert rate.slow_down() > 0
    rate.set_maximum(rate.value)
    assert rates[3:] == [rate.value]
    loop.close()
