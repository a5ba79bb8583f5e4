"""The progress of a run is about the targets that it was asked for, whatever else its manifest has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.contract.scripted_node import A, B, C, D, keep_running

if TYPE_CHECKING:
    from tests.contract.scripted_node import Operator, ScriptedNode


def beats(operator: Operator) -> list[dict[str, Any]]:
    """Return the progress that the last command logged."""
    lines = (json.loads(line) for line in operator.output.splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == "run.progressed"]


async def test_progress_with_only_counts_no_other_target(node: ScriptedNode, operator: Operator) -> None:
    """One target was cloned before, one is found now, both outside --only: nothing of 1 has settled."""
    node.acts = {B: [keep_running], C: [keep_running]}
    operator.write_job(A, B, C, D, limits="timeout: 4s")
    assert await operator.run("--only", f"source={A}") == 0, operator.output
    assert await operator.run("--only", f"source={B}") == 4, operator.output
    node.execute(node.posts(B)[0])
    await operator.run("--only", f"source={C}")
    assert operator.states()[B] == "cloned"
    first = beats(operator)[0]
    assert (first["settled"], first["total"], first["in_flight"]) == (0, 1, 1), first
    assert "cloned" not in first


async def test_progress_counts_no_target_that_left_the_file(node: ScriptedNode, operator: Operator) -> None:
    """A clone whose target is no longer in the job file is none of those that the run has to settle."""
    operator.write_job(A, B)
    assert await operator.run() == 0, operator.output
    node.acts[C] = [keep_running]
    operator.write_job(B, C, limits="timeout: 4s")
    await operator.run()
    first = beats(operator)[0]
    assert (first["settled"], first["total"], first["in_flight"]) == (1, 2, 1), first
