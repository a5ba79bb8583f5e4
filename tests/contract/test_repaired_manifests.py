"""What a repaired manifest may claim, and what may be sent after a repair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import (
    A,
    B,
    Operator,
    ScriptedNode,
    accept,
    failed,
    keep_running,
    lose_answer,
    queue,
    refuse,
    with_clock_set,
)

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from tests.zstack.wire_server import Seen

GONE = {None, "planned", "failed", "conflict", "withdrawn", "undone"}
OWN = "0a0a0a0a0a0a4a0a8a0a0a0a0a0a0a0a"
ACCOUNT = "7" * 12 + "4" + "7" * 3 + "8" + "7" * 15
LATER = 7200.0


def names_a(line: dict[str, Any]) -> bool:
    """Whether a line is the page of planned targets, or a record of A."""
    return "planned" in line or line.get("key") == A


# --- The page that names a target is lost together with its records
# -------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [pytest.param((), id="plain"), pytest.param(("--at-most-once",), id="at most once", marks=pytest.mark.slow)],
)
async def test_lost_planned_and_sent_lines_make_no_second_clone(
    flags: tuple[str, ...], node: ScriptedNode, operator: Operator
) -> None:
    """A server that ignores resourceUuid; the lines that named a target are lost: it is not sent again."""
    node.honours = False
    node.acts[A] = [lose_answer, accept]
    operator.write_job(A, limits="timeout: 2s")
    await operator.run(*flags)
    assert node.sources_of == [A]
    assert operator.damage(names_a) >= 2
    await operator.repair()
    await operator.run(*flags)
    assert node.sources_of == [A]


async def test_lost_planned_and_sent_lines_are_no_failure(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """What lost lines sent may still come to exist: a refusal of what is sent now does not end it."""
    node.acts[A] = [queue, refuse("ID.1003")]
    operator.write_job(A, limits="timeout: 2s, attempts: 1")
    await operator.run()
    assert operator.damage(names_a) >= 2
    await operator.repair()
    assert await operator.run() in {3, 4}, operator.output
    assert operator.states()[A] not in GONE
    node.execute(node.posts()[0])
    assert await operator.run() == 4, operator.output
    await operator.run(env=with_clock_set(LATER, tmp_path / "flag"))
    assert operator.states()[A] == "cloned"


@pytest.mark.slow
async def test_lost_lines_may_have_sent_something(node: ScriptedNode, operator: Operator) -> None:
    """After a repair something may have been sent: a server that refuses the next start is exit 4, never 5."""
    node.acts[A] = [keep_running]
    operator.write_job(A, limits="timeout: 2s")
    await operator.run_and_kill(node)
    assert operator.damage(names_a) >= 2
    await operator.repair()

    def closed(seen: Seen) -> bytes:
        return failed("LICENSE.1003")

    node.gate = closed
    assert await operator.run() == 4, operator.output


# --- Other lines ------------------------------------------------------------------------------------------------------


async def test_a_lost_sent_line_does_not_accuse_the_server(node: ScriptedNode, operator: Operator) -> None:
    """A cloned line whose sent line is lost proves nothing about resourceUuid: the rest is cloned by a rerun."""
    operator.write_job(A, limits="timeout: 5s")
    assert await operator.run() == 0, operator.output
    assert operator.damage(lambda line: line.get("state") == "sent") == 1
    await operator.repair()
    operator.write_job(A, B, limits="timeout: 5s")
    assert await operator.run() == 0, operator.output
    assert sorted(node.sources_of) == [A, B]


async def test_a_foreign_service_is_not_handed_over_after_a_repair(node: ScriptedNode, operator: Operator) -> None:
    """A given resourceUuid that nothing was ever sent for is foreign: a repair does not make it ours."""
    node.made[OWN] = {"uuid": OWN, "name": "somebody's"}
    node.acts[B] = [keep_running]
    given = f"{{uuid: {A}, owner: {ACCOUNT}, params: {{resourceUuid: {OWN}}}}}"
    operator.write_job(B, given, limits="timeout: 5s, concurrency: 1")
    await operator.run_and_kill(node, recorded="accepted")
    assert node.posts(A) == []
    assert operator.damage(lambda line: line.get("state") == "accepted") == 1
    await operator.repair()
    node.execute(node.posts(B)[0])
    await operator.run()
    assert (node.given, node.posts(A)) == ([], [])
    assert operator.states()[A] != "cloned"


@pytest.mark.slow
async def test_our_own_clone_is_no_conflict_if_its_sent_line_is_lost(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """A clone made from the earlier job file is ours, although no record says how it was requested."""
    node.acts[A] = [lose_answer]
    node.look = lambda _: None
    operator.write_job(f"{{uuid: {A}, params: {{name: one}}}}", limits="timeout: 2s, attempts: 1")
    await operator.run_and_kill(node)
    assert operator.damage(lambda line: line.get("key") == A)
    await operator.repair()
    node.look = None
    operator.write_job(f"{{uuid: {A}, params: {{name: two}}}}", limits="timeout: 2s, attempts: 1")
    await operator.run("--accept-changes")
    await operator.run("--accept-changes", env=with_clock_set(LATER, tmp_path / "flag"))
    assert operator.states()[A] not in GONE, operator.output
    assert node.sources_of == [A]


@pytest.mark.slow
async def test_a_repaired_manifest_can_be_opened_after_a_lost_retry(node: ScriptedNode, operator: Operator) -> None:
    """Failed, retried, sent, accepted, cloned, with the retried line lost: after a repair the run continues."""
    node.acts[A] = [refuse("SYS.1003"), accept]
    operator.write_job(A, limits="timeout: 5s")
    assert await operator.run() == 3, operator.output
    assert await operator.zclone("retry", "job.yaml") == 0, operator.output
    # The line after it, sent, can no longer be verified and is lost with it.
    assert operator.damage(lambda line: "retried" in line) == 1
    await operator.repair()
    assert await operator.run() == 0, operator.output
    assert node.sources_of == [A]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["started", "planned", "plan", "accepted", "sent", "cloned", "failed", "ended"])
async def test_one_lost_line_of_each_kind(which: str, node: ScriptedNode, operator: Operator) -> None:
    """After the loss of any one kind of line and a repair: one clone each, and nothing that exists is called failed."""
    node.acts = {A: [accept], B: [refuse("SYS.1003"), accept]}
    operator.write_job(A, B, limits="timeout: 5s, concurrency: 1")
    assert await operator.run() == 3, operator.output
    done = operator.damage(lambda line: line.get("state") == which or (which in line))
    assert done
    await operator.repair()
    await operator.run()
    assert operator.states()[A] not in GONE
    await operator.zclone("retry", "job.yaml")
    await operator.run()
    assert sorted(node.sources_of) == [A, B], operator.output
