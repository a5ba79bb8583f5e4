"""What failed, conflict and planned mean: the real command against a server with an answer for each attempt.

No state claims too much: failed needs the end of every job uuid ever sent, nothing leaves sent or accepted without an
answer about that very job, and our own clone is no conflict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batch.plan.identity import resource_uuid
from tests.contract.scripted_node import (
    SOURCES,
    A,
    Act,
    ApiJob,
    B,
    C,
    Operator,
    ScriptedNode,
    accept,
    accepted,
    failed,
    keep_running,
    lose_answer,
    lose_row,
    make_and_refuse,
    queue,
    refuse,
    turn_away,
    with_clock_set,
)
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.zstack.wire_server import Seen

STOPPING = [
    pytest.param(failed("LICENSE.1003"), id="licence"),
    pytest.param(failed("ID.1002"), id="admin only"),
    pytest.param(answer(403, "wrong accessKey signature"), id="signature"),
    pytest.param(answer(404, "no api mapping to /v1/ai/model-services"), id="restarting node"),
]
"""Refusals of a lookup that no call of this run survives."""
GONE = {None, "planned", "failed", "conflict", "withdrawn", "undone"}
"""States that claim: our clone will never exist."""
OWN = "0a0a0a0a0a0a4a0a8a0a0a0a0a0a0a0a"
OTHER = "0b0b0b0b0b0b4b0b8b0b0b0b0b0b0b0b"
ACCOUNT = "7" * 12 + "4" + "7" * 3 + "8" + "7" * 15


def with_uuid(uuid: str, source: str = A, **params: str) -> str:
    shown = "".join(f", {name}: {value}" for name, value in params.items())
    return f"{{uuid: {source}, params: {{resourceUuid: {uuid}{shown}}}}}"


# --- A refused lookup takes no attempt back
# -----------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", STOPPING)
@pytest.mark.both_engines
async def test_a_refused_lookup_takes_no_attempt_back(refusal: bytes, node: ScriptedNode, operator: Operator) -> None:
    """A POST with a lost answer stays open while lookups are refused: never exit 5; then its clone is found."""
    node.acts[A] = [lose_answer]
    node.look = lambda _: refusal
    operator.write_job(A, limits="timeout: 60s, attempts: 2")
    for _ in range(3):
        assert await operator.run() == 4, operator.output
        assert "nothing was cloned" not in operator.output
        assert operator.states()[A] not in GONE
    assert len(node.posts()) == 1
    node.look = None
    assert await operator.run() == 0, operator.output
    assert (operator.states(), node.sources_of, len(node.posts())) == ({A: "cloned"}, [A], 1)


async def test_clones_in_flight_stay_in_flight_when_lookups_are_refused(node: ScriptedNode, operator: Operator) -> None:
    """Of thirty clones in flight when a licence ends, none that was sent is planned again."""
    node.acts = {source: [lose_answer] for source in SOURCES[1:]}
    node.look = lambda _: failed("LICENSE.1003")
    operator.write_job(*SOURCES, limits="timeout: 60s, concurrency: 30")
    assert await operator.run() == 4, operator.output
    sent = {job.source for job in node.posts()}
    assert {source: state for source, state in operator.states().items() if source in sent and state in GONE} == {}
    node.look = None
    node.acts = {}
    assert await operator.run() == 0, operator.output
    assert sorted(node.sources_of) == SOURCES


async def test_a_refused_lookup_makes_no_second_clone_at_most_once(node: ScriptedNode, operator: Operator) -> None:
    """A server that ignores resourceUuid, a lost answer, a refused lookup: at most once is still at most one."""
    node.honours = False
    node.acts[A] = [lose_answer]
    node.look = lambda _: failed("LICENSE.1003")
    operator.write_job(A, limits="timeout: 2s")
    await operator.run("--at-most-once")
    node.look = None
    for _ in range(2):
        assert await operator.run("--at-most-once") in {3, 4}, operator.output
        assert operator.states()[A] not in GONE
    assert node.sources_of == [A]


@pytest.mark.parametrize("flags", [(), ("--accept-changes",)], ids=["plain", "changes accepted"])
@pytest.mark.parametrize("edited", [with_uuid(OTHER), with_uuid(OWN, name="another")], ids=["uuid", "name"])
async def test_an_edit_after_a_refused_lookup(
    edited: str, flags: tuple[str, ...], node: ScriptedNode, operator: Operator
) -> None:
    """A target edited while its clone may exist: no second clone, and our own is no conflict."""
    node.acts[A] = [lose_answer, accept]
    node.look = lambda uuid: failed("LICENSE.1003") if node.posts() else node.shown(uuid)
    operator.write_job(with_uuid(OWN, name="one"), limits="timeout: 2s")
    assert await operator.run() == 4, operator.output
    node.look = None
    operator.write_job(edited, limits="timeout: 2s")
    code = await operator.run(*flags)
    assert (code, operator.states()[A]) in ({(0, "cloned")} if flags else {(2, "sent"), (2, "uncertain")})
    assert list(node.made) == [OWN]


async def test_a_target_that_leaves_after_a_refused_lookup_is_queried(node: ScriptedNode, operator: Operator) -> None:
    """A target that leaves the job file while its attempt is open is not forgotten: its clone is found."""
    node.acts[A] = [lose_answer]
    node.look = lambda _: failed("LICENSE.1003")
    operator.write_job(A, B, limits="timeout: 2s, concurrency: 1")
    assert await operator.run() == 4, operator.output
    node.look = None
    operator.write_job(B, limits="timeout: 2s")
    assert await operator.run() == 0, operator.output
    assert operator.states() == {A: "cloned", B: "cloned"}


# --- One attempt's end is not the other's -----------------------------------------------------------------------------


@pytest.mark.parametrize("second", ["ID.1003", "SYS.1003"], ids=["quota", "missing source"])
@pytest.mark.parametrize(
    ("first", "seconds"),
    [pytest.param(keep_running, 2, id="running"), pytest.param(lose_row, 10, id="row lost")],
)
@pytest.mark.both_engines
async def test_a_second_attempt_does_not_end_the_first(
    first: Act, seconds: int, second: str, node: ScriptedNode, operator: Operator
) -> None:
    """While the first job runs, or may run, the end of another attempt is no failure."""
    node.acts[A] = [first, refuse(second)]
    operator.write_job(A, limits=f"timeout: {seconds}s")
    for _ in range(2):
        assert await operator.run() == 4, operator.output
        assert operator.states()[A] not in GONE
    node.execute(node.posts()[0])
    assert await operator.run() == 0, operator.output
    assert (operator.states(), node.sources_of) == ({A: "cloned"}, [A])


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(turn_away(403, "Forbidden by the gateway's rules"), id="gateway"),
        pytest.param(turn_away(400, "Doppelte Auftrags-UUID[{job}]"), id="German"),
        pytest.param(turn_away(400, "任务标识[{job}]已存在"), id="Chinese"),
    ],
)
async def test_a_refused_repetition_ends_nothing(refusal: Act, node: ScriptedNode, operator: Operator) -> None:
    """A POST waits at the server without an answer and its repetition is refused: not failed, and found when made."""
    node.acts[A] = [queue, refusal]
    operator.write_job(A, limits="timeout: 20s, attempts: 2")
    assert await operator.run() == 4, operator.output
    assert operator.states()[A] not in GONE
    assert await operator.zclone("retry", "job.yaml") in {3, 4}, operator.output
    assert operator.states()[A] not in GONE
    node.execute(node.posts()[0])
    assert await operator.run() == 0, operator.output
    assert (operator.states(), node.sources_of) == ({A: "cloned"}, [A])


async def test_a_job_that_runs_for_hours_is_not_failed(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """202 at every poll, an apiTimeout of ten hours, and a clock two hours ahead after a kill: never failed."""
    node.acts[A] = [lambda _, job: accepted(job, api_timeout=36_000.0)]
    operator.write_job(A, limits="timeout: 2s, attempts: 1")
    await operator.run_and_kill(node)
    later = with_clock_set(7200.0, tmp_path / "flag")
    for _ in range(2):
        assert await operator.run(env=later) in {3, 4}, operator.output
        assert operator.states()[A] not in GONE
    node.execute(node.posts()[0])
    assert await operator.run(env=later) == 0, operator.output


@pytest.mark.parametrize(
    "codes", [("SYS.1001",), ("MODEL_CENTER.1042",), ("LICENSE.1003", "SYS.1001")], ids=lambda codes: codes[0]
)
async def test_work_that_may_still_run_is_not_failed(
    codes: tuple[str, ...], node: ScriptedNode, operator: Operator
) -> None:
    """A job that ended with a code that leaves its work running is not failed before the server's own time is over.

    The same holds if only a cause says that, and the run stops for the code above it.
    """
    node.acts[A] = [refuse(*codes)]
    operator.write_job(A, limits="timeout: 3s, attempts: 2")
    for _ in range(3):
        assert await operator.run() == 4, operator.output
        assert operator.states()[A] not in GONE
    node.execute(node.posts()[0])
    assert await operator.run() == 0, operator.output
    assert (operator.states(), node.sources_of) == ({A: "cloned"}, [A])


@pytest.mark.both_engines
async def test_rows_that_appear_and_disappear_are_no_end(node: ScriptedNode, operator: Operator) -> None:
    """A job that is unknown at every other poll runs: it is waited for and not sent again."""
    node.acts[A] = [keep_running]
    running = {True: answer(202, {}), False: answer(404, "the job has been expired")}

    def poll(job: ApiJob) -> bytes:
        if job.polls == 8:
            node.execute(job)
        return job.result or running[job.polls % 2 == 0]

    node.poll = poll
    operator.write_job(A, limits="timeout: 60s")
    assert await operator.run() == 0, operator.output
    assert len(node.posts()) == 1


async def test_a_uuid_in_use_that_nobody_sees_is_no_failure(
    node: ScriptedNode, operator: Operator, tmp_path: Path
) -> None:
    """A lost POST whose clone the account does not see by now: that the uuid is in use is no sign of a failure."""
    node.acts[A] = [lose_answer, accept]
    node.look = lambda _: answer(200, {"inventories": []})
    operator.write_job(A, B, limits="timeout: 3s")
    assert await operator.run() == 4, operator.output
    later = with_clock_set(20_000.0, tmp_path / "flag")
    assert await operator.run(env=later) == 4, operator.output
    assert operator.states()[A] not in GONE
    node.look = None
    assert await operator.run(env=later) == 0, operator.output
    assert sorted(node.sources_of) == [A, B]


# --- The causes of an error
# -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["LICENSE.1003", "ID.1002", "ID.1001", "PORTAL.1000"])
@pytest.mark.both_engines
async def test_a_cause_takes_nothing_back(inner: str, node: ScriptedNode, operator: Operator) -> None:
    """After a job that failed although it made the clone, the clone is looked up, with any causes: one POST, exit 0."""
    node.acts[A] = [make_and_refuse("SYS.1006", inner)]
    operator.write_job(A, limits="timeout: 5s")
    assert await operator.run() == 0, operator.output
    assert (operator.states(), len(node.posts())) == ({A: "cloned"}, 1)


@pytest.mark.parametrize("inner", ["ID.1001", "LICENSE.1003"])
async def test_the_causes_of_one_target_do_not_stop_the_others(
    inner: str, node: ScriptedNode, operator: Operator
) -> None:
    """A target whose jobs always fail with an inner session or licence error stops no other: those are cloned."""
    node.acts[A] = [refuse("SYS.1006", inner)]
    operator.write_job(A, B, C, limits="timeout: 3s, attempts: 2")
    await operator.run_until_settled(most=2)
    assert {key: operator.states().get(key) for key in (B, C)} == {B: "cloned", C: "cloned"}
    assert len(node.posts(A)) <= 4


# --- A uuid that the job file gives -----------------------------------------------------------------------------------


@pytest.mark.both_engines
async def test_a_foreign_service_is_never_adopted(node: ScriptedNode, operator: Operator) -> None:
    """A given resourceUuid that is somebody else's service: conflict, no POST, and its owner is unchanged."""
    node.made[OWN] = {"uuid": OWN, "name": "somebody's"}
    operator.write_job(f"{{uuid: {A}, owner: {ACCOUNT}, params: {{resourceUuid: {OWN}}}}}", limits="timeout: 5s")
    assert await operator.run() == 3, operator.output
    assert operator.states() == {A: "conflict"}
    assert (node.posts(A), node.given, node.sources_of) == ([], [], [])


