"""Clones in flight at repeated crashes are found by counting, run alone at the end, and quarantined."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batch.errors import EndReason
from batch.model import QUARANTINED, Intent, Limits, State
from batch.zstack.answers import ApiError, ErrorClass, Refused
from tests.engine.test_run import Scene, clones
from tests.simulation.virtual import EPOCH


def open_intent(number: int, state: State, deaths: int, code: str | None = None) -> Intent:
    """What an earlier process left of clone ``number``."""
    clone = clones(number + 1)[number]
    job = "b" * 31 + str(number)
    return Intent(
        clone.key,
        state,
        clone.source_uuid,
        clone.resource_uuid,
        clone.digest,
        1,
        job,
        1_700_000_000.0,
        1_700_000_000.0,
        error_code=code,
        deaths=deaths,
    )


def scene(*intents: Intent, is_cut_off: bool = True) -> Scene:
    found = Scene(
        count=6, limits=Limits(rate=1000.0, concurrency=4), intents={intent.key: intent for intent in intents}
    )
    found.past.is_cut_off = is_cut_off
    return found


def test_clones_in_flight_at_a_crash_are_counted_before_they_are_queried() -> None:
    """The next process continues the count even if this one crashes at its first query."""
    found = scene(open_intent(0, State.SENT, 0), open_intent(1, State.ACCEPTED, 2), open_intent(2, State.UNCERTAIN, 0))
    found.run()
    assert found.journal.taken_up == [("k0", "k1", "k2")]


def test_nothing_is_counted_after_a_clean_end() -> None:
    """A process that ended cleanly did not crash."""
    found = scene(open_intent(0, State.SENT, 3), is_cut_off=False)
    found.run()
    assert found.journal.taken_up == []


def test_clones_not_in_flight_are_not_counted() -> None:
    """An attempt that was taken back crashed nothing."""
    found = scene(replace(open_intent(0, State.PLANNED, 9), job_uuid=None))
    found.run()
    assert found.journal.taken_up == []
    assert found.past.counts == {State.CLONED: 6}


def test_after_four_crashes_a_clone_goes_alone_and_last() -> None:
    """Everything else is settled before it is queried, and it is counted just then."""
    found = scene(open_intent(0, State.SENT, 3), open_intent(1, State.SENT, 2))
    found.run()
    assert found.journal.taken_up == [("k1",), ("k0",)]
    assert found.past.counts == {State.CLONED: 6}
    assert found.journal.records[-1].key == "k0"
    others = max(at for at, record in enumerate(found.journal.records) if record.key != "k0")
    assert others < min(at for at, record in enumerate(found.journal.records) if record.key == "k0")


@pytest.mark.parametrize("state", [State.SENT, State.ACCEPTED, State.UNCERTAIN])
def test_after_a_crash_alone_it_is_quarantined(state: State) -> None:
    """It ends as uncertain, with a code, its uuid and what to do; nothing is sent or queried."""
    found = scene(open_intent(0, state, 4))
    assert found.run() == {State.UNCERTAIN: 1, State.CLONED: 5}
    record = next(record for record in found.journal.records if record.key == "k0")
    assert record.error_code == QUARANTINED
    assert record.error is not None
    assert clones(1)[0].resource_uuid in record.error
    assert "zclone retry --state uncertain" in record.error
    assert not any(what in {"k0", "b" * 31 + "0"} for _, _, what in found.server.log)


def test_a_quarantined_clone_stays_so() -> None:
    """Later runs leave it alone and write nothing about it."""
    found = scene(open_intent(0, State.UNCERTAIN, 0, QUARANTINED), is_cut_off=False)
    found.run()
    assert not any(record.key == "k0" for record in found.journal.records)
    assert not any(what in {"k0", "b" * 31 + "0"} for _, _, what in found.server.log)


def test_a_suspect_without_a_proof_is_not_sent_again() -> None:
    """Nothing shows that the server honours resourceUuid: it ends uncertain with the time from which it waits."""
    found = scene(open_intent(0, State.SENT, 3))
    no = Refused(ApiError(ErrorClass.PERMANENT, "SYS.1007", "no"))
    found.server.answer = lambda clone: no
    assert found.run() == {State.FAILED: 5, State.UNCERTAIN: 1}
    record = next(record for record in found.journal.records if record.key == "k0")
    assert record.until == EPOCH + 1860.0
    assert [what for _, kind, what in found.server.log if kind == "submit"] == ["k1", "k2", "k3", "k4", "k5"]


def test_a_stop_leaves_suspects_for_the_next_run() -> None:
    """They are last, so that a signal may come before their turn."""
    found = scene(open_intent(0, State.SENT, 3))
    found.server.takes = 50.0
    found.run(at=(0.5, lambda: found.stop.request("signal", EndReason.SIGNAL)))
    assert not any(record.key == "k0" for record in found.journal.records)
