"""DELETEs and PUTs that were sent twice have no definite end while their time lasts; a refused first one ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from tests.contract.scripted_node import A, ApiJob, accepted, failed, with_clock_set
from tests.contract.test_late_jobs import HOUR, ROLLBACK, HardNode
from tests.zstack.wire_server import answer, error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.contract.scripted_node import Operator
    from tests.zstack.wire_server import Seen

    Act = Callable[["ChangeNode", Seen], bytes | None]

FIX: Final = ("verify", "job.yaml", "--fix", "--yes")
VERIFY: Final = ("verify", "job.yaml")


class ChangeNode(HardNode):
    """A node whose answers to the DELETEs and PUTs of clones a test decides."""

    def __init__(self) -> None:
        super().__init__()
        self.change_acts: list[Act] = []
        """Handle the first, second, … change; the last one repeats."""
        self.changes: list[Seen] = []

    async def handle(self, seen: Seen) -> bytes | None:
        if not seen.call.startswith(("DELETE /v1/ai/model-services/", "PUT /v1/ai/model-services/")):
            return await super().handle(seen)
        self.changes.append(seen)
        acts = self.change_acts or [execute]
        return acts[min(len(self.changes), len(acts)) - 1](self, seen)

    def change(self, seen: Seen) -> None:
        """Do the work of a DELETE or PUT."""
        uuid = seen.call.rpartition("/")[2]
        if seen.call.startswith("DELETE "):
            self.made.pop(uuid, None)
        else:
            self.made[uuid] |= seen.json["updateModelService"]

    def add_job(self, seen: Seen, result: bytes | None, *, is_known: bool = True) -> bytes:
        job = ApiJob(seen.headers["x-job-uuid"], "", {}, result, is_known=is_known)
        self.jobs.append(job)
        return accepted(job)


def execute(node: ChangeNode, seen: Seen) -> bytes:
    """202, and the change is made at once."""
    node.change(seen)
    return node.add_job(seen, answer(200, {}))


def cut_off(node: ChangeNode, seen: Seen) -> bytes:
    """202 of a node that nobody reaches any more, and that may still execute the change."""
    return node.add_job(seen, None, is_known=False)


def keep_running(node: ChangeNode, seen: Seen) -> bytes:
    """202, and the job runs until the test says so."""
    return node.add_job(seen, None)


def end_with(code: str) -> Act:
    """202, and the job ends with a code; nothing is changed."""
    return lambda node, seen: node.add_job(seen, failed(code))


def refuse(status: int, code: str) -> Act:
    """Answer the call itself with an error; there is no job."""
    return lambda _, __: answer(status, error(code, ""))


@pytest.fixture
def node() -> ChangeNode:
    return ChangeNode()


def write_name(operator: Operator, name: str) -> None:
    operator.write_job(f"{{uuid: {A}, params: {{name: {name}}}}}")


async def start_and_kill(node: ChangeNode, operator: Operator, *arguments: str) -> None:
    """Kill a command once it has sent a change twice."""
    process = operator.start(*arguments)
    while len(node.changes) < 2:  # noqa: ASYNC110 - a process is waited for
        await asyncio.sleep(0.02)
    process.kill()
    await asyncio.to_thread(process.communicate)


ENDS: Final = pytest.mark.parametrize(
    ("resent", "code"),
    [(end_with("SYS.1010"), 4), (end_with("SYS.1003"), 4), (refuse(403, "SYS.1019"), 3)],
    ids=["node", "refused", "denied"],
)
"""How the node that took over ends what is sent to it again, and the exit code: 3 where the whole API is denied."""


@ENDS
async def test_a_delete_sent_twice_may_still_be_executed(
    resent: Act, code: int, node: ChangeNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """The node that accepted it is cut off: the end of what its successor received says nothing about the first."""
    operator.write_job(A)
    assert await operator.run() == 0, operator.output
    node.change_acts = [cut_off, resent]
    assert await operator.zclone(*ROLLBACK) == code, operator.output
    assert node.changes[0].headers["x-job-uuid"] == node.changes[1].headers["x-job-uuid"]
    assert await operator.run() == 4, operator.output
    assert await operator.zclone(*VERIFY) == 4, operator.output
    env = with_clock_set(2 * HOUR, tmp_path / "flag")
    assert await operator.run(env=env) == 0, operator.output
    node.change_acts = []
    assert await operator.zclone(*ROLLBACK) == 0, operator.output
    assert node.made == {}


async def test_a_delete_sent_twice_is_on_record_after_a_kill(node: ChangeNode, operator: Operator) -> None:
    """The next process knows that it was sent twice, and deletes the clone under another job uuid."""
    operator.write_job(A)
    assert await operator.run() == 0, operator.output
    node.change_acts = [cut_off, keep_running, execute]
    await start_and_kill(node, operator, *ROLLBACK)
    node.jobs[-1].result = failed("SYS.1010")
    assert await operator.run() == 4, operator.output
    assert await operator.zclone(*ROLLBACK) == 0, operator.output
    assert len({seen.headers["x-job-uuid"] for seen in node.changes}) == 2


@ENDS
async def test_a_put_sent_twice_may_still_be_executed(
    resent: Act, code: int, node: ChangeNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """It would set what the job file no longer says, so that nothing is in sync while its time lasts."""
    write_name(operator, "one")
    assert await operator.run() == 0, operator.output
    write_name(operator, "two")
    node.change_acts = [cut_off, resent]
    assert await operator.zclone(*FIX) == code, operator.output
    node.change_acts = []
    write_name(operator, "three")
    assert await operator.zclone(*FIX) == 4, operator.output
    node.change(node.changes[0])
    env = with_clock_set(2 * HOUR, tmp_path / "flag")
    assert await operator.zclone(*FIX, env=env) == 0, operator.output
    assert [one["name"] for one in node.made.values()] == ["three"]


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_put_sent_twice_is_on_record_once_its_values_are_set(
    *, is_killed: bool, node: ChangeNode, operator: Operator
) -> None:
    """The one that was sent again sets them, and the first may set them again after the job file was edited."""
    write_name(operator, "one")
    assert await operator.run() == 0, operator.output
    write_name(operator, "two")
    node.change_acts = [cut_off, execute]
    if is_killed:
        await start_and_kill(node, operator, *FIX)
    assert await operator.zclone(*FIX) == 0, operator.output
    write_name(operator, "three")
    assert await operator.zclone(*FIX) == 4, operator.output


@pytest.mark.parametrize(
    ("status", "code"), [(503, "LICENSE.1001"), (403, "SYS.1019"), (503, "SYS.1010"), (503, "SYS.1003")]
)
async def test_a_change_refused_at_once_ended(status: int, code: str, node: ChangeNode, operator: Operator) -> None:
    """No job exists that anything could be asked about: the refusal is on record."""
    write_name(operator, "one")
    assert await operator.run() == 0, operator.output
    node.change_acts = [refuse(status, code)]
    assert await operator.zclone(*ROLLBACK) in {3, 4}, operator.output
    assert await operator.run() == 0, operator.output
    assert await operator.zclone(*VERIFY) == 0, operator.output
    write_name(operator, "two")
    assert await operator.zclone(*FIX) in {3, 4}, operator.output
    node.change_acts = []
    write_name(operator, "three")
    assert await operator.zclone(*FIX) == 0, operator.output


async def test_a_change_with_an_ambiguous_refusal_has_not_ended(node: ChangeNode, operator: Operator) -> None:
    """Such an answer leaves open whether it was executed."""
    operator.write_job(A)
    assert await operator.run() == 0, operator.output
    node.change_acts = [refuse(503, "SYS.1006")]
    assert await operator.zclone(*ROLLBACK) == 4, operator.output
    assert await operator.run() == 4, operator.output
