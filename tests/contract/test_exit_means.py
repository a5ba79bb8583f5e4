"""What planned and the exit codes may mean: 3 where a rerun settles nothing, 4 where it may, 0 over what is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import (
    A,
    ApiJob,
    B,
    Operator,
    ScriptedNode,
    accept,
    accepted,
    lose_row,
    make_and_refuse,
    refuse,
    turn_away,
)
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from tests.contract.scripted_node import Act


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(refuse("LICENSE.1003"), id="licence, at the poll"),
        pytest.param(turn_away(403, "wrong accessKey signature"), id="signature, at the POST"),
    ],
)
@pytest.mark.both_engines
async def test_a_refused_second_attempt_does_not_plan_the_first_again(
    second: Act, node: ScriptedNode, operator: Operator
) -> None:
    """The first POST was accepted and may run without a row, the second is refused: not planned, and exit 4."""
    node.acts[A] = [lose_row, second]
    operator.write_job(B, A)
    code = await operator.run()
    assert len(node.posts(A)) == 2
    assert (code, operator.states()[A]) == (4, "uncertain"), operator.said


@pytest.mark.both_engines
async def test_what_a_fatal_end_left_is_looked_for(node: ScriptedNode, operator: Operator) -> None:
    """A job made the clone and ended with a licence error: a clone that is there is not planned, nor is the exit 3."""
    node.acts[A] = [make_and_refuse("LICENSE.1003")]
    operator.write_job(B, A)
    code = await operator.run()
    assert len(node.made) == 2
    assert (operator.states()[A] != "planned", code != 3) == (True, True), operator.said


@pytest.mark.slow
@pytest.mark.both_engines
async def test_an_orphan_that_a_rerun_sends_again_is_unfinished(node: ScriptedNode, operator: Operator) -> None:
    """A job runs for ever (its node crashed), no timeout set: where the next start makes the clone, this one ends 4."""
    node.acts[A] = [lambda _, job: accepted(job, api_timeout=1.0), accept]
    operator.write_job(B, A)
    first = await operator.run(patience=120)
    second = await operator.run()
    assert (operator.states()[A], second) == ("cloned", 0)
    assert first == 4


async def test_a_server_that_shows_nothing_needs_the_operator(node: ScriptedNode, operator: Operator) -> None:
    """The first clone's job ends with {} and its uuid is not there, so resourceUuid is not honoured: exit 3."""

    def empty(_: ScriptedNode, job: ApiJob) -> bytes:
        job.result = answer(200, {})
        return accepted(job)

    node.acts[A] = [empty]
    operator.write_job(A)
    assert [await operator.run() for _ in range(2)] == [3, 3], operator.said
