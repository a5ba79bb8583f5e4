"""--at-most-once belongs to the manifest once it was given, whatever the run that gave it came to."""

from __future__ import annotations

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
    refuse,
)
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from tests.contract.scripted_node import ApiJob, Operator, ScriptedNode

OWN = "0a0a0a0a0a0a4a0a8a0a0a0a0a0a0a0a"
LIMITS = "timeout: 2s"


def hide(node: ScriptedNode) -> None:
    """Show this account nothing of what its POSTs of A made."""
    empty = answer(200, {"inventories": []})
    node.look = lambda uuid: empty if uuid in {job.resource for job in node.posts(A)} else node.shown(uuid)


async def test_a_finished_run_records_the_flag(node: ScriptedNode, operator: Operator) -> None:
    """Nothing was left to do when it was given; a target that comes later is sent once."""
    operator.write_job(B)
    assert await operator.run() == 0, operator.output
    assert await operator.run("--at-most-once") == 0, operator.output
    node.acts[A] = [lose_answer]
    hide(node)
    operator.write_job(B, A, limits=LIMITS)
    for _ in range(2):
        await operator.run()
    assert len(node.posts(A)) == 1


async def test_a_run_that_is_refused_records_the_flag(node: ScriptedNode, operator: Operator) -> None:
    """The login failed when it was given; a target in doubt is not sent again by a later process without it."""
    node.acts[A] = [lose_answer]
    hide(node)
    operator.write_job(B, A, limits=f"{LIMITS}, attempts: 1")
    await operator.run()
    node.gate = lambda seen: failed("ID.1001")
    await operator.run("--at-most-once")
    node.gate = None
    operator.write_job(B, A, limits=f"{LIMITS}, attempts: 3")
    await operator.run()
    assert len(node.posts(A)) == 1
    assert operator.states()[A] == "uncertain", operator.output


async def test_a_shard_that_has_the_flag_forbids_the_whole_run(node: ScriptedNode, operator: Operator) -> None:
    """It was given on a rerun of the shard: another manifest of the same targets is refused."""
    node.acts[A] = [lose_answer]
    hide(node)
    operator.write_job(A, limits=f"{LIMITS}, attempts: 1")
    for shard in ("0/2", "1/2"):
        await operator.run("--shard", shard)
        await operator.run("--shard", shard, "--at-most-once")
    assert await operator.run() == 2, operator.output
    assert len(node.posts(A)) == 1


async def test_a_conflict_after_a_post_is_not_sent_again(node: ScriptedNode, operator: Operator) -> None:
    """The server made the clone under another uuid and reports the requested one as taken: a retry looks only."""
    node.honours = False

    def collide(node: ScriptedNode, job: ApiJob) -> bytes:
        node.execute(job)
        node.made[OWN] = {"uuid": OWN, "name": "foreign"}
        job.result = failed("SYS.1000")
        return accepted(job)

    node.acts[A] = [collide, accept]
    operator.write_job(f"{{uuid: {A}, params: {{resourceUuid: {OWN}, name: mine}}}}")
    await operator.run("--at-most-once")
    assert operator.states()[A] == "conflict"
    del node.made[OWN]
    await operator.zclone("retry", "job.yaml", "--state", "conflict")
    assert len(node.posts(A)) == 1
    assert operator.states()[A] == "uncertain", operator.output


@pytest.mark.parametrize("story", ["refused", "edited", "planned"])
async def test_a_run_that_ends_early_records_the_flag(story: str, node: ScriptedNode, operator: Operator) -> None:
    """It was given to a run that ends before its first call for a target; a later one sends nothing again."""
    node.acts[A] = [lose_answer]
    hide(node)
    operator.write_job(B, f"{{uuid: {A}, params: {{description: one}}}}", limits=f"{LIMITS}, attempts: 1")
    await operator.run()
    limits = f"{LIMITS}, attempts: 3"
    if story == "refused":
        taken = f"{{uuid: {C}, params: {{resourceUuid: {node.posts(A)[0].resource}}}}}"
        operator.write_job(B, f"{{uuid: {A}, params: {{description: one}}}}", taken, limits=limits)
    elif story == "edited":
        operator.write_job(B, f"{{uuid: {A}, params: {{description: two}}}}", limits=limits)
    else:
        node.gate = lambda seen: failed("ID.1001")
        operator.write_job(
            B,
            f"{{uuid: {A}, params: {{description: one}}}}",
            f"{{uuid: {C}, params: {{name: '${{source.name}}'}}}}",
            limits=limits,
        )
    assert await operator.run("--at-most-once") in {2, 4}, operator.output
    node.gate = None
    operator.write_job(B, f"{{uuid: {A}, params: {{description: one}}}}", limits=limits)
    await operator.run()
    assert len(node.posts(A)) == 1


async def test_a_retry_that_was_not_sent_does_not_forget(node: ScriptedNode, operator: Operator) -> None:
    """A plain retry was stopped before its POST; with the flag the target is only looked for."""
    node.acts[A] = [refuse("SYS.1006"), accept]
    operator.write_job(B, A, limits=f"{LIMITS}, attempts: 1")
    assert await operator.run() == 3, operator.output
    node.gate = lambda seen: failed("LICENSE.1003") if seen.call.startswith("POST /v1/ai/") else None
    await operator.zclone("retry", "job.yaml")
    node.gate = None
    await operator.run("--at-most-once")
    assert len(node.posts(A)) == 1
    assert operator.states()[A] == "uncertain", operator.output


async def test_a_failure_with_the_flag_does_not_forget(node: ScriptedNode, operator: Operator) -> None:
    """Of two plain POSTs the first may have run, and the second one ends with the flag: a retry looks only."""
    node.acts[A] = [refuse("SYS.1006"), keep_running, accept]
    operator.write_job(B, A, limits="timeout: 6s, attempts: 4")
    await operator.run()
    assert len(node.posts(A)) == 2
    node.posts(A)[1].result = failed("ID.1003")
    await operator.run("--at-most-once")
    await operator.zclone("retry", "job.yaml")
    assert len(node.posts(A)) == 2
    assert operator.states()[A] == "uncertain", operator.output


async def test_a_plain_return_does_not_forget(node: ScriptedNode, operator: Operator) -> None:
    """A target was sent, left and returned without the flag, under --only; with it the target is only looked for."""
    node.acts[A] = [keep_running, accept]
    operator.write_job(B, A, limits=f"{LIMITS}, attempts: 2")
    await operator.run()
    node.posts(A)[0].result = failed("SYS.1006")
    operator.write_job(B, limits=f"{LIMITS}, attempts: 2")
    for _ in range(2):
        await operator.run()
    operator.write_job(B, A, C, limits=f"{LIMITS}, attempts: 2")
    await operator.run("--only", f"source={C}")
    assert operator.states()[A] == "planned", operator.output
    await operator.run("--at-most-once")
    assert len(node.posts(A)) == 1
    assert operator.states()[A] == "uncertain", operator.output
