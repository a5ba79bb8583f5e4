"""The rate of an endpoint, by the node's own clock, under any runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from batch.errors import ExitCode
from batch.model import State
from tests.crash.stage import node, write_job
from tests.temporal.scene import ScriptedClient, scene, working
from tests.temporal.stage import TEMPORAL, faults, staged

if TYPE_CHECKING:
    from pathlib import Path

    from tests.temporal.stage import Server


@pytest.mark.slow
@pytest.mark.parametrize("targets", [60])
def test_two_runs_share_one_rate(server: Server, tmp_path: Path, targets: int) -> None:
    """Two runs at one endpoint at once make no more calls together than the rate, and one for each worker."""
    write_job(tmp_path, targets, concurrency=40)
    with node(faults(tmp_path), cwd=tmp_path) as served, staged(tmp_path, served.url, server) as stage:
        for _ in range(3):
            stage.work(rate="20/s", share="1/3")
        both = [stage.start_job("--run", name) for name in ("a", "b")]
        outputs = [process.communicate(timeout=250)[1] for process in both]
        ledger = served.ledger()
    assert [process.returncode for process in both] == [ExitCode.OK] * 2, outputs
    # Each run clones the same sources under the same names.
    assert (ledger["clones_made"], {row["count"] for row in ledger["duplicates"]}) == (2 * targets, {2})
    assert ledger["calls_peak_1s"] <= 20 + 3


async def limit(server: Server, endpoint: str, calls: str) -> None:
    """Set the limit of an endpoint's task queue by Temporal's own command."""
    place = ["--address", server.address, "--task-queue", f"zclone/{endpoint}", "--task-queue-type", "activity"]
    command = [str(TEMPORAL), "task-queue", "config", "set", *place, "--queue-rps-limit", calls]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0


@pytest.mark.slow
async def test_the_task_queues_limit_pauses_a_run(server: Server) -> None:
    """With a limit of 0 no call is made any more; without it the run continues to its end, each clone made once."""
    client = ScriptedClient()
    found = await scene(server, client, 40, concurrency=8)
    async with working(server, client):
        await found.begin()
        following = asyncio.create_task(found.follow())
        while client.posts.total() < 4:  # noqa: ASYNC110 - a workflow is waited for
            await asyncio.sleep(0.05)
        await limit(server, client.url, "0")
        # What had left the queue before ends.
        await asyncio.sleep(5)
        before = client.posts.total()
        await asyncio.sleep(5)
        assert client.posts.total() == before < 40
        await limit(server, client.url, "default")
        assert await following is None
    assert found.sheet.states == {State.CLONED: 40}
    assert set(client.posts.values()) == {1}
