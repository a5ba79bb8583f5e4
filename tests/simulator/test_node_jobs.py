"""Api jobs: rows, cache, purge, polls, web hooks, restarts (zstack/README.md 6, 7 and 12)."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from batch.simulator.faults import FaultKind
from batch.simulator.wire import Drop, Later, Response
from tests.simulator.simulator_bench import CLONE, SERVICES, SOURCE, Bench, decoded, hit, job, outcome


def test_a_job_is_202_until_done_and_then_repeats_its_result() -> None:
    """The poll needs no credential, says 202 {} while processing, then the same result at each read."""
    bench = Bench()
    bench.post({"resourceUuid": CLONE})
    assert bench.poll() == (202, {})
    bench.wait()
    first = bench.poll()
    assert (first[0], first[1]["inventory"]["uuid"]) == (200, CLONE)
    assert bench.poll() == first


def test_a_poll_shows_the_schema_when_asked() -> None:
    """X-JSON-Schema adds the classes of the inventory and of its images, these first."""
    bench = Bench()
    bench.clone()
    reply = bench.send("GET", f"/v1/api-jobs/{job()}", headers={"x-json-schema": "true"})
    assert decoded(reply)[1]["schema"] == {
        "inventory.modelServiceImages[0]": "org.zstack.ai.entity.ModelServiceImageInventory",
        "inventory": "org.zstack.ai.entity.ModelServiceInventory",
    }


def test_done_rows_are_purged_by_creation_and_processing_ones_never() -> None:
    """A scan each hour deletes done rows created more than three hours ago, and leaves orphans."""
    bench = Bench(cache_size=1, faults=hit(FaultKind.ORPHAN, requests=2))
    bench.clone(job=job(1))
    bench.post(job=job(2))
    bench.clone(job=job(3))
    bench.wait(10_000)
    assert bench.poll(job(1))[0] == 200
    bench.wait(4_400)
    assert [bench.poll(job(number))[0] for number in (1, 2)] == [404, 202]


def test_a_purged_row_still_answers_from_the_cache_and_misleads_after_a_second_post() -> None:
    """After the purge the old result is cached; a re-POST of the job uuid runs again and at once reads the old one."""
    bench = Bench(session_timeout=1e6)
    bench.clone({"name": "old"})
    bench.wait(14_400)
    assert bench.poll()[1]["inventory"]["name"] == "old"
    assert isinstance(bench.post({"name": "new"}), Response)
    assert bench.poll()[1]["inventory"]["name"] == "old"
    bench.wait()
    assert bench.poll()[1]["inventory"]["name"] == "new"
    assert len(bench.node.ledger.clones) == 2


def test_the_cache_forgets_the_least_recently_used() -> None:
    """The cache has a size and no expiry; without cache and row the job is 404."""
    bench = Bench(cache_size=2)
    for number in (1, 2, 3):
        bench.clone(job=job(number))
    bench.wait(14_400)
    assert [bench.poll(job(number))[0] for number in (1, 2, 3)] == [404, 200, 200]


_ENDS: tuple[tuple[FaultKind, dict[str, Any], int, str | None, int], ...] = (
    (FaultKind.ORPHAN, {}, 202, None, 0),
    (FaultKind.RESULT_LOST, {}, 202, None, 1),
    (FaultKind.ROW_MISSING, {}, 404, None, 1),
    (FaultKind.PURGED, {}, 404, None, 1),
    (FaultKind.FAIL, {"code": "SYS.1011"}, 503, "SYS.1011", 0),
    (FaultKind.FAIL_CREATED, {"code": "SYS.1001"}, 503, "SYS.1001", 1),
    (FaultKind.FAIL_THEN_CREATE, {"code": "SYS.1001", "seconds": 1.0}, 503, "SYS.1001", 1),
    (FaultKind.TWO_RUNS, {}, 503, "SYS.1000", 1),
)


@pytest.mark.parametrize(("kind", "fault", "status", "code", "made"), _ENDS, ids=[row[0] for row in _ENDS])
def test_each_fault_of_a_job(kind: FaultKind, fault: dict[str, Any], status: int, code: str | None, made: int) -> None:
    """The answer to the poll and the existence of the clone are independent."""
    bench = Bench(faults=hit(kind, **fault))
    answer = bench.clone({"resourceUuid": CLONE})
    assert answer[0] == status
    assert (answer[1]["error"]["code"] if code else None) == code
    assert len(bench.found()) == made == len(bench.node.ledger.clones)


def test_work_may_continue_after_a_reported_timeout() -> None:
    """SYS.1001 comes first, and the clone exists only later."""
    bench = Bench(faults=hit(FaultKind.FAIL_THEN_CREATE, code="SYS.1001", seconds=3.0))
    bench.post({"resourceUuid": CLONE})
    bench.wait(1)
    assert (bench.poll()[0], bench.found()) == (503, [])
    bench.wait(3)
    assert len(bench.found()) == 1


_CUTS: tuple[tuple[FaultKind, dict[str, Any], int | None, int], ...] = (
    (FaultKind.DROP, {}, None, 0),
    (FaultKind.LOST_REPLY, {}, None, 1),
    (FaultKind.PROXY, {"status": 502, "executed": True}, 502, 1),
    (FaultKind.PROXY, {"status": 503, "executed": False}, 503, 0),
    (FaultKind.PROXY, {"status": 504, "executed": True}, 504, 1),
    (FaultKind.RATE_LIMITED, {"seconds": 1}, 429, 0),
    (FaultKind.ERROR_500, {}, 500, 1),
    (FaultKind.HTML_500, {}, 500, 0),
    (FaultKind.ORPHAN_500, {}, 500, 0),
    (FaultKind.SLOW, {"seconds": 60.0}, 202, 1),
    (FaultKind.TRUNCATED, {}, 202, 1),
    (FaultKind.TWICE, {"seconds": 0.1}, 202, 1),
    (FaultKind.DELAYED, {"seconds": 2.0}, None, 1),
    (FaultKind.RESTART, {"seconds": 1.0}, None, 0),
)


@pytest.mark.parametrize(("kind", "fault", "status", "made"), _CUTS, ids=[f"{row[0]}-{row[2]}" for row in _CUTS])
def test_each_cut_between_request_and_answer(
    kind: FaultKind, fault: dict[str, Any], status: int | None, made: int
) -> None:
    """The client's answer says little about whether the clone was made."""
    bench = Bench(faults=hit(kind, **fault))
    delivery = bench.post({"resourceUuid": CLONE})
    assert (delivery.status if isinstance(delivery, Response) else None) == status
    bench.wait()
    assert len(bench.node.ledger.clones) == made
    assert bench.node.ledger.faults == {kind: 1}


