"""A total outage under load: retries stay few, the run pauses and resumes by itself."""

from __future__ import annotations

import pytest

from batch.model import Limits, State
from tests.engine.test_run import Scene


def most_in_a_minute(times: list[float]) -> int:
    return max((sum(1 for at in times if first <= at < first + 60) for first in times), default=0)


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_retries_in_an_outage_stay_within_a_tenth_of_the_first_attempts(concurrency: int) -> None:
    """While the server is away at most a tenth of the first attempts, or ten a minute, is sent again."""
    scene = Scene(count=2000, limits=Limits(concurrency=concurrency))
    scene.server.takes = 0.0
    scene.loop.call_later(1.0, lambda: setattr(scene.server, "away", True))
    counts = scene.run(at=(603.0, lambda: setattr(scene.server, "away", False)))
    assert counts == {State.CLONED: 2000}
    sent: set[str] = set()
    retries, firsts = [], 0
    for at, kind, what in scene.server.log:
        if kind == "submit" and 1.0 <= at < 603.0 and what in sent:
            retries.append(at)
        if kind == "submit" and at < 603.0:
            firsts += what not in sent
            sent.add(what)
    calls = [at for at, _, _ in scene.server.log if 63.0 < at < 603.0]
    assert 0 < most_in_a_minute(calls) <= 10
    assert most_in_a_minute(retries) <= max(10, firsts / 10)
    assert len(retries) <= max(10 * 10, firsts / 10)