@pytest.mark.both_engines
async def test_a_clone_of_another_run_is_not_adopted(node: ScriptedNode, operator: Operator) -> None:
    """The clone that the first run made under a given resourceUuid is a conflict for a second run."""
    operator.write_job(with_uuid(OWN))
    assert await operator.run() == 0, operator.output
    assert await operator.run("--run", "second") == 3, operator.output
    assert operator.states("job.second.manifest.jsonl") == {A: "conflict"}
    assert len(node.posts()) == 1


@pytest.mark.both_engines
async def test_our_own_clone_under_a_given_uuid_is_found(node: ScriptedNode, operator: Operator) -> None:
    """Under a given resourceUuid too a POST with a lost answer is ours: its clone is adopted."""
    node.acts[A] = [lose_answer]
    operator.write_job(with_uuid(OWN), limits="timeout: 5s")
    assert await operator.run() == 0, operator.output
    assert (operator.states(), len(node.posts())) == ({A: "cloned"}, 1)


@pytest.mark.parametrize("uuid", [A, B, resource_uuid("job", "default", B)], ids=["source", "another", "derived"])
async def test_a_given_uuid_that_is_not_free_is_refused(uuid: str, node: ScriptedNode, operator: Operator) -> None:
    """A resourceUuid that is a source's or another target's is an error of the job file: exit 2, nothing sent."""
    operator.write_job(with_uuid(uuid), B)
    assert await operator.run() == 2, operator.output
    assert node.posts() == []


