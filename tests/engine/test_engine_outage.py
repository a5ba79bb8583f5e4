"""A total outage under load: retries stay few, the run pauses and goes on by itself."""

from __future__ import annotations

import pytest

from batch.model import Limits, State
from tests.engine.test_run import Scene


def most_in_a_minute(times: list[float]) -> int:
    return max((sum(1 for at in times if first <= at < first + 60) for first in times), default=0)


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_retries_during_an_outage_stay_within_a_tenth_of_the_first_attempts(concurrency: int) -> None:
    """While the server is away at most a tenth of the first attempts, or ten a minute, is sent again."""
    scene = Scene(count=300, limits=Limits(concurrency=concurrency))
    scene.loop.call_later(3.0, lambda: setattr(scene.server, "away", True))
    counts = scene.run(at=(603.0, lambda: setattr(scene.server, "away", False)))
    assert counts == {State.CLONED: 300}
    sent: set[str] = set()
    retries, firsts = [], 0
    for at, kind, what in scene.server.log:
        if kind == "submit" and 3.0 <= at < 603.0 and what in sent:
            retries.append(at)
        if kind == "submit" and at < 603.0:
            firsts += what not in sent
            sent.add(what)
    assert most_in_a_minute(retries) <= max(10, firsts / 10)
    assert len(retries) <= max(10 * 10, firsts / 10)
