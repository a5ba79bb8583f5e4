"""What a definite end of an attempt still means later: for others' services, at most once, and for an edited target."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from batch.plan.identity import resource_uuid
from tests.contract.scripted_node import (
    A,
    B,
    ScriptedNode,
    accept,
    accepted,
    failed,
    keep_running,
    lose_answer,
    refuse,
    with_clock_set,
)
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.scripted_node import Act, ApiJob, Operator

OWN = "0a0a0a0a0a0a4a0a8a0a0a0a0a0a0a0a"
DERIVED = resource_uuid("job", "default", A)
OWNER = "777777777777477787777777777777777"[:32]
HOUR = 3600.0
EMPTY = answer(200, {"inventories": []})
GIVEN_AND_DERIVED = pytest.mark.parametrize("uuid", [OWN, DERIVED], ids=["given", "derived"])


def write_job(operator: Operator, uuid: str) -> None:
    """Write a job file in which A has an owner, and one of its uuids."""
    params = f", params: {{resourceUuid: {OWN}}}" if uuid == OWN else ""
    operator.write_job(B, f"{{uuid: {A}, owner: {OWNER}{params}}}", limits="concurrency: 1, timeout: 2s")


def take(node: ScriptedNode, uuid: str, name: str = "of someone else") -> None:
    """Let someone else create a service under the uuid."""
    node.made[uuid] = {"uuid": uuid, "name": name}


def taken(uuid: str, code: str, name: str = "of someone else") -> Act:
    """Return what accepts a POST whose job ends with ``code``, after someone else took the uuid."""

    def act(node: ScriptedNode, job: ApiJob) -> bytes:
        take(node, uuid, name)
        job.result = failed(code)
        return accepted(job)

    return act


def purge(node: ScriptedNode) -> None:
    """Forget all jobs, as the server does after some hours."""
    for job in node.jobs:
        job.is_known = False


def require_not_ours(node: ScriptedNode, operator: Operator, uuid: str) -> None:
    """Fail where the service of someone else was handed over, or a given uuid is called cloned."""
    assert node.given == [], operator.output
    assert uuid != OWN or operator.states()[A] != "cloned"


@GIVEN_AND_DERIVED
@pytest.mark.parametrize("code", ["LICENSE.1003", "PORTAL.1000", "ID.1003"])
async def test_what_is_there_after_a_request_that_never_ran_is_not_ours(
    code: str, uuid: str, node: ScriptedNode, operator: Operator
) -> None:
    """Also where the job's error stops the whole run."""
    node.acts[A] = [taken(uuid, code)]
    write_job(operator, uuid)
    await operator.run()
    assert len(node.posts(A)) == 1
    require_not_ours(node, operator, uuid)


