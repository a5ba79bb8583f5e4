"""Hand-overs of clones that an earlier process made, remade or left: each is done as soon as it can be, and once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.contract.scripted_node import A, ApiJob, B, accepted, failed, keep_running, refuse
from tests.contract.test_undone_targets import ME, OccupiedNode
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from tests.contract.scripted_node import Act, Operator
    from tests.zstack.wire_server import Seen

TENANT: Final = "7" * 12 + "4" + "7" * 3 + "8" + "7" * 15
ROWS: Final = tuple(f"{{uuid: {source}, owner: '{TENANT}'}}" for source in (A, B))


class OwnedNode(OccupiedNode):
    """A node that also deletes services, and knows their owners."""

    def __init__(self) -> None:
        super().__init__()
        self.refusal: bytes | None = None
        """How the job of a hand-over ends; None: as it should."""
        self.is_silent = False
        """Whether hand-overs get no answer."""
        self.owners: dict[str, str] = {}
        """Owners that others have set."""

    def own_answer(self, seen: Seen) -> bytes | None:
        method, _, path = seen.call.partition(" ")
        if method == "DELETE":
            self.made.pop(path.rpartition("/")[2], None)
            return self._accepted(seen, answer(200, {}))
        if path.startswith("/v1/account/") or path == "/v1/accounts/resources/actions":
            if self.is_silent:
                return answer(503, "")
            if self.refusal is not None:
                return self._accepted(seen, self.refusal)
        if path == "/v1/resources/accounts":
            owners = {uuid: {"uuid": self.owner(uuid), "name": "x"} for uuid in self.made if uuid in seen.target}
            return answer(200, {"inventories": owners})
        if path == "/v1/accounts/resources":
            return answer(200, {"inventories": [], "total": 0})
        return super().own_answer(seen)

    def owner(self, uuid: str) -> str:
        """Return the owner of a service."""
        return self.owners.get(uuid, TENANT if uuid in self.given else ME)

    def _accepted(self, seen: Seen, result: bytes) -> bytes:
        job = ApiJob(seen.headers["x-job-uuid"], "", {}, result)
        self.jobs.append(job)
        return accepted(job)


@pytest.fixture
def node() -> OwnedNode:
    return OwnedNode()


@pytest.mark.both_engines
@pytest.mark.parametrize(
    ("act", "code"),
    [pytest.param(refuse("ID.1003"), 3, id="failed"), pytest.param(keep_running, 4, id="uncertain")],
)
async def test_a_target_that_is_not_cloned_again_holds_up_no_other_hand_over(
    act: Act, code: int, node: OwnedNode, operator: Operator
) -> None:
    """Rolled back and rerun, one target is not cloned: its undone clone accuses nobody, the other is given away."""
    operator.write_job(*ROWS, limits="timeout: 3s")
    assert await operator.run() == 0, operator.output
    assert await operator.zclone("rollback", "job.yaml", "--yes") == 0, operator.output
    node.given.clear()
    node.acts[B] = [act]
    assert await operator.run() == code, operator.output
    assert (len(node.given), node.given) == (1, list(node.made)), operator.output


@pytest.mark.both_engines
async def test_at_most_once_a_refused_hand_over_is_done_later(node: OwnedNode, operator: Operator) -> None:
    """The clones have the uuids that were requested: the command printed does what was refused, once it can be done."""
    operator.write_job(*ROWS)
    node.refusal = failed("ID.1003")
    assert await operator.run("--at-most-once") == 3, operator.output
    assert "to hand over the rest, fix what was refused, then: zclone run" in operator.output
    node.refusal = None
    assert await operator.run("--at-most-once") == 0, operator.output
    assert sorted(node.given) == sorted(node.made)


@pytest.mark.both_engines
async def test_at_most_once_a_uuid_that_only_the_manifest_names_is_not_handed_over(
    node: OwnedNode, operator: Operator
) -> None:
    """A server chose the uuids, and the process ended: the clones stay, and no command is named that would not help."""
    operator.write_job(*ROWS)
    node.honours = False
    node.refusal = failed("ID.1003")
    assert await operator.run("--at-most-once") == 3, operator.output
    node.refusal = None
    assert await operator.run("--at-most-once") == 3, operator.output
    assert node.given == []
    assert "ZCLONE.NOT_OURS" in operator.output
    assert "to hand over the rest" not in operator.output
    assert "remove owner and share_with from the target" in operator.output
    operator.write_job(A, B)
    assert await operator.run() == 0, operator.output


@pytest.mark.parametrize("is_silent", [False, True], ids=["refused", "never answered"])
async def test_a_clone_that_was_never_handed_over_is_rolled_back(
    node: OwnedNode, operator: Operator, *, is_silent: bool
) -> None:
    """It is as the run made it: owned by its maker and shared with nobody. What has another owner stays."""
    operator.write_job(*(row.replace("}", f", share_with: ['{'9' * 32}']}}") for row in ROWS))
    node.refusal, node.is_silent = failed("ID.1003"), is_silent
    assert await operator.run() == (4 if is_silent else 3), operator.output
    assert len(node.made) == 2
    foreign = min(node.made)
    node.owners[foreign] = "8" * 32
    assert await operator.zclone("rollback", "job.yaml", "--yes") == 3, operator.output
    assert list(node.made) == [foreign], operator.output
    assert "changed: owner" in operator.output


async def test_a_clone_given_back_to_its_maker_is_changed(node: OwnedNode, operator: Operator) -> None:
    """Once a hand-over is on record, its maker is another owner like any."""
    operator.write_job(*ROWS)
    assert await operator.run() == 0, operator.output
    back = min(node.made)
    node.owners[back] = ME
    assert await operator.zclone("rollback", "job.yaml", "--yes") == 3, operator.output
    assert list(node.made) == [back], operator.output
