"""What is recorded of each open job stays known when a later attempt ends, and holds for every later decision."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import (
    A,
    B,
    C,
    accept,
    accepted,
    failed,
    keep_running,
    lose_answer,
    lose_row,
    queue,
    refuse,
    with_clock_set,
)
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.scripted_node import ApiJob, Operator, ScriptedNode

OWN = "0a0a0a0a0a0a4a0a8a0a0a0a0a0a0a0a"
OTHER = "0b0b0b0b0b0b4b0b8b0b0b0b0b0b0b0b"
LATER = 7200.0
EMPTY = answer(200, {"inventories": []})
ENDED = [pytest.param(code, id=code) for code in ("ID.1003", "SYS.1000")] + [
    pytest.param("SYS.1006", id="SYS.1006", marks=pytest.mark.slow)
]


def refuse_at_once(node: ScriptedNode, job: ApiJob) -> bytes:
    """Answer the POST itself with an error that stops the run; nothing is executed."""
    job.is_known = False
    return failed("LICENSE.1003")


@pytest.mark.both_engines
@pytest.mark.parametrize("last", ["job", pytest.param("post", marks=pytest.mark.slow)])
async def test_a_repeated_job_uuid_stays_repeated(last: str, node: ScriptedNode, operator: Operator) -> None:
    """The first POST waits at the server, its repetition ends, and so does a later attempt: it is not failed.

    An edited uuid makes no second clone either.
    """
    node.acts[A] = [queue, keep_running, refuse("ID.1003") if last == "job" else refuse_at_once, accept]
    operator.write_job(B, f"{{uuid: {A}, params: {{resourceUuid: {OWN}}}}}", limits="timeout: 8s")
    for _ in range(2):
        await operator.run()
    first, second = node.posts(A)[:2]
    assert first.uuid == second.uuid
    second.result = failed("ID.1003")
    await operator.run()
    assert operator.states()[A] != "failed", operator.output
    operator.write_job(B, f"{{uuid: {A}, params: {{resourceUuid: {OTHER}}}}}", limits="timeout: 8s")
    await operator.zclone("retry", "job.yaml")
    node.execute(first)
    await operator.run("--accept-changes")
    assert node.sources_of.count(A) == 1, operator.output


async def test_the_body_of_an_open_job_stays_known(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """The first attempt has another name and runs, the second one is refused: what appears is the first's clone."""
    node.acts[A] = [lose_row, refuse("ID.1003"), accept]
    operator.write_job(B, f"{{uuid: {A}, params: {{name: one}}}}", limits="timeout: 4s, attempts: 1")
    await operator.run()
    operator.write_job(B, f"{{uuid: {A}, params: {{name: two}}}}", limits="timeout: 4s, attempts: 2")
    await operator.run("--accept-changes")
    assert len(node.posts(A)) == 2
    node.execute(node.posts(A)[0])
    await operator.run(env=with_clock_set(LATER, tmp_path / "flag"))
    assert operator.states()[A] == "cloned", operator.output


async def test_an_accepted_job_stays_accepted(node: ScriptedNode, operator: Operator) -> None:
    """The attempt after it is refused at once: its job uuid is not used for another POST."""
    node.acts[A] = [lose_row, refuse_at_once, lose_row]
    operator.write_job(B, A, limits="timeout: 60s")
    for _ in range(2):
        await operator.run(patience=60)
    uuids = [job.uuid for job in node.posts(A)]
    assert len(uuids) >= 3
    assert len(set(uuids)) == len(uuids)