@GIVEN_AND_DERIVED
async def test_an_end_on_record_counts_after_its_job_is_purged(
    uuid: str, node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """The job ended unexecuted; hours later the server has no row of it, and someone has the uuid."""
    node.acts[A] = [refuse("LICENSE.1003"), accept]
    write_job(operator, uuid)
    await operator.run()
    assert operator.states()[A] == "planned"
    take(node, uuid)
    purge(node)
    await operator.run(env=with_clock_set(5 * HOUR, tmp_path / "flag"))
    require_not_ours(node, operator, uuid)


@pytest.mark.parametrize("code", ["LICENSE.1003", "ID.1001"])
async def test_an_end_on_record_lets_a_run_at_most_once_send_again(
    code: str, node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """The licence or the session was refused, and nothing executed: the next morning's run makes the clone."""
    node.acts[A] = [refuse(code), accept]
    operator.write_job(B, A, limits="concurrency: 1")
    await operator.run("--at-most-once")
    purge(node)
    assert await operator.run(env=with_clock_set(12 * HOUR, tmp_path / "flag")) == 0, operator.output
    assert (operator.states()[A], len(node.posts(A))) == ("cloned", 2)


async def test_refusals_of_the_run_never_use_up_the_attempts(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """A licence that is refused by five starts, hours apart: once it is renewed, the clone is made."""
    node.acts[A] = [refuse("LICENSE.1003")] * 5 + [accept]
    operator.write_job(B, A, limits="concurrency: 1")
    for number in range(5):
        await operator.run(env=with_clock_set(number * 5 * HOUR, tmp_path / f"flag{number}"))
        assert operator.states()[A] != "failed", operator.output
        purge(node)
    assert await operator.run(env=with_clock_set(25 * HOUR, tmp_path / "flag")) == 0, operator.output
    assert operator.states()[A] == "cloned"


@pytest.mark.parametrize("code", ["LICENSE.1003", "ID.1001"])
async def test_an_edited_uuid_is_sent_after_an_end(code: str, node: ScriptedNode, operator: Operator) -> None:
    """What never ran is no reason to fail a target whose resourceUuid was removed since."""
    node.acts[A] = [refuse(code), accept]
    write_job(operator, OWN)
    await operator.run()
    operator.write_job(B, A)
    assert await operator.run("--accept-changes") == 0, operator.output
    assert operator.states()[A] == "cloned"
    assert {OWN, DERIVED} & node.made.keys() == {DERIVED}


async def test_a_conflict_before_anything_was_sent_makes_nothing_ours(node: ScriptedNode, operator: Operator) -> None:
    """The other service is deleted, the target retried, and during its POST another one takes the uuid."""
    take(node, OWN)
    write_job(operator, OWN)
    await operator.run()
    assert operator.states()[A] == "conflict"
    del node.made[OWN]
    node.acts[A] = [taken(OWN, "SYS.1000")]
    await operator.zclone("retry", "job.yaml", "--state", "conflict")
    assert len(node.posts(A)) == 1
    require_not_ours(node, operator, OWN)


async def test_a_conflict_with_what_existed_before_makes_nothing_ours(node: ScriptedNode, operator: Operator) -> None:
    """The first POST found another service; it is deleted, and the retry finds one that matches."""
    take(node, DERIVED, "different")
    operator.write_job(B, f"{{uuid: {A}, owner: {OWNER}, params: {{name: mine}}}}", limits="concurrency: 1")
    await operator.run()
    assert operator.states()[A] == "conflict"
    del node.made[DERIVED]
    node.acts[A] = [taken(DERIVED, "SYS.1000", "mine")]
    await operator.zclone("retry", "job.yaml", "--state", "conflict")
    assert len(node.posts(A)) == 2
    require_not_ours(node, operator, DERIVED)


@GIVEN_AND_DERIVED
async def test_what_appears_while_only_leaves_a_target_out_is_not_ours(
    uuid: str, node: ScriptedNode, operator: Operator
) -> None:
    """Its attempt ended with an answer in a process that sent nothing for it; then someone has the uuid."""
    node.acts[A] = [keep_running, accept]
    write_job(operator, uuid)
    assert await operator.run() == 4, operator.output
    node.posts(A)[0].result = failed("SYS.1006")
    await operator.run("--only", f"key={B}")
    assert operator.states()[A] == "planned"
    take(node, uuid)
    await operator.run()
    require_not_ours(node, operator, uuid)


# --- Ends of one attempt beside others in doubt -----------------------------------------------------------------------


def refuse_post(code: str) -> Act:
    """Return what answers a POST with ``code`` and forgets the job, which may still be executed."""

    def act(_: ScriptedNode, job: ApiJob) -> bytes:
        job.is_known = False
        return failed(code)

    return act


async def test_a_job_in_doubt_is_not_taken_for_one_that_ended(node: ScriptedNode, operator: Operator) -> None:
    """Refusals of later attempts lower the number of attempts; the job in doubt stays in doubt."""
    refusals = [refuse_post("LICENSE.1003")] * 3
    node.acts[A] = [refuse("SYS.1010"), refuse("SYS.1010"), refuse_post("SYS.1001"), *refusals, accept]
    write_job(operator, OWN)
    for _ in range(3):
        await operator.run()
    operator.write_job(B, A, limits="concurrency: 1")
    await operator.run("--accept-changes")
    node.execute(node.posts(A)[2])
    await operator.run("--accept-changes")
    assert node.sources_of.count(A) == 1
    assert operator.states()[A] != "failed"


@GIVEN_AND_DERIVED
async def test_a_clone_of_an_attempt_in_doubt_is_ours(uuid: str, node: ScriptedNode, operator: Operator) -> None:
    """Another attempt's job ended unexecuted, and is polled first: the clone is handed over all the same."""
    node.acts[A] = [refuse("SYS.1010"), refuse_post("SYS.1001"), refuse_post("LICENSE.1003"), accept]
    write_job(operator, uuid)
    await operator.run()
    node.execute(node.posts(A)[1])
    assert await operator.run() == 0, operator.output
    assert node.given == [uuid]


async def test_a_uuid_that_an_earlier_job_found_in_use_is_in_use(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """The first clone is hidden, the second job finds its uuid in use, the third is refused: no failure."""

    def make_and_doubt(_: ScriptedNode, job: ApiJob) -> bytes:
        node.execute(job)
        job.is_known = False
        return failed("SYS.1001")

    node.look = lambda asked: EMPTY if asked == DERIVED else node.shown(asked)
    node.acts[A] = [make_and_doubt, keep_running, keep_running]
    operator.write_job(B, A, limits="concurrency: 1, timeout: 9s")
    await operator.run()
    await operator.run_and_kill(node)
    node.posts(A)[1].result = failed("SYS.1000")
    node.posts(A)[2].result = failed("SYS.1007")
    await operator.run(env=with_clock_set(2 * HOUR, tmp_path / "flag"))
    assert operator.states()[A] == "uncertain", operator.output


async def test_a_retry_that_is_cut_off_does_not_forget_that_nothing_was_answered(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """Its next process finds the uuid in use by what it does not see: uncertain."""
    node.acts[A] = [lose_answer, keep_running, accept]
    node.look = lambda uuid: EMPTY if uuid in {job.resource for job in node.posts(A)} else node.shown(uuid)
    operator.write_job(B, f"{{uuid: {A}, params: {{resourceUuid: {OWN}}}}}", limits="timeout: 2s, attempts: 1")
    await operator.run()
    for number in (1, 2):
        await operator.run(env=with_clock_set(number * 2 * HOUR, tmp_path / f"flag{number}"))
    assert operator.states()[A] == "failed", operator.output
    await operator.run_and_kill(node, "retry", "job.yaml", env=with_clock_set(6 * HOUR, tmp_path / "flag3"))
    node.posts(A)[-1].result = failed("SYS.1000")
    await operator.run(env=with_clock_set(6 * HOUR + 60, tmp_path / "flag4"))
    assert operator.states()[A] == "uncertain", operator.output


async def test_an_end_is_on_record_where_a_stop_prevents_the_next_attempt(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """Hours later the job is purged and someone has the uuid: it is neither cloned nor handed over."""
    node.acts[A] = [refuse("SYS.1006")]
    write_job(operator, OWN)
    process = operator.start("run", "job.yaml")
    while sum(OWN in call for call in node.calls) < 4:  # noqa: ASYNC110 - a process is waited for
        await asyncio.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(process.communicate)
    purge(node)
    node.acts[A] = [accept]
    take(node, OWN)
    await operator.run(env=with_clock_set(12 * HOUR, tmp_path / "flag"))
    require_not_ours(node, operator, OWN)


async def test_an_edited_target_is_compared_where_nothing_of_it_was_executed(
    node: ScriptedNode, operator: Operator
) -> None:
    """Another folder made a service that differs under its uuid: a conflict, also after an edit."""
    node.acts[A] = [refuse("LICENSE.1003"), accept]
    operator.write_job(B, f"{{uuid: {A}, params: {{name: one}}}}", limits="concurrency: 1")
    await operator.run()
    take(node, DERIVED, "different")
    operator.write_job(B, f"{{uuid: {A}, params: {{name: two}}}}", limits="concurrency: 1")
    assert await operator.run() == 3, operator.output
    assert operator.states()[A] == "conflict"
