"""Waves: their size, when the next one starts, and where a resumed run continues."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from batch.engine.admission import take_first, wave_sizes
from batch.errors import EndReason, ExitCode
from batch.model import QUARANTINED, Intent, Limits, Record, State, Wave
from batch.report.figures import exit_code
from batch.zstack.answers import ApiError, ErrorClass, Refused, Running, SubmitAnswer
from tests.engine.test_run import Scene, clones
from tests.simulation.virtual import EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from batch.model import Clone

STAGED = (Wave(1), Wave(5), Wave(share=0.2))
NO = Refused(ApiError(ErrorClass.PERMANENT, "SYS.1007", "no"))


def refusing(*keys: str) -> Callable[[Clone], SubmitAnswer | None]:
    return lambda clone: NO if clone.key in keys else None


def scene(**limits: Any) -> Scene:
    return Scene(limits=Limits(waves=STAGED, **limits))


def started_waves(events: list[MutableMapping[str, Any]]) -> list[tuple[int, int]]:
    return [(event["wave"], event["targets"]) for event in events if event["event"] == "wave.started"]


@pytest.mark.parametrize(
    ("waves", "targets", "expected"),
    [
        (STAGED, 20, (1, 5, 4, 10)),
        (STAGED, 21, (1, 5, 5, 10)),
        (STAGED, 4, (1, 3)),
        (STAGED, 1, (1,)),
        ((Wave(7), Wave(share=1.0)), 5, (5,)),
        ((), 5, (5,)),
        ((), 0, (0,)),
        (STAGED, 0, (0,)),
    ],
)
def test_the_rest_is_the_last_wave(waves: tuple[Wave, ...], targets: int, expected: tuple[int, ...]) -> None:
    """Shares are rounded up, waves beyond the last target left out, and the rest goes last."""
    assert wave_sizes(waves, targets) == expected


def test_a_part_of_the_queue_takes_only_its_own() -> None:
    """Items that stand for none are passed on and not counted; what is not requested stays in the queue."""
    queue = iter([1, None, 2, 3])
    assert list(take_first(queue, 2)) == [1, None, 2]
    assert list(take_first(queue, 5)) == [3]


def test_a_wave_starts_when_the_one_before_it_settled() -> None:
    """No clone of a wave is sent before every clone of the earlier ones has its end."""
    run = scene()
    with capture_logs() as events:
        assert run.run() == {"cloned": 20}
    assert started_waves(events) == [(1, 1), (2, 5), (3, 4), (4, 10)]
    sent = [(at, key) for at, kind, key in run.server.log if kind == "submit"]
    ends = [run.server.made[clone.resource_uuid] for clone in clones(20)]
    for border in (1, 6, 10):
        assert max(ends[:border]) <= sent[border][0]


def test_any_failure_holds_the_next_wave_back() -> None:
    """Without max_failures one failed clone is enough; the rest of its wave continues; the run says why it ended."""
    run = scene()
    run.server.answer = refusing("k2")
    with capture_logs() as events:
        assert run.run() == {"cloned": 5, "failed": 1}
    assert started_waves(events) == [(1, 1), (2, 5)]
    assert run.stop.reason == "wave 3 of 4 is not started: 1 of 6 settled clones failed: fix them, then zclone retry"


@pytest.mark.parametrize(
    ("max_failures", "failing", "waves"),
    [(1.0, ("k2",), 4), (1.0, ("k2", "k3"), 2), (0.2, ("k2",), 4), (0.2, ("k0",), 1), (math.inf, ("k0", "k2"), 4)],
)
def test_a_wave_may_fail_within_max_failures(max_failures: float, failing: tuple[str, ...], waves: int) -> None:
    """A number or a share of all that settled may fail, counted from the first clone on."""
    run = scene(max_failures=max_failures)
    run.server.answer = refusing(*failing)
    with capture_logs() as events:
        run.run()
    assert len(started_waves(events)) == waves


def record_states(run: Scene, states: list[State]) -> None:
    """Record what an earlier process left."""
    for number, state in enumerate(states):
        run.journal.records.append(Record(state, f"k{number}", EPOCH, 1))


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([State.CLONED] * 3, [(2, 3), (3, 4), (4, 10)]),
        ([State.CLONED] * 6, [(3, 4), (4, 10)]),
        ([State.CLONED, State.FAILED], [(2, 4)]),
        ([State.CLONED] * 5 + [State.FAILED], []),
        ([State.CLONED] * 20, []),
    ],
)
def test_a_resumed_run_continues_in_its_wave(states: list[State], expected: list[tuple[int, int]]) -> None:
    """Targets that settled before count; a wave that was begun continues, the next one is judged by all before it."""
    run = scene()
    record_states(run, states)
    with capture_logs() as events:
        run.run()
    assert started_waves(events) == expected


def test_an_uncertain_clone_has_not_settled() -> None:
    """A wave with an uncertain clone is not followed by the next, whatever may fail."""
    run = scene(max_failures=math.inf)
    record_states(run, [State.CLONED, State.UNCERTAIN])
    uuids = (clones(2)[1].source_uuid, clones(2)[1].resource_uuid, clones(2)[1].digest)
    set_aside = Intent("k1", State.UNCERTAIN, *uuids, 1, "5" * 32, EPOCH, EPOCH, error_code=QUARANTINED)
    run.intents["k1"] = set_aside
    with capture_logs() as events:
        run.run()
    assert [wave for wave, _ in started_waves(events)] == [2]
    assert run.stop.reason == "wave 3 of 4 is not started: 1 clones are uncertain"


def test_clones_in_flight_count_in_their_wave() -> None:
    """A clone that an earlier process sent takes its place in the wave that continues."""
    run = scene()
    record_states(run, [State.CLONED] * 3)
    clone = clones(4)[3]
    run.intents["k3"] = Intent(
        "k3", State.SENT, clone.source_uuid, clone.resource_uuid, clone.digest, 1, "5" * 32, EPOCH, EPOCH, EPOCH + 1800
    )
    run.server.jobs["5" * 32] = clone.resource_uuid
    run.server.made[clone.resource_uuid] = 1.0
    with capture_logs() as events:
        assert run.run() == {"cloned": 20}
    assert [wave for wave, _ in started_waves(events)] == [2, 3, 4]
    assert run.server.count("submit") == 16


def test_a_stop_ends_the_wave_and_no_other_starts() -> None:
    """Asked to end within a wave, the run starts no other one."""
    run = scene()
    with capture_logs() as events:
        run.run(at=(1.5, lambda: run.stop.request("SIGTERM", EndReason.SIGNAL)))
    assert started_waves(events) == [(1, 1), (2, 5)]
    assert run.stop.reason == "SIGTERM"


HELD = [
    pytest.param(Limits(waves=(Wave(2),)), 2, EndReason.WAVE, id="wave"),
    pytest.param(Limits(max_failures=1), 12, EndReason.MAX_FAILURES, id="max_failures"),
]


def run_held_back(limits: Limits, before: int) -> tuple[Scene, str]:
    """Run one clone, failures up to ``before``, and a target in flight, which is queried; return its job uuid."""
    run = Scene(count=before + 2, limits=limits)
    record_states(run, [State.CLONED, *[State.FAILED] * (before - 1)])
    clone, job = clones(before + 1)[before], "5" * 32
    sent = (clone.source_uuid, clone.resource_uuid, clone.digest, 1, job, EPOCH - 60.0, EPOCH - 60.0)
    run.intents[clone.key] = Intent(clone.key, State.SENT, *sent, deadline=EPOCH - 1.0)
    return run, job


@pytest.mark.parametrize(("limits", "before", "reason"), HELD)
def test_an_attempt_held_back_by_failures_waits_for_the_operator(
    limits: Limits, before: int, reason: EndReason
) -> None:
    """An attempt in doubt that is not sent again records from when on no rerun learns more: exit 4 has an end."""
    run, _ = run_held_back(limits, before)
    assert run.run() == {"cloned": 1, "failed": before - 1, "uncertain": 1}
    assert run.stop.code is reason
    last = run.journal.records[-1]
    assert (last.key, last.until) == (f"k{before}", EPOCH - 60.0 + 1860.0)
    assert run.server.count("submit") == 0


@pytest.mark.parametrize(("limits", "before", "reason"), HELD)
def test_an_attempt_held_back_after_a_definite_end_is_planned(limits: Limits, before: int, reason: EndReason) -> None:
    """An attempt that ended and is not sent again is no longer in flight: 3, as only the operator can continue."""
    run, job = run_held_back(limits, before)
    run.server.ends[job] = Refused(ApiError(ErrorClass.TRANSIENT, "ID.2003", "later", None))
    assert run.run() == {"cloned": 1, "failed": before - 1, "planned": 1}
    last = run.journal.records[-1]
    assert (last.key, last.attempt) == (f"k{before}", 1)
    assert exit_code(run.past.counts, reason=run.stop.code) is ExitCode.FAILED


@pytest.mark.parametrize(("limits", "before", "reason"), HELD)
def test_a_job_held_back_by_failures_may_run_on(limits: Limits, before: int, reason: EndReason) -> None:
    """A job that the server still works at is not sent again in any case: nothing is recorded of it."""
    run, job = run_held_back(limits, before)
    key = f"k{before}"
    run.intents[key] = replace(run.intents[key], deadline=EPOCH + 1e6)
    run.server.ends[job] = Running()
    assert run.run() == {"cloned": 1, "failed": before - 1, "accepted": 1}
    assert run.stop.code is reason
    assert run.server.count("submit") == 0


def test_clones_waiting_for_the_proof_are_settled_when_their_wave_is_held_back() -> None:
    """Nothing proves that the server honours resourceUuid: each is uncertain with its time, not only the first."""
    run = scene()
    for clone in clones(20):
        sent = (clone.source_uuid, clone.resource_uuid, clone.digest, 1, "5" * 32, EPOCH - 60.0, EPOCH - 60.0)
        run.intents[clone.key] = Intent(clone.key, State.UNCERTAIN, *sent, deadline=EPOCH - 1.0)
    assert run.run() == {"uncertain": 20}
    assert run.stop.code is EndReason.WAVE
    assert {record.until for record in run.journal.records} == {EPOCH - 60.0 + 1860.0}
    assert run.server.count("submit") == 0


def test_clones_waiting_for_the_proof_are_unchanged_at_a_stop() -> None:
    """Asked to end meanwhile, the run records no more of what it may not send again."""
    run = Scene(count=20)
    for clone in clones(20):
        sent = (clone.source_uuid, clone.resource_uuid, clone.digest, 1, "5" * 32, EPOCH - 60.0, EPOCH - 60.0)
        run.intents[clone.key] = Intent(clone.key, State.UNCERTAIN, *sent, deadline=EPOCH - 1.0)
    note = run.journal.note

    def end(record: Record) -> None:
        run.stop.request("SIGTERM", EndReason.SIGNAL)
        note(record)

    run.journal.note = end  # type: ignore[method-assign]
    assert run.run() == {"uncertain": 1}
    assert len(run.journal.records) == 1
    assert run.server.count("submit") == 0