async def test_an_unanswered_attempt_stays_unanswered(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """It made the clone, which this account does not see; the next one is refused, the third finds the uuid in use."""
    node.acts[A] = [lose_answer, refuse_at_once, accept]
    node.look = lambda uuid: node.shown(uuid) if uuid not in {job.resource for job in node.posts(A)} else EMPTY
    operator.write_job(B, A, limits="timeout: 2s, attempts: 1")
    await operator.run()
    operator.write_job(B, A, limits="timeout: 2s, attempts: 4")
    for number in range(2):
        await operator.run(env=with_clock_set(LATER * (number + 1), tmp_path / f"flag{number}"))
    assert len(node.posts(A)) == 3
    assert operator.states()[A] == "uncertain", operator.output


@pytest.mark.both_engines
@pytest.mark.parametrize("code", ENDED)
async def test_a_service_of_a_running_job_is_no_clone(code: str, node: ScriptedNode, operator: Operator) -> None:
    """An earlier job shows what it makes while it runs, and a later one ends: cloned only once the first has ended."""

    def end_beside(node: ScriptedNode, job: ApiJob) -> bytes:
        node.made[job.resource] = {"uuid": job.resource}
        job.result = failed(code)
        return accepted(job)

    node.acts[A] = [keep_running, end_beside]
    operator.write_job(B, A, limits="timeout: 4s, attempts: 2")
    for _ in range(2):
        await operator.run()
    assert len(node.posts(A)) == 2
    assert operator.states()[A] == "uncertain", operator.output
    assert await operator.run() == 4
    del node.made[node.posts(A)[0].resource]
    node.posts(A)[0].result = failed("SYS.1006")
    assert await operator.run() != 0, operator.output
    assert operator.states()[A] != "cloned"


@pytest.mark.parametrize("first", [keep_running, pytest.param(queue, marks=pytest.mark.slow)])
async def test_at_most_once_that_begins_with_a_rerun(first: object, node: ScriptedNode, operator: Operator) -> None:
    """An attempt is open, or was sent twice, when the flag is first given: the end of the last sends nothing."""
    node.acts[A] = [first, keep_running, accept]  # type: ignore[list-item]
    operator.write_job(B, A, limits="timeout: 4s, attempts: 4")
    while len(node.posts(A)) < 2:
        await operator.run()
    node.posts(A)[1].result = failed("SYS.1009")
    await operator.run("--at-most-once")
    assert len(node.posts(A)) == 2
    assert operator.states()[A] == "uncertain", operator.output


@pytest.mark.parametrize("code", ["SYS.1006", pytest.param("SYS.1009", marks=pytest.mark.slow)])
@pytest.mark.parametrize("flag", [(), ("--at-most-once",)], ids=["plain", "at most once"])
async def test_a_removed_target_whose_job_ended_is_withdrawn(
    flag: tuple[str, ...], code: str, node: ScriptedNode, operator: Operator
) -> None:
    """It leaves the file in doubt and its job ends: the rerun is done. Its attempt still counts when it returns."""
    node.acts[A] = [keep_running, accept]
    operator.write_job(B, A, limits="timeout: 2s, attempts: 2")
    assert await operator.run() == 4, operator.output
    node.posts(A)[0].result = failed(code)
    operator.write_job(B, limits="timeout: 2s, attempts: 2")
    await operator.run()
    assert await operator.run() == 0, operator.output
    assert operator.states()[A] == "withdrawn"
    operator.write_job(B, A, limits="timeout: 2s, attempts: 2")
    code_of_return = await operator.run(*flag)
    if flag and code != "SYS.1009":
        # The node's own code proves that nothing was executed, the other one does not.
        assert len(node.posts(A)) == 1
        assert operator.states()[A] == "uncertain", operator.output
    else:
        assert (code_of_return, operator.states()[A], len(node.posts(A))) == (0, "cloned", 2), operator.output


async def test_a_foreign_service_under_the_new_uuid_of_a_returned_target(
    node: ScriptedNode, operator: Operator
) -> None:
    """The attempt that counts had another uuid: what is visible under the new one is no clone of this run."""
    node.acts[A] = [keep_running, accept]
    operator.write_job(B, f"{{uuid: {A}, params: {{resourceUuid: {OWN}}}}}", limits="timeout: 2s")
    await operator.run()
    node.posts(A)[0].result = failed("SYS.1009")
    operator.write_job(B, limits="timeout: 2s")
    for _ in range(2):
        await operator.run()
    node.made[OTHER] = {"uuid": OTHER}
    operator.write_job(B, f"{{uuid: {A}, params: {{resourceUuid: {OTHER}}}}}", limits="timeout: 2s")
    assert await operator.run() == 3, operator.output
    assert operator.states()[A] == "conflict"


async def test_a_server_that_ignores_one_uuid_stops_every_run(node: ScriptedNode, operator: Operator) -> None:
    """It honoured another one before; a rerun of the same command sends nothing more."""

    def ignore(node: ScriptedNode, job: ApiJob) -> bytes:
        node.honours = False
        node.execute(job)
        node.honours = True
        return accepted(job)

    node.acts[A] = [ignore]
    operator.write_job(B, A, C, limits="concurrency: 1")
    for _ in range(2):
        assert await operator.run() == 3, operator.output
    assert node.posts(C) == []


def make_without_row(node: ScriptedNode, job: ApiJob) -> bytes:
    """202, and the clone is made; no poll finds its job."""
    node.execute(job)
    job.is_known = False
    return accepted(job)


async def test_a_uuid_in_use_stays_in_use(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """A job found the uuid in use by what the attempt before made, unseen by this account: never failed.

    An edited uuid makes no second clone.
    """
    node.acts[A] = [make_without_row, accept]
    node.look = lambda uuid: EMPTY if uuid in {job.resource for job in node.posts(A)} else node.shown(uuid)
    operator.write_job(B, f"{{uuid: {A}, params: {{resourceUuid: {OWN}}}}}", limits="timeout: 3s, attempts: 2")
    for _ in range(2):
        await operator.run()
    assert len(node.posts(A)) == 2
    await operator.run(env=with_clock_set(LATER, tmp_path / "flag"))
    assert operator.states()[A] == "uncertain", operator.output
    operator.write_job(B, f"{{uuid: {A}, params: {{resourceUuid: {OTHER}}}}}", limits="timeout: 3s, attempts: 2")
    await operator.zclone("retry", "job.yaml")
    assert node.sources_of.count(A) == 1, operator.output


async def test_a_retry_at_most_once_sends_nothing_that_may_have_run(node: ScriptedNode, operator: Operator) -> None:
    """It failed in a process without the flag, with an error that is no proof: it is queried, and not sent."""
    node.acts[A] = [refuse("SYS.1006"), accept]
    operator.write_job(B, A, limits="timeout: 2s, attempts: 1")
    assert await operator.run() == 3, operator.output
    await operator.run("--at-most-once")
    await operator.zclone("retry", "job.yaml")
    assert len(node.posts(A)) == 1
    assert operator.states()[A] == "uncertain", operator.output


async def test_what_the_flag_covers_is_sent_until_it_runs(node: ScriptedNode, operator: Operator) -> None:
    """Only processes with the flag sent it, and each job ended with the proof that nothing ran: it is cloned."""
    is_busy = True

    def act(node: ScriptedNode, job: ApiJob) -> bytes:
        return refuse("SYS.1009")(node, job) if is_busy else accept(node, job)  # type: ignore[return-value]

    node.acts[A] = [act]
    operator.write_job(B, A, limits="timeout: 60s")
    await operator.run("--only", f"source={B}")
    process = operator.start("run", "job.yaml", "--at-most-once")
    while len(node.posts(A)) < 2 or not node.posts(A)[-1].polls:  # noqa: ASYNC110 - a process is waited for
        await asyncio.sleep(0.02)
    process.kill()
    await asyncio.to_thread(process.communicate)
    is_busy = False
    assert await operator.run() == 0, operator.output
    assert operator.states()[A] == "cloned"


async def test_a_retry_does_not_forget_that_nothing_was_answered(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """It failed as its time was over, and the retry finds its uuid in use, unseen: uncertain, no second clone."""
    node.acts[A] = [lose_answer, accept]
    node.look = lambda uuid: EMPTY if uuid in {job.resource for job in node.posts(A)} else node.shown(uuid)
    limits = "timeout: 2s, attempts: 1"
    operator.write_job(B, f"{{uuid: {A}, params: {{resourceUuid: {OWN}}}}}", limits=limits)
    await operator.run()
    for number in (1, 2):
        await operator.run(env=with_clock_set(number * LATER, tmp_path / f"flag{number}"))
    assert operator.states()[A] == "failed", operator.output
    await operator.zclone("retry", "job.yaml", env=with_clock_set(3 * LATER, tmp_path / "flag3"))
    assert operator.states()[A] == "uncertain", operator.output
    operator.write_job(B, f"{{uuid: {A}, params: {{resourceUuid: {OTHER}}}}}", limits=limits)
    await operator.zclone("retry", "job.yaml", env=with_clock_set(4 * LATER, tmp_path / "flag4"))
    assert node.sources_of.count(A) == 1
