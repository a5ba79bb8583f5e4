"""How long jobs take, learned from polls that say only that a job still runs or has ended."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from batch.engine.job_times import JobTimes

if TYPE_CHECKING:
    from collections.abc import Callable

JOBS = 400


def polled(seconds: Callable[[Random], float], *, chance: float = 0.2) -> tuple[JobTimes, list[float], float]:
    """Poll jobs one after the other, as soon as an end is that likely: what was learned, times, polls per job."""
    times, random, lengths, polls = JobTimes(), Random(1), [], 0
    for _ in range(JOBS):
        length, age, running_at = seconds(random), 0.0, 0.0
        lengths.append(length)
        while True:
            age = max(times.age_at(chance, running_at=running_at), running_at * 1.02)
            polls += 1
            if age >= length:
                break
            times.note_running(running_at, age)
            running_at = age
            times.refresh()
        times.note_end(running_at, age)
        times.refresh()
    return times, sorted(lengths), polls / JOBS


DISTRIBUTIONS = {
    "instant": lambda random: 0.03,
    "constant": lambda random: 3.0,
    "even": lambda random: random.uniform(2.0, 6.0),
    "two kinds": lambda random: random.choice((1.0, 30.0)),
    "heavy tail": lambda random: random.lognormvariate(1.0, 1.0),
    "hours": lambda random: random.uniform(3000.0, 9000.0),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_quantiles_are_those_of_the_jobs(name: str, share: float) -> None:
    """For any distribution a quantile lies near the jobs' own, or in a gap between them."""
    times, lengths, _ = polled(DISTRIBUTIONS[name])
    learned = times.quantile(share)
    assert lengths[int(JOBS * (share - 0.1))] * 0.85 <= learned <= lengths[int(JOBS * min(0.999, share + 0.1))] * 1.25


@pytest.mark.parametrize("name", ["instant", "constant"])
def test_similar_jobs_are_polled_hardly_more_than_once(name: str) -> None:
    """Once their length is known, the first poll finds them ended."""
    _, _, polls = polled(DISTRIBUTIONS[name], chance=0.6)
    assert polls < 2.2


def test_nothing_is_known_at_first() -> None:
    """No quantile, and the next poll of a job comes the later the longer it has run."""
    times = JobTimes()
    assert times.quantile(0.95) == 0.0
    first = times.age_at(0.1, running_at=0.0)
    assert 0.02 <= first < 0.1
    assert times.age_at(0.1, running_at=10.0) - 10.0 > times.age_at(0.1, running_at=1.0) - 1.0


def test_early_short_jobs_do_not_make_long_ones_look_short() -> None:
    """Of ten jobs of 1 s and ten that were seen to run at 5 s half have not ended by 5 s."""
    times = JobTimes()
    for _ in range(10):
        times.note_running(0.0, 5.0)
        times.note_end(0.0, 1.0)
    times.refresh()
    assert times.chance(4.9, running_at=0.0) == pytest.approx(0.5, abs=0.05)
    assert times.chance(4.9, running_at=2.0) < 0.05


def test_a_slower_server_is_followed() -> None:
    """After as many slow jobs as fast ones before them most are thought to be slow."""
    times = JobTimes()
    for seconds in (1.0, 9.0):
        for _ in range(1500):
            times.note_running(0.0, seconds * 0.9)
            times.note_end(seconds * 0.9, seconds)
    times.refresh()
    assert times.quantile(0.4) > 8.0


@pytest.mark.parametrize("age", [0.0, 0.001, 0.02, 3.0, 1e4, 1e9])
def test_ages_of_all_sizes(age: float) -> None:
    """From nothing to years: chances stay between 0 and 1, and the next age is finite."""
    times = JobTimes()
    times.note_running(0.0, age)
    times.note_end(age, age * 2)
    times.refresh()
    assert 0.0 <= times.chance(age * 3, running_at=age) <= 1.0
    assert 0.0 < times.age_at(0.999999, running_at=age) < 1e6
