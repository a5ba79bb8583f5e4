"""Limits changed during a run: each applies at once, and none loses a clone."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pytest

from batch.engine.control import GRACE, Controls
from batch.engine.gate import cap_limits
from batch.errors import EndReason
from batch.model import Limits, State
from tests.engine.test_run import Scene
from tests.simulation.virtual import EPOCH, VirtualThrottler

if TYPE_CHECKING:
    from collections.abc import Callable

RATE: Final = 40.0
_HOURS: Final = 3 * 3600.0


class Stage(Scene):
    """A run whose limits are changed at times by the virtual clock."""

    def __init__(self, *, count: int, concurrency: int = 8, rate: float = RATE, takes: float = 1.0) -> None:
        super().__init__(count=count, limits=Limits(concurrency=concurrency), rate=rate)
        self.server.takes = takes
        self.controls: Controls = Controls(
            self.gate,
            self.stop,
            rate=rate,
            concurrency=concurrency,
            cap=lambda wanted: VirtualThrottler(*cap_limits(wanted), self.loop),
        )
        self.stop.on_request(lambda: self.gate.stop(GRACE))
        self.stop.on_drain(lambda: self.gate.suspend(_HOURS))

    def play(self, *script: tuple[float, Callable[[], None]]) -> Counter[str]:
        for at, change in script:
            self.loop.call_later(at, change)
        return self.run()

    def calls(self, start: float, end: float, *kinds: str) -> list[float]:
        """Return when calls were made in that span of seconds."""
        return [at for at, kind, _ in self.server.log if start <= at < end and (not kinds or kind in kinds)]


@pytest.mark.parametrize("rate", [4.0, 0.5, 200.0])
def test_a_new_rate_applies_from_the_next_call(rate: float) -> None:
    """Lower or higher, from one tenth of a second on calls are as far apart as the new rate has them."""
    stage = Stage(count=400, concurrency=40)
    stage.play((4.0, lambda: stage.controls.set_rate(rate)), (24.0, lambda: stage.controls.set_rate(RATE)))
    before, after = stage.calls(1.0, 4.0), stage.calls(4.1, 24.0)
    assert len(before) == pytest.approx(3 * RATE, rel=0.05)
    if rate < RATE:
        assert len(after) == pytest.approx(20 * rate, abs=2)
    else:
        assert len(stage.calls(4.1, 4.6)) == pytest.approx(0.5 * rate, rel=0.1)
    assert min(later - earlier for earlier, later in pairwise(after)) >= min(1 / rate, 0.05) - 0.051


def test_a_wait_at_one_call_an_hour_is_cut_short() -> None:
    """A caller that waits for a turn far away gets the next one by the new rate."""
    stage = Stage(count=5, rate=1 / 3600.0)
    assert stage.play((30.0, lambda: stage.controls.set_rate(10.0))) == {"cloned": 5}
    assert stage.loop.now < 60


def test_concurrency_grows_and_shrinks_at_once() -> None:
    """More clones begin as soon as more are allowed, with no job ended before; fewer once enough have."""
    stage = Stage(count=500, concurrency=2, rate=1000.0, takes=5.0)
    stage.play((6.0, lambda: stage.controls.set_concurrency(20)), (20.0, lambda: stage.controls.set_concurrency(3)))
    flight, most = 0, Counter[str]()
    for record in stage.journal.records:
        flight += {State.SENT: 1, State.CLONED: -1}.get(record.state, 0)
        at = record.at - stage.journal.records[0].at
        most["first" if at < 6 else "second" if at < 20 else "third" if at > 27 else "between"] = max(
            flight, most["first" if at < 6 else "second" if at < 20 else "third" if at > 27 else "between"]
        )
    assert (most["first"], most["second"], most["third"]) == (2, 20, 3)
    assert len(stage.calls(6.0, 6.5, "submit")) >= 18


def test_a_pause_sends_nothing_and_loses_nothing() -> None:
    """No POST is sent in a pause; what is in flight settles; after it the rest is cloned, each with one POST."""
    stage = Stage(count=200, concurrency=30)
    found = stage.play((2.0, stage.controls.pause), (_HOURS, stage.controls.resume))
    assert found == {"cloned": 200}
    assert stage.calls(2.011, _HOURS, "submit") == []
    assert stage.calls(2.0 + GRACE, _HOURS) == []
    settled = [record for record in stage.journal.records if record.state is State.CLONED]
    posted = len(stage.calls(0.0, 2.011, "submit"))
    assert sum(record.at - settled[0].at < 2 * GRACE for record in settled) == posted
    assert stage.server.count("submit") == 200


def test_consecutive_pauses() -> None:
    """Each holds like the first one."""
    stage = Stage(count=200, concurrency=30)
    pause, resume = stage.controls.pause, stage.controls.resume
    assert stage.play((2.0, pause), (100.0, resume), (101.0, pause), (_HOURS, resume)) == {"cloned": 200}
    assert stage.calls(101.011, _HOURS, "submit") == stage.calls(2.011, 100.0, "submit") == []
    assert stage.calls(100.0, 101.0, "submit") != []


def test_a_long_job_stays_open_through_a_pause() -> None:
    """After the grace nothing is polled; the job that ended meanwhile is found when the run resumes."""
    stage = Stage(count=3, takes=600.0)
    assert stage.play((900.0, stage.controls.pause), (_HOURS, stage.controls.resume)) == {"cloned": 3}
    assert stage.calls(900.0 + GRACE + 0.1, _HOURS) == []


def test_a_delayed_post_is_recorded_again() -> None:
    """A POST sent hours after its record gets a new one before: a later process counts from that."""
    stage = Stage(count=60, concurrency=30, rate=10.0)
    stage.play((2.5, stage.controls.pause), (_HOURS, stage.controls.resume))
    sent = [(record.key, record.at - EPOCH) for record in stage.journal.records if record.state is State.SENT]
    posted = {key: at for at, kind, key in stage.server.log if kind == "submit"}
    assert max(posted[key] - at for key, at in dict(sent).items()) < 60.0
    assert len(sent) > len(dict(sent))
    assert stage.past.counts == {State.CLONED: 60}


def test_a_stop_ends_a_pause_within_the_grace() -> None:
    """What is in flight settles or stays open, nothing new is sent, and the run ends."""
    stage = Stage(count=200, concurrency=30)
    stop = lambda: stage.stop.request("SIGTERM", EndReason.SIGNAL)  # noqa: E731 - too short for a def
    stage.play((2.0, stage.controls.pause), (500.0, stop))
    assert stage.loop.now <= 500.0 + GRACE + 1
    assert stage.calls(2.011, 1e9, "submit") == []
    assert set(stage.past.counts) <= {State.CLONED, State.PLANNED}


def test_a_drain_ends_once_everything_in_flight_has_settled() -> None:
    """Nothing new is sent, and jobs longer than any grace are waited for."""
    stage = Stage(count=200, concurrency=30, takes=300.0)
    stage.play((450.0, stage.controls.drain))
    posted = stage.server.count("submit")
    assert stage.calls(450.011, 1e9, "submit") == []
    assert 1 < posted < 200
    assert stage.past.counts[State.CLONED] == posted
    assert stage.stop.code is EndReason.SIGNAL


def test_a_signal_after_a_drain_ends_it_within_the_grace() -> None:
    """A stop counts although the run is draining: what does not settle in 30 s stays open."""
    stage = Stage(count=200, concurrency=30, takes=300.0)
    stop = lambda: stage.stop.request("SIGTERM", EndReason.SIGNAL)  # noqa: E731 - too short for a def
    stage.play((450.0, stage.controls.drain), (460.0, stop))
    assert stage.loop.now <= 460.0 + GRACE + 1
    assert stage.stop.reason == "SIGTERM"
    assert stage.past.counts[State.ACCEPTED] > 0


def test_commands_before_a_pool_begins_apply_from_its_start() -> None:
    """A pause and another concurrency that came while the run was prepared; sent twice, each counts once."""
    stage = Stage(count=60, concurrency=8)
    controls = stage.controls
    controls.resume()
    before = controls.changed_concurrency
    controls.set_concurrency(3)
    for _ in range(2):
        controls.pause()
    assert (controls.is_paused, before, controls.changed_concurrency) == (True, None, 3)
    assert stage.play((50.0, controls.resume)) == {"cloned": 60}
    assert controls.rate_in_force == RATE
    assert stage.calls(0.0, 50.0, "submit") == []
    assert stage.calls(50.0, 1e9, "submit") != []


def test_a_pause_is_taken_back_before_a_pool_begins() -> None:
    """The run proceeds as if there had been none."""
    stage = Stage(count=5)
    stage.controls.pause()
    stage.controls.resume()
    assert stage.run() == {"cloned": 5}
    assert stage.loop.now < 60


def test_an_ending_run_accepts_no_pause() -> None:
    """After a stop nothing is paused, and a resume of an earlier pause lets no call go; a drain changes nothing."""
    stage = Stage(count=200, concurrency=30)
    controls = stage.controls

    def end() -> None:
        stage.stop.request("SIGTERM", EndReason.SIGNAL)
        controls.resume()
        controls.pause()
        controls.drain()

    stage.play((2.0, controls.pause), (10.0, end))
    assert not controls.is_paused
    assert stage.stop.reason == "SIGTERM"
    assert stage.calls(2.011, 1e9, "submit") == []
