"""What planned and the exit codes mean: 3 if a rerun settles nothing, 4 if it may, 0 if everything is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batch.app.outcome import unfinished_once_sent
from batch.errors import RunStoppedError, UnreachableError
from batch.manifest import Header, open_manifest
from batch.manifest.kinds import RemoteEngine
from tests.contract.scripted_node import (
    A,
    ApiJob,
    B,
    Operator,
    ScriptedNode,
    accept,
    accepted,
    keep_running,
    lose_row,
    make_and_refuse,
    refuse,
    turn_away,
)
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from pathlib import Path

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
    assert (code, operator.states()[A]) == (4, "uncertain"), operator.output


@pytest.mark.both_engines
async def test_a_fatal_end_is_followed_by_a_lookup(node: ScriptedNode, operator: Operator) -> None:
    """A job made the clone and ended with a licence error: an existing clone is not planned, nor is the exit 3."""
    node.acts[A] = [make_and_refuse("LICENSE.1003")]
    operator.write_job(B, A)
    code = await operator.run()
    assert len(node.made) == 2
    assert (operator.states()[A] != "planned", code != 3) == (True, True), operator.output


@pytest.mark.slow
@pytest.mark.both_engines
async def test_an_orphan_that_a_rerun_sends_again_is_unfinished(node: ScriptedNode, operator: Operator) -> None:
    """A job never ends (its node crashed), no timeout set: as the next start makes the clone, this one exits with 4."""
    node.acts[A] = [lambda _, job: accepted(job, api_timeout=1.0), accept]
    operator.write_job(B, A)
    first = await operator.run(patience=120)
    second = await operator.run()
    assert (operator.states()[A], second) == ("cloned", 0)
    assert first == 4


async def test_a_server_that_shows_no_clone_needs_the_operator(node: ScriptedNode, operator: Operator) -> None:
    """The first clone's job ends with {} and its uuid does not exist, so resourceUuid is not honoured: exit 3."""

    def empty(_: ScriptedNode, job: ApiJob) -> bytes:
        job.result = answer(200, {})
        return accepted(job)

    node.acts[A] = [empty]
    operator.write_job(A)
    assert [await operator.run() for _ in range(2)] == [3, 3], operator.output


async def test_an_unreachable_engine_does_not_mean_that_nothing_was_sent(
    node: ScriptedNode, operator: Operator
) -> None:
    """An attempt is recorded and the next start is for an unreachable Temporal: exit 4, not 5."""
    node.acts[A] = [keep_running]
    operator.write_job(A, limits="timeout: 2s")
    assert await operator.run() == 4, operator.output
    away = {"TEMPORAL_ADDRESS": "127.0.0.1:1"}
    assert await operator.run("--engine", "temporal", env=away) == 4, operator.output
    assert "127.0.0.1:1" in operator.output


async def test_a_run_left_to_temporal_may_have_sent(tmp_path: Path) -> None:
    """Such a run of an earlier process is unfinished while it cannot be queried, though no line is copied."""
    header = Header("job", "default", "http://127.0.0.1/zstack", simulated=False)
    manifest = open_manifest(tmp_path / "job.manifest.jsonl", header)
    with pytest.raises(UnreachableError), unfinished_once_sent(manifest):
        raise UnreachableError("away")
    manifest.past.remote = RemoteEngine("temporal", "127.0.0.1:1", "default", "zclone")
    with pytest.raises(RunStoppedError, match="away"), unfinished_once_sent(manifest):
        raise UnreachableError("away")
    await manifest.close(4)
