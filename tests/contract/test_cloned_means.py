"""What cloned means: the real command against a server that shows a clone before its job has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import A, ApiJob, Operator, ScriptedNode, accepted, failed, with_clock_set

if TYPE_CHECKING:
    from pathlib import Path


def show_early(node: ScriptedNode, job: ApiJob) -> bytes:
    """202, and the clone is visible while the job runs."""
    node.execute(job)
    job.result = None
    return accepted(job)


@pytest.mark.both_engines
async def test_a_clone_of_a_running_job_is_not_cloned_yet(node: ScriptedNode, operator: Operator) -> None:
    """A clone that is visible at the user's timeout, and is removed as its job fails, was never cloned."""
    node.acts[A] = [show_early]
    operator.write_job(A, limits="timeout: 2s, attempts: 1")
    assert await operator.run() == 4, operator.output
    assert operator.states() == {A: "uncertain"}
    node.made.clear()
    node.posts()[0].result = failed("SYS.1003")
    assert await operator.run() == 3, operator.output
    assert (operator.states(), len(node.posts())) == ({A: "failed"}, 1)


async def test_a_job_that_never_ends_hides_no_clone(node: ScriptedNode, operator: Operator, tmp_path: Path) -> None:
    """Endless 202s after the job's node crashed: the clone counts once the server's own time is over."""
    node.acts[A] = [show_early]
    operator.write_job(A, limits="timeout: 2s")
    assert await operator.run() == 4, operator.output
    assert await operator.run(env=with_clock_set(2000.0, tmp_path / "flag")) == 0, operator.output
    assert (operator.states(), len(node.posts())) == ({A: "cloned"}, 1)