# --- Changes while an attempt is in doubt -----------------------------------------------------------------------------


async def test_an_edited_uuid_is_not_sent_while_the_old_one_is_open(node: ScriptedNode, operator: Operator) -> None:
    """With --accept-changes a new resourceUuid is sent only after a definite end of what was sent under the old one."""
    node.acts[A] = [queue, accept]
    operator.write_job(with_uuid(OWN), limits="timeout: 2s, attempts: 1")
    assert await operator.run() == 4, operator.output
    operator.write_job(with_uuid(OTHER), limits="timeout: 2s")
    assert await operator.run("--accept-changes") in {3, 4}, operator.output
    assert {job.resource for job in node.posts()} == {OWN}
    if not node.made:
        node.execute(node.posts()[0])
    await operator.run("--accept-changes")
    assert list(node.made) == [OWN]
    assert operator.states() == {A: "cloned"}


async def test_our_own_clone_is_no_conflict_after_an_edit(node: ScriptedNode, operator: Operator) -> None:
    """A clone made from the earlier job file is ours, although the file now asks for another name."""
    node.acts[A] = [lose_answer]
    operator.write_job(f"{{uuid: {A}, params: {{name: one}}}}", limits="timeout: 2s")
    node.look = lambda _: None
    await operator.run_and_kill(node)
    node.look = None
    operator.write_job(f"{{uuid: {A}, params: {{name: two}}}}", limits="timeout: 2s")
    assert await operator.run("--accept-changes") == 0, operator.output
    assert (operator.states(), node.sources_of) == ({A: "cloned"}, [A])


