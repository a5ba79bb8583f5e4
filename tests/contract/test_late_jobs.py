"""Jobs of earlier attempts that the server may still execute once the clone of a later one is deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batch.plan.identity import resource_uuid
from tests.contract.scripted_node import A, ApiJob, B, accept, keep_running, lose_row, queue, with_clock_set
from tests.contract.test_later_hand_overs import OwnedNode

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.scripted_node import Act, Operator

UUIDS = [resource_uuid("job", "default", A, generation=number) for number in range(3)]
HOUR = 3600.0
ROLLBACK = ("rollback", "job.yaml", "--yes")
REOPEN = ("verify", "job.yaml", "--reopen", "--yes")


class HardNode(OwnedNode):
    """A node that deletes for good, so that the uuid is free again, as servers before 5.5 do."""

    def execute(self, job: ApiJob) -> None:
        self.used.clear()
        super().execute(job)
        self.used.clear()


@pytest.fixture
def node() -> HardNode:
    return HardNode()


async def make_by_a_later_attempt(act: Act, node: HardNode, operator: Operator, *, limits: str = "") -> None:
    """Let a run clone A by its second POST, while the job of the first one, which ``act`` answers, may be executed."""
    node.acts[A] = [act, accept]
    operator.write_job(B, A, limits=f"concurrency: 1{limits}")
    for _ in range(3):
        if await operator.run() == 0:
            break
    assert operator.states()[A] == "cloned", operator.output
    assert len(node.posts(A)) == 2


def clones_of(node: HardNode) -> list[str]:
    """Return the clones of A that exist."""
    return [uuid for uuid in node.made if uuid in UUIDS]


@pytest.mark.parametrize(
    ("act", "limits"),
    [(keep_running, ", timeout: 2s"), (lose_row, ""), (queue, "")],
    ids=["slow", "lost row", "queued"],
)
async def test_a_clone_is_not_rolled_back_while_an_earlier_job_may_run(
    act: Act, limits: str, node: HardNode, operator: Operator
) -> None:
    """It would make another clone once the uuid is free, beside the one of the next run."""
    await make_by_a_later_attempt(act, node, operator, limits=limits)
    assert await operator.zclone("rollback", "job.yaml", "--yes") == 3, operator.output
    assert "an earlier attempt may still be executing" in operator.output
    node.posts(A)[0].is_known = True
    node.execute(node.posts(A)[0])
    await operator.run()
    assert len(clones_of(node)) == 1


async def test_a_clone_is_rolled_back_once_every_job_is_over(node: HardNode, operator: Operator) -> None:
    """The earlier job ended because the uuid was in use."""
    await make_by_a_later_attempt(keep_running, node, operator, limits=", timeout: 2s")
    node.execute(node.posts(A)[0])
    assert await operator.zclone("rollback", "job.yaml", "--yes") == 0, operator.output
    assert clones_of(node) == []
    assert await operator.run() == 0
    assert len(clones_of(node)) == 1


async def test_after_its_time_a_lost_job_holds_up_no_rollback(
    node: HardNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """The server can no longer execute it."""
    await make_by_a_later_attempt(lose_row, node, operator)
    env = with_clock_set(2 * HOUR, tmp_path / "flag")
    assert await operator.zclone("rollback", "job.yaml", "--yes", env=env) == 0, operator.output


async def test_a_missing_clone_is_not_reopened_while_an_earlier_job_may_run(node: HardNode, operator: Operator) -> None:
    """Someone deleted the clone: that job may make it again."""
    await make_by_a_later_attempt(keep_running, node, operator, limits=", timeout: 2s")
    del node.made[UUIDS[0]]
    assert await operator.zclone("verify", "job.yaml", "--reopen", "--yes") == 3, operator.output
    assert f"an earlier attempt to make {A} may still be executing" in operator.output
    node.execute(node.posts(A)[0])
    await operator.run()
    assert clones_of(node) == [UUIDS[0]]


async def lose_lines(lost: str, node: HardNode, operator: Operator) -> None:
    """Damage the ``sent`` lines of A, ``all`` or that of the ``second`` attempt, and repair the manifest.

    The line after each is lost too, as its checksum depends on it; that A is cloned is not.
    """
    jobs = {job.uuid for job in node.posts(A)[lost == "second" :]}
    assert operator.damage(lambda line: line.get("state") == "sent" and line.get("job_uuid") in jobs) == len(jobs)
    await operator.repair()
    assert "0 targets uncertain" in operator.output


@pytest.mark.parametrize("lost", ["second", "all"])
@pytest.mark.parametrize("command", [ROLLBACK, REOPEN], ids=["rollback", "reopen"])
async def test_a_lost_line_hides_no_job_that_may_run(
    command: tuple[str, ...], lost: str, node: HardNode, operator: Operator
) -> None:
    """The line that named the jobs open beside the clone's own is lost: they may still make another clone."""
    await make_by_a_later_attempt(keep_running, node, operator, limits=", timeout: 2s")
    await lose_lines(lost, node, operator)
    if command == REOPEN:
        del node.made[UUIDS[0]]
    assert await operator.zclone(*command) == 3, operator.output
    node.execute(node.posts(A)[0])
    await operator.run()
    assert clones_of(node) == [UUIDS[0]]


async def test_after_their_time_lost_lines_hold_up_no_rollback(
    node: HardNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """The server can no longer execute what they may have sent."""
    await make_by_a_later_attempt(keep_running, node, operator, limits=", timeout: 2s")
    await lose_lines("second", node, operator)
    node.execute(node.posts(A)[0])
    assert await operator.zclone(*ROLLBACK) == 3, operator.output
    env = with_clock_set(2 * HOUR, tmp_path / "flag")
    assert await operator.zclone(*ROLLBACK, env=env) == 0, operator.output
    assert await operator.run() == 0
    assert len(clones_of(node)) == 1
