"""The next step that a run names at its end is one that helps, and does no more than the run was asked for."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import (
    A,
    ApiJob,
    B,
    C,
    accept,
    accepted,
    failed,
    keep_running,
    queue,
    refuse,
    with_clock_set,
)
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.scripted_node import Operator, ScriptedNode
    from tests.zstack.wire_server import Seen


def command_after(operator: Operator, text: str) -> list[str]:
    """Return the arguments of the command that follows a text in the output."""
    (line,) = [line for line in operator.output.splitlines() if text in line]
    return shlex.split(line.partition(text)[2])[1:]


async def test_a_wave_held_back_by_doubt_names_what_helps(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """An uncertain target is over its time: no retry helps, but taking it out of the job file does."""
    node.acts[A] = [queue]
    operator.write_job(A, B, limits="timeout: 2s, attempts: 1, waves: [1, rest]")
    await operator.run("--at-most-once")
    later = with_clock_set(7200.0, tmp_path / "flag")
    assert await operator.run(env=later) == 3, operator.output
    assert "zclone retry" not in operator.output
    assert "take those targets out of the job file" in operator.output
    await operator.zclone("status", "job.yaml", env=later)
    assert "take those targets out of the job file" in operator.output
    operator.write_job(B, limits="timeout: 2s, attempts: 1, waves: [1, rest]")
    await operator.run(env=later)
    assert operator.states()[B] == "cloned", operator.output


async def test_the_retry_of_a_part_is_for_that_part(node: ScriptedNode, operator: Operator) -> None:
    """A run with --only names a retry with the same --only: nothing else is sent."""
    node.acts[A] = [refuse("SYS.1003"), accept]
    operator.write_job(A, B, C)
    assert await operator.run("--only", f"source={A}") == 3, operator.output
    assert await operator.zclone(*command_after(operator, "fix what failed, then: ")) == 0, operator.output
    assert (operator.states()[A], node.posts(B), node.posts(C)) == ("cloned", [], [])


async def test_a_retry_names_the_run_only_where_that_is_needed(node: ScriptedNode, operator: Operator) -> None:
    """A summary spells one command in one way: with --run where the run is not the default one."""

    def deny(seen: Seen) -> bytes | None:
        if not seen.call.startswith("POST /v1/account/"):
            return None
        node.jobs.append(ApiJob(seen.headers["x-job-uuid"], "", {}, failed("ID.1003")))
        return accepted(node.jobs[-1])

    node.gate = deny
    node.acts[B] = [refuse("SYS.1003")]
    rows = A.join(("{uuid: ", f", owner: {'7' * 32}}}")), B
    for run, flag in (("default", ""), ("other", " --run other")):
        operator.write_job(*rows, run=run)
        assert await operator.run() == 3, operator.output
        assert await operator.zclone("retry", "job.yaml") == 3, operator.output
        lines = operator.output.splitlines()
        assert f"fix what failed, then: zclone retry job.yaml{flag}" in lines
        assert f"to hand over the rest, fix what was refused, then: zclone retry job.yaml{flag}" in lines


async def test_the_rerun_of_a_new_run_resumes_it(node: ScriptedNode, operator: Operator) -> None:
    """The named command has --run in place of --new-run, and can be started."""
    node.acts[A] = [keep_running, accept]
    operator.write_job(B, A, limits="timeout: 2s, attempts: 3", run="nightly-${date}")
    assert await operator.run("--new-run") == 4, operator.output
    assert await operator.zclone(*command_after(operator, "run the same command again: ")) in {0, 4}, operator.output


@pytest.mark.parametrize("flag", [(), ("--at-most-once",)], ids=["plain", "at most once"])
@pytest.mark.parametrize("refusal", [answer(401, "no"), failed("ID.1001")], ids=["401", "ID.1001"])
async def test_what_a_dead_session_refused_is_sent_under_a_new_one(
    refusal: bytes, flag: tuple[str, ...], node: ScriptedNode, operator: Operator
) -> None:
    """The POST's own answer says that nothing was executed, and no new session can be had: the rerun sends it."""
    refused: list[ApiJob] = []

    def act(node: ScriptedNode, job: ApiJob) -> bytes | None:
        if refused:
            return accept(node, job)
        refused.append(job)
        job.is_known = False
        return refusal

    node.acts[A] = [act]
    operator.write_job(A, limits="timeout: 2s")
    assert await operator.run(*flag) == 4, operator.output
    operator.env["ZSTACK_SESSION_ID"] = "5" * 32
    assert await operator.run(*flag) == 0, operator.output
    assert (operator.states()[A], node.sources_of) == ("cloned", [A])