# --- A damaged manifest -----------------------------------------------------------------------------------------------


async def test_an_old_end_does_not_end_what_was_sent_after_it(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """Failed, retried, sent, killed, those lines damaged, repaired: the first job's end is not the second's."""
    node.acts[A] = [refuse("SYS.1003"), keep_running, accept]
    operator.write_job(A, limits="timeout: 3s")
    assert await operator.run() == 3, operator.output
    await operator.run_and_kill(node, "retry", "job.yaml")
    spoilt = node.posts()[1].uuid
    assert operator.damage(lambda line: line.get("job_uuid") == spoilt)
    await operator.repair()
    first = node.posts()[0].uuid
    assert [
        line for line in operator.lines() if line.get("state") == "uncertain" and line.get("job_uuid") == first
    ] == []
    await operator.run()
    assert operator.states()[A] not in GONE
    if not node.made:
        node.execute(node.posts()[1])
    # A server may show the clone early and take it back: the job on the lost lines has half an hour to end.
    assert await operator.run() == 4, operator.output
    assert await operator.run(env=with_clock_set(7200.0, tmp_path / "flag")) == 0, operator.output
    assert (operator.states(), node.sources_of) == ({A: "cloned"}, [A])


# --- The meaning of a stop
# ------------------------------------------------------------------------------------------------


async def test_exit_5_only_if_nothing_was_sent(node: ScriptedNode, operator: Operator) -> None:
    """Exit 5 only before the first record of a POST, whatever refuses the next start."""

    def closed(seen: Seen) -> bytes:
        return failed("LICENSE.1003")

    operator.write_job(A, limits="timeout: 2s")
    node.gate = closed
    assert await operator.run() == 5, operator.output
    node.gate = None
    node.acts[A] = [keep_running]
    await operator.run_and_kill(node)
    node.gate = closed
    assert await operator.run() == 4, operator.output
