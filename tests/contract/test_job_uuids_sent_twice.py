"""A job uuid that was sent twice has two executions: the end of one is not the end of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import A, B, accept, lose_row, queue, refuse

if TYPE_CHECKING:
    from tests.contract.scripted_node import Act, Operator, ScriptedNode


@pytest.mark.parametrize(
    ("first", "limits"),
    [
        pytest.param(queue, "", id="answer and row lost"),
        pytest.param(lose_row, "timeout: 4s", id="accepted, row lost, gone on with by a rerun", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "code",
    [pytest.param("ID.1003", id="quota"), pytest.param("SYS.1003", id="missing source", marks=pytest.mark.slow)],
)
@pytest.mark.both_engines
async def test_the_end_of_a_repetition_is_not_the_end_of_the_first_post(
    first: Act, limits: str, code: str, node: ScriptedNode, operator: Operator
) -> None:
    """The first POST runs without a row, its repetition under the same job uuid fails: not failed, it may succeed."""
    node.acts[A] = [first, refuse(code)]
    operator.write_job(B, A, limits=limits)
    for _ in range(2):
        await operator.run()
        assert operator.states()[A] != "failed", operator.output
    node.execute(node.posts(A)[0])
    assert await operator.run() == 0, operator.output
    assert operator.states()[A] == "cloned"


@pytest.mark.slow
@pytest.mark.both_engines
async def test_an_accepted_job_uuid_is_not_sent_again(node: ScriptedNode, operator: Operator) -> None:
    """A job uuid that the server answered with 202 is never used for another POST, not by a later process either."""
    node.acts[A] = [lose_row]
    operator.write_job(B, A, limits="timeout: 4s")
    for _ in range(2):
        await operator.run()
    uuids = [job.uuid for job in node.posts(A)]
    assert len(uuids) > 1
    assert len(set(uuids)) == len(uuids)


@pytest.mark.both_engines
async def test_an_edited_uuid_is_not_sent_after_the_end_of_a_repetition(node: ScriptedNode, operator: Operator) -> None:
    """A repetition ended, the given uuid is changed and the target is retried: one clone, not two."""
    node.acts[A] = [queue, refuse("ID.1003"), accept]
    operator.write_job(B, f"{{uuid: {A}, params: {{resourceUuid: 0a0a0a0a0a0a4a0a8a0a0a0a0a0a0a0a}}}}")
    await operator.run()
    operator.write_job(B, f"{{uuid: {A}, params: {{resourceUuid: 0b0b0b0b0b0b4b0b8b0b0b0b0b0b0b0b}}}}")
    await operator.zclone("retry", "job.yaml")
    node.execute(node.posts(A)[0])
    assert node.sources_of.count(A) == 1, operator.output


@pytest.mark.both_engines
async def test_a_lookup_does_not_end_a_job_uuid_sent_twice(node: ScriptedNode, operator: Operator) -> None:
    """Its repetition ended as not executed, the next job uuid failed: the first POST may still run, so not failed."""
    node.acts[A] = [queue, refuse("SYS.1010"), refuse("ID.1003")]
    operator.write_job(B, A)
    await operator.run()
    assert len({job.uuid for job in node.posts(A)}) == 2
    node.execute(node.posts(A)[0])
    assert operator.states()[A] != "failed", operator.output
