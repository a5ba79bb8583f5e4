"""What happens to a target that the plan of this process leaves out while an attempt of it is recorded."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import (
    A,
    ApiJob,
    B,
    C,
    Operator,
    ScriptedNode,
    accept,
    failed,
    keep_running,
    queue,
    refuse,
    turn_away,
)
from tests.contract.test_earlier_ends import OWN, take, taken
from tests.contract.test_edits_after_ends import write_given
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from tests.zstack.wire_server import Seen

NO_SUCH_API = turn_away(404, "no api mapping to /v1/ai/model-services")
"""Stops the run at once; the attempt is taken back, as nothing was executed."""
LIMITS = "timeout: 5s, concurrency: 1"


@pytest.mark.parametrize("by", ["edit", pytest.param("only", marks=pytest.mark.slow)])
async def test_a_target_that_left_between_two_attempts_is_not_sent(
    by: str, node: ScriptedNode, operator: Operator
) -> None:
    """A target whose next attempt was taken back, and which this process leaves out, is not sent by it."""

    def take_empty(seen: Seen) -> bytes | None:
        # An empty body is legal: a clone with no overrides, and so under a uuid of the server's.
        if seen.body or not seen.call.startswith("POST /v1/ai/model-services/"):
            return None
        job = ApiJob(seen.headers["x-job-uuid"], seen.call.rpartition("/")[2], {})
        node.jobs.append(job)
        return accept(node, job)

    node.gate = take_empty
    node.acts[A] = [refuse("SYS.1000"), NO_SUCH_API]
    operator.write_job(B, A, C, limits=LIMITS)
    assert await operator.run() == 4, operator.output
    assert [job.source for job in node.jobs] == [B, A, A]
    if by == "edit":
        operator.write_job(B, C, limits=LIMITS)
    code = await operator.run(*(() if by == "edit" else ("--only", f"source={C}")))
    assert (code, node.sources_of) == (0, [B, C]), operator.output


@pytest.mark.slow
async def test_a_signal_between_two_attempts_and_a_removed_target(node: ScriptedNode, operator: Operator) -> None:
    """SIGTERM while the second attempt waits for the rate takes it back; removed from the file it is not sent."""
    node.acts[A] = [refuse("SYS.1002"), accept]
    operator.write_job(B, A)
    job = operator.folder / "job.yaml"
    job.write_text(job.read_text().replace("200/s", "1/s"))
    process = operator.start("run", "job.yaml")
    is_sent_again = False
    while not is_sent_again:
        await asyncio.sleep(0.02)
        found = list(operator.lines()) if operator.manifest().exists() else []
        is_sent_again = any((line.get("state"), line.get("attempt")) == ("sent", 2) for line in found)
    process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(process.communicate)
    assert (operator.states()[A], len(node.posts(A))) == ("planned", 1)
    node.gate = lambda seen: answer(500, "empty") if seen.call.startswith("POST /v1/ai/") else None
    operator.write_job(B)
    await operator.run()
    assert sum(call == f"POST /v1/ai/model-services/{A}" for call in node.calls) == 1


@pytest.mark.parametrize("by", ["edit", *(pytest.param(by, marks=pytest.mark.slow) for by in ("only", "retry"))])
async def test_a_left_out_target_does_not_fail_with_attempts_left(
    by: str, node: ScriptedNode, operator: Operator
) -> None:
    """A target that --only leaves out, or that returns to the job file, is sent again while it has attempts left."""
    node.acts = {A: [keep_running, accept], B: [refuse("SYS.1003"), accept] if by == "retry" else [accept]}
    limits = "timeout: 20s, concurrency: 1"
    if by == "retry":
        operator.write_job(B, limits=limits)
        assert await operator.run() == 3, operator.output
    operator.write_job(*([B, A] if by == "retry" else [A]), limits=limits)
    await operator.run_and_kill(node)
    refuse("SYS.1009")(node, node.posts(A)[0])
    if by == "edit":
        operator.write_job(B, limits=limits)
        await operator.run()
    else:
        operator.write_job(A, B, limits=limits)
        await operator.zclone(*("retry" if by == "retry" else "run", "job.yaml", "--only", f"source={B}"))
    operator.write_job(A, B, limits=limits)
    assert await operator.run() == 0, operator.output
    assert sorted(node.sources_of) == [A, B]


@pytest.mark.both_engines
@pytest.mark.parametrize(("name", "state"), [("of another folder", "uncertain"), ("wanted", "cloned")])
async def test_targets_outside_only_are_compared_all_the_same(
    name: str, state: str, node: ScriptedNode, operator: Operator
) -> None:
    """A service under the uuid of an unanswered attempt is that clone only if it shows what the job file asks for.

    The same holds if --only leaves its target out.
    """
    node.acts[A] = [queue]
    operator.write_job(B, f"{{uuid: {A}, params: {{name: wanted}}}}", limits="timeout: 2s, attempts: 1")
    assert await operator.run() == 4, operator.output
    (lost,) = node.posts(A)
    node.made[lost.resource] = {"uuid": lost.resource, "name": name}
    assert await operator.run("--only", f"key={B}") == 0, operator.output
    assert (operator.states()[A], len(node.posts(A))) == (state, 1)


@pytest.mark.slow
async def test_a_clone_in_doubt_is_not_forgotten_with_its_target(node: ScriptedNode, operator: Operator) -> None:
    """A target is sent, runs on and leaves the job file: while its clone is in doubt the exit is not 0."""
    node.acts[A] = [keep_running]
    operator.write_job(B, A, limits="timeout: 2s, attempts: 1")
    assert await operator.run() == 4, operator.output
    operator.write_job(B)
    code = await operator.run()
    assert operator.states()[A] == "uncertain"
    assert code != 0, operator.output


async def test_status_agrees_with_the_run_on_removed_targets(node: ScriptedNode, operator: Operator) -> None:
    """A target that left the job file before it was sent leaves nothing to do, for status as for the run."""
    node.acts[B] = [NO_SUCH_API]
    operator.write_job(A, B, limits=LIMITS)
    assert await operator.run() == 4, operator.output
    operator.write_job(A, limits=LIMITS)
    assert await operator.run() == 0, operator.output
    await operator.zclone("status", "job.manifest.jsonl")
    assert "go on" not in operator.output, operator.output


@pytest.mark.parametrize("is_free", [True, False])
async def test_a_removed_uncertain_target_without_an_open_job_is_withdrawn(
    *, is_free: bool, node: ScriptedNode, operator: Operator
) -> None:
    """Its attempt ended before someone took its given uuid; it returns, and is sent where that is free again."""
    node.acts[A] = [keep_running, accept]
    write_given(operator, OWN, attempts=3)
    await operator.run()
    node.posts(A)[0].result = failed("SYS.1006")
    await operator.run("--only", f"key={B}")
    take(node, OWN)
    assert await operator.run() == 3, operator.output
    assert operator.states()[A] == "uncertain"
    if is_free:
        del node.made[OWN]
    write_given(operator, OWN, has_target=False)
    assert await operator.run() == 0, operator.output
    assert operator.states()[A] == "withdrawn"
    write_given(operator, OWN, attempts=3)
    assert await operator.run() == (0 if is_free else 3), operator.output
    assert (operator.states()[A], node.given) == (("cloned", [OWN]) if is_free else ("conflict", []))


@pytest.mark.parametrize("code", ["SYS.1000", "ID.1003"])
async def test_a_removed_target_whose_job_found_its_given_uuid_taken_stays_uncertain(
    code: str, node: ScriptedNode, operator: Operator
) -> None:
    """Of a request that arrived twice only the last end is known: the first one may have made what is visible."""
    node.acts[A] = [taken(OWN, code)]
    write_given(operator, OWN, attempts=3)
    await operator.run()
    write_given(operator, OWN, has_target=False)
    await operator.run()
    assert operator.states()[A] == "uncertain", operator.output


async def test_at_most_once_a_removed_target_whose_uuid_was_taken_stays_uncertain(
    node: ScriptedNode, operator: Operator
) -> None:
    """Its job may have made a clone under another uuid: it is not sent again after its return."""
    node.acts[A] = [taken(OWN, "SYS.1000"), accept]
    write_given(operator, OWN, attempts=3)
    await operator.run("--at-most-once")
    write_given(operator, OWN, has_target=False)
    assert await operator.run() == 4, operator.output
    assert operator.states()[A] == "uncertain"
    del node.made[OWN]
    write_given(operator, OWN, attempts=3)
    await operator.run()
    assert len(node.posts(A)) == 1, operator.output