def test_a_late_execution_does_not_depend_on_the_client() -> None:
    """LATE answers at its time; until then nothing was done."""
    bench = Bench(faults=hit(FaultKind.LATE, seconds=30.0))
    delivery = bench.post({"resourceUuid": CLONE})
    assert isinstance(delivery, Later)
    bench.wait(29)
    assert (delivery.outcome, bench.poll()[0]) == (None, 404)
    bench.wait(2)
    answer = outcome(delivery)
    assert isinstance(answer, Response)
    assert (answer.status, len(bench.found())) == (202, 1)


def test_the_original_arrives_after_its_repetition() -> None:
    """The late original meets the row of the repetition and is refused as a duplicate job."""
    bench = Bench(faults=hit(FaultKind.DELAYED, seconds=2.0))
    assert bench.post({"name": "once"}) == Drop()
    bench.wait(1)
    assert isinstance(bench.post({"name": "once"}), Response)
    bench.wait()
    assert len(bench.node.ledger.clones) == 1
    assert bench.node.ledger.counts["duplicate_jobs"] == 1


def test_the_original_makes_a_second_clone_when_the_job_uuid_was_new() -> None:
    """Only the resource uuid protects from a late original once the job uuid changed."""
    bench = Bench(faults=hit(FaultKind.DELAYED, seconds=2.0))
    bench.post({"name": "twice"}, job=job(1))
    bench.post({"name": "twice"}, job=job(2))
    bench.wait()
    assert bench.node.ledger.duplicates() == [{"source": SOURCE, "name": "twice", "count": 2}]


