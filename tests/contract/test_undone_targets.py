"""Targets whose clone was undone: the next one has the uuid of its generation, whatever lines are lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from batch.plan.identity import resource_uuid
from tests.contract.scripted_node import SOURCES, A, B, ScriptedNode, failed, with_clock_set
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.contract.scripted_node import ApiJob, Operator
    from tests.zstack.wire_server import Seen

OWNER = "c" * 32
ME = "a" * 32
UUIDS = [resource_uuid("job", "default", A, generation=number) for number in range(4)]
"""The uuids of A's generations."""
LATER = 7200.0


class OccupiedNode(ScriptedNode):
    """A node that keeps the uuids of deleted services, and whose account is an admin."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = self.own_answer
        self.used: set[str] = set()

    def execute(self, job: ApiJob) -> None:
        if job.resource in self.used:
            job.result = failed("SYS.1000")
            return
        super().execute(job)
        self.used |= self.made.keys()

    def own_answer(self, seen: Seen) -> bytes | None:
        if seen.call == "GET /v1/accounts":
            return answer(200, {"inventories": [{"uuid": ME, "name": "admin"}]})
        if seen.call == "GET /v1/user-tags":
            return answer(200, {"inventories": [], "total": 0})
        if seen.call.startswith("GET /v1/ai/model-services/instances/groups"):
            return answer(200, {"inventories": [], "total": 0})
        if seen.call == "GET /v1/ai/model-services":
            rows = [dict(self.made[uuid]) for uuid in sorted(self.made) if uuid in seen.target]
            rows += [{"uuid": uuid, "name": "source"} for uuid in SOURCES if uuid in seen.target]
            return answer(200, {"inventories": rows, "total": len(rows)})
        return None


@pytest.fixture
def node() -> OccupiedNode:
    return OccupiedNode()


async def reopen(node: OccupiedNode, operator: Operator, uuid: str) -> None:
    """Delete A's clone on the server, and let ``verify`` record it as undone."""
    del node.made[uuid]
    await operator.zclone("verify", "job.yaml", "--reopen", "--yes")
    assert operator.states()[A] == "undone", operator.output


def execute_and_forget(node: ScriptedNode, job: ApiJob) -> None:
    """Make the clone, and lose the answer and the job."""
    node.execute(job)
    job.is_known = False


def damage_line(operator: Operator, number: int) -> None:
    """Make one line illegible."""
    texts = operator.manifest().read_bytes().splitlines(keepends=True)
    texts[number] = b"#" * (len(texts[number]) - 1) + b"\n"
    operator.manifest().write_bytes(b"".join(texts))


def find_line(operator: Operator, is_wanted: Callable[[dict[str, object]], bool]) -> int:
    texts = operator.manifest().read_bytes().splitlines()
    return next(number for number, text in enumerate(texts) if is_wanted(json.loads(text)))


async def test_a_damaged_line_of_the_next_clone_is_about_the_next_uuid(
    node: OccupiedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """Undone, sent again, killed, the last line damaged: what was sent is looked for, and no edit is reported."""
    operator.write_job(B, A, limits="timeout: 5s")
    assert await operator.run() == 0, operator.output
    await reopen(node, operator, UUIDS[0])
    node.acts[A] = [execute_and_forget]
    node.look = lambda _: None
    await operator.run_and_kill(node)
    node.look = None
    texts = operator.manifest().read_bytes().splitlines(keepends=True)
    assert json.loads(texts[-1])["state"] == "sent"
    texts[-1] = texts[-1].replace(b'"attempt":1', b'"attempt":7')
    operator.manifest().write_bytes(b"".join(texts))
    assert await operator.run() == 4, operator.output
    assert await operator.run(env=with_clock_set(LATER, tmp_path / "flag")) == 0, operator.output
    assert (operator.states()[A], len(node.posts(A))) == ("cloned", 2)


async def test_damage_elsewhere_leaves_the_next_uuid_to_an_undone_target(
    node: OccupiedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """Undone and planned again, another target's line damaged, repaired: the target is cloned under its next uuid."""
    operator.write_job(B, A, limits="timeout: 5s")
    assert await operator.run() == 0, operator.output
    await reopen(node, operator, UUIDS[0])
    damage_line(operator, find_line(operator, lambda line: line.get("state") == "accepted" and line["key"] == B))
    await operator.repair()
    await operator.run()
    assert await operator.run(env=with_clock_set(LATER, tmp_path / "flag")) == 0, operator.output
    assert operator.states()[A] == "cloned"
    assert UUIDS[1] in node.made


async def test_a_lost_undone_line_does_not_use_up_the_target(
    node: OccupiedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """Undone twice, the first of these lines lost: the next clone has a uuid that no clone had."""
    operator.write_job(B, A, limits="timeout: 5s")
    assert await operator.run() == 0, operator.output
    await reopen(node, operator, UUIDS[0])
    assert await operator.run() == 0, operator.output
    await reopen(node, operator, UUIDS[1])
    damage_line(operator, find_line(operator, lambda line: line.get("state") == "undone"))
    await operator.repair()
    await operator.run()
    assert await operator.run(env=with_clock_set(LATER, tmp_path / "flag")) == 0, operator.output
    assert operator.states()[A] == "cloned"
    assert {*UUIDS} & node.made.keys() == {UUIDS[2]}


async def test_what_appears_under_the_next_uuid_was_not_made_by_a_retry_of_the_last(
    node: OccupiedNode, operator: Operator
) -> None:
    """A conflict, retried, cloned and undone: a service that then exists under the next uuid is not given away."""
    node.made[UUIDS[0]] = {"uuid": UUIDS[0], "name": "other"}
    operator.write_job(B, f"{{uuid: {A}, owner: {OWNER}, params: {{name: mine}}}}")
    await operator.run()
    assert operator.states()[A] == "conflict"
    del node.made[UUIDS[0]]
    node.used.discard(UUIDS[0])
    assert await operator.zclone("retry", "job.yaml", "--state", "conflict") == 0, operator.output
    await reopen(node, operator, UUIDS[0])
    node.made[UUIDS[1]] = {"uuid": UUIDS[1], "name": "mine"}
    node.used.add(UUIDS[1])
    node.given.clear()
    assert await operator.run() == 3, operator.output
    assert UUIDS[1] not in node.given
