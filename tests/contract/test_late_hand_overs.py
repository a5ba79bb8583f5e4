"""Hand-overs that the server executes late: a clone that has another owner in the job file since goes to that one."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

import pytest

from tests.contract.scripted_node import A, ApiJob, accepted, failed, with_clock_set
from tests.contract.test_later_hand_overs import TENANT, OwnedNode
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from tests.contract.scripted_node import Operator
    from tests.zstack.wire_server import Seen

OTHER: Final = "8" * 12 + "4" + "8" * 3 + "8" + "8" * 15
FIRST: Final = f"{{uuid: {A}, owner: '{TENANT}'}}"
CORRECTED: Final = f"{{uuid: {A}, owner: '{OTHER}'}}"
TIME_OVER: Final = 32 * 60.0
"""Seconds after which the server no longer executes a hand-over."""


class LateNode(OwnedNode):
    """A node that changes owners when the test wants it, and answers before that."""

    def __init__(self) -> None:
        super().__init__()
        self.early_answer: bytes | None = None
        """How the job of a hand-over ends before it is executed; None: it is executed at once."""
        self.is_slow = False
        """Whether the job has no end."""
        self.late: list[ApiJob] = []
        """Jobs that are not executed yet."""

    def own_answer(self, seen: Seen) -> bytes | None:
        method, _, path = seen.call.partition(" ")
        if method == "POST" and path.startswith("/v1/account/"):
            wanted = {"uuid": seen.json["params"]["resourceUuid"], "owner": path.split("/")[3]}
            job = ApiJob(seen.headers["x-job-uuid"], "", wanted, self.early_answer)
            self.jobs.append(job)
            if self.is_slow or self.early_answer is not None:
                self.late.append(job)
            else:
                self.give(job)
            return accepted(job)
        return super().own_answer(seen)

    def give(self, job: ApiJob) -> None:
        """Change the owner, which fails where it is the owner already."""
        uuid, owner = job.params["uuid"], job.params["owner"]
        job.result = failed("ID.1004") if self.owner(uuid) == owner else answer(200, {"inventory": {"uuid": "0" * 32}})
        self.owners[uuid] = owner

    def answer_at_once(self, result: bytes | None = None, *, is_slow: bool = False) -> None:
        """End the jobs of the next hand-overs with ``result``."""
        self.early_answer, self.is_slow = result, is_slow


@pytest.fixture
def node() -> LateNode:
    return LateNode()


async def end_within_the_hand_over(node: LateNode, operator: Operator, number: signal.Signals) -> None:
    """Start a run, and end it by a signal while the server works on the hand-over."""
    node.answer_at_once(is_slow=True)
    process = operator.start("run", "job.yaml")
    while not node.late:  # noqa: ASYNC110 - another process ends the wait
        await asyncio.sleep(0.02)
    process.send_signal(number)
    await asyncio.to_thread(process.communicate, timeout=60)


@pytest.mark.parametrize("end", ["SYS.1001", "SIGKILL", "SIGINT"])
async def test_the_owner_of_now_is_the_last_one(end: str, node: LateNode, operator: Operator) -> None:
    """Until a try towards another owner is executed or its time is over, the hand-over is open, and is then done."""
    operator.write_job(FIRST)
    if end == "SYS.1001":
        node.answer_at_once(failed(end))
        assert await operator.run() == 4, operator.output
    else:
        await end_within_the_hand_over(node, operator, signal.Signals[end])
    node.answer_at_once()
    operator.write_job(CORRECTED)
    tries = len(node.late)
    for _ in range(2):
        assert await operator.run() == 4, operator.output
        assert "0 of 1 clones handed over" in operator.output
        assert "clone.hand_over_waits" in operator.output
    assert len(node.late) == tries
    node.give(node.late[0])
    operator.env |= with_clock_set(TIME_OVER, operator.folder / "jump")
    assert await operator.run() == 0, operator.output
    assert [*node.owners.values()] == [OTHER]


@pytest.mark.both_engines
async def test_an_error_after_which_the_server_may_continue_is_no_refusal(node: LateNode, operator: Operator) -> None:
    """The hand-over is tried again by the next run, and is done by then or by that."""
    operator.write_job(FIRST)
    node.answer_at_once(failed("SYS.1001"))
    assert await operator.run() == 4, operator.output
    assert await operator.run() == 4, operator.output
    node.answer_at_once()
    assert await operator.run() == 0, operator.output
    assert [*node.owners.values()] == [TENANT]


async def test_an_error_that_lasts_is_a_refusal(node: LateNode, operator: Operator) -> None:
    """Once the time of the first try is over, the operator is needed; its last try still counts for another owner."""
    operator.write_job(FIRST)
    node.answer_at_once(failed("SYS.1001"))
    assert await operator.run() == 4, operator.output
    operator.env |= with_clock_set(TIME_OVER, operator.folder / "jump")
    assert await operator.run() == 3, operator.output
    assert "to hand over the rest, fix what was refused" in operator.output
    operator.write_job(CORRECTED)
    operator.env |= with_clock_set(TIME_OVER, operator.folder / "jump")
    assert await operator.run() == 4, operator.output


@pytest.mark.both_engines
async def test_a_definite_end_leaves_no_doubt(node: LateNode, operator: Operator) -> None:
    """After a refusal, and after a hand-over that is done, the clone is given to the next owner at once."""
    operator.write_job(FIRST)
    node.answer_at_once(failed("ID.1003"))
    assert await operator.run() == 3, operator.output
    node.answer_at_once()
    for row, owner in ((CORRECTED, OTHER), (FIRST, TENANT)):
        operator.write_job(row)
        assert await operator.run() == 0, operator.output
        assert [*node.owners.values()] == [owner]


async def test_a_try_towards_another_owner_undoes_what_was_done(node: LateNode, operator: Operator) -> None:
    """An owner that was given the clone before, and is named again, is not taken for its owner still."""
    operator.write_job(FIRST)
    assert await operator.run() == 0, operator.output
    operator.write_job(CORRECTED)
    await end_within_the_hand_over(node, operator, signal.SIGKILL)
    node.answer_at_once()
    operator.write_job(FIRST)
    assert await operator.run() == 4, operator.output
    node.give(node.late[0])
    operator.env |= with_clock_set(TIME_OVER, operator.folder / "jump")
    assert await operator.run() == 0, operator.output
    assert [*node.owners.values()] == [TENANT]