@pytest.mark.parametrize(("half", "made"), [(0.05, 0), (0.15, 1)])
def test_a_restart_leaves_orphans_and_refuses_for_a_while(half: float, made: int) -> None:
    """Jobs under way stay processing, before or after their clone was made, and their uuid is used."""
    bench = Bench(check_seconds=0.0, session_timeout=1e6)
    bench.clone({"name": "before"}, job=job(1))
    bench.post({"resourceUuid": CLONE}, job=job(2))
    bench.wait(half)
    bench.node.restart(bench.now, seconds=10)
    assert bench.post(job=job(3)) == Drop()
    bench.wait(20_000)
    assert [bench.poll(job(number))[0] for number in (1, 2, 3)] == [404, 202, 404]
    assert len(bench.found()) == made
    assert bench.send("POST", f"{SERVICES}/{SOURCE}", {}, job=job(2)).status == 400


def test_a_web_hook_gives_up_after_its_tries() -> None:
    """15 calls, 2 s apart, with the poll's body; then never again."""
    bench = Bench()
    bench.post(headers={"x-web-hook": "http://127.0.0.1:9/hook"})
    times = []
    for _ in range(400):
        bench.wait(0.1)
        for hook in bench.node.take_hooks():
            times.append(bench.now)
            assert hook.body == bench.send("GET", f"/v1/api-jobs/{job()}").body
            assert dict(hook.headers)["X-Job-UUID"] == job()
            assert dict(hook.headers)["X-Job-Success"] == "true"
            bench.node.hook_answered(hook, bench.now, ok=False)
    assert len(times) == 15
    assert times[-1] - times[0] == pytest.approx(28, abs=1.5)


def test_an_accepted_web_hook_is_not_repeated() -> None:
    """One 2xx ends it; a failed job says so in the header."""
    bench = Bench()
    bench.post({"type": "none"}, headers={"x-web-hook": "http://127.0.0.1:9/hook"})
    bench.wait()
    (hook,) = bench.node.take_hooks()
    assert dict(hook.headers)["X-Job-Success"] == "false"
    bench.node.hook_answered(hook, bench.now, ok=True)
    bench.wait(60)
    assert bench.node.take_hooks() == []


def test_the_check_stage_has_a_thread_limit() -> None:
    """With 5 threads of 1 s each, 10 messages take 2 s; with 50 they take 1 s."""
    for workers, seconds in ((5, 2.0), (50, 1.0)):
        bench = Bench(workers=workers, check_seconds=1.0, latency=(0.0, 0.0))
        for number in range(10):
            bench.post(job=job(number))
        bench.wait(seconds - 0.1)
        assert len(bench.node.ledger.clones) == 10 * (seconds - 1) / 2
        bench.wait(0.2)
        assert len(bench.node.ledger.clones) == 10
        assert bench.node.ledger.max_in_flight == 10


def test_sync_calls_wait_for_a_thread_too() -> None:
    """A query's answer is late by the queue before it."""
    bench = Bench(workers=1, check_seconds=1.0)
    delays = [bench.send("GET", f"{SERVICES}/{CLONE}").delay for _ in range(3)]
    assert delays == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("switch", "names"),
    [
        ("start", ["x", "x", "x", "x"]),
        ("half-written", ["", "", "", "x"]),
        ("half-way", [None, None, "x", "x"]),
        ("end", [None, None, None, "x"]),
        ("never", [None, None, None, None]),
    ],
)
def test_a_row_appears_at_the_configured_time(switch: Literal["start", "end"], names: list[str | None]) -> None:
    """At a twentieth, two fifths and three fifths of the job and after it: absent, half-written or whole."""
    bench = Bench(latency=(10.0, 10.0), row_appears=switch)
    bench.post({"name": "x", "resourceUuid": CLONE})
    seen = []
    for seconds in (0.5, 3.5, 2.0, 5.0):
        bench.wait(seconds)
        rows = bench.found(CLONE)
        seen.append(rows[0]["name"] if rows else None)
    assert seen == names
    assert bench.poll()[1]["inventory"]["name"] == "x"
