"""Only what this run made is handed over, and only what it made counts as its clone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from batch.plan.identity import resource_uuid
from tests.contract.scripted_node import A, B, accept, failed, keep_running, make_and_refuse, refuse

if TYPE_CHECKING:
    from tests.contract.scripted_node import Operator, ScriptedNode

ACCOUNT = "7" * 12 + "4" + "7" * 3 + "8" + "7" * 15
GIVEN_AWAY = f"{{uuid: {A}, owner: {ACCOUNT}}}"
UUID = resource_uuid("job", "default", A)
"""The uuid requested for the target's clone."""


@pytest.mark.parametrize(
    "first",
    [
        pytest.param("SYS.1010", id="not ready"),
        pytest.param("ID.1001", id="session", marks=pytest.mark.slow),
        pytest.param("ID.1003", id="quota", marks=pytest.mark.slow),
    ],
)
@pytest.mark.both_engines
async def test_an_earlier_clone_is_not_handed_over_after_an_uncharged_attempt(
    first: str, node: ScriptedNode, operator: Operator
) -> None:
    """A uuid in use at the time of the first executable POST is not ours to hand over."""
    node.made[UUID] = {"uuid": UUID, "name": "another team's"}
    node.acts[A] = [refuse(first), accept]
    operator.env |= {"ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "password"}
    operator.env.pop("ZSTACK_SESSION_ID")
    operator.write_job(GIVEN_AWAY, limits="timeout: 20s")
    await operator.run()
    assert node.given == [], operator.output


@pytest.mark.both_engines
@pytest.mark.parametrize("code", ["ID.1003", "SYS.1000"], ids=["quota", "uuid in use, not visible"])
async def test_what_appeared_between_failure_and_retry_is_not_handed_over(
    code: str, node: ScriptedNode, operator: Operator
) -> None:
    """After a failure, which ended every attempt and showed nothing, a uuid in use at the retry is not ours."""
    node.acts[A] = [refuse(code)] * 2 + [accept]
    operator.write_job(B, GIVEN_AWAY)
    assert await operator.run() == 3, operator.output
    assert operator.states()[A] == "failed"
    node.acts[A] = [accept]
    node.made[UUID] = {"uuid": UUID, "name": "another folder's"}
    assert await operator.zclone("retry", "job.yaml") == 3, operator.output
    assert (operator.states()[A], node.given) == ("cloned", [])


async def test_what_appeared_while_a_target_was_not_in_the_file_is_not_handed_over(
    node: ScriptedNode, operator: Operator
) -> None:
    """Its only attempt had ended and shown nothing when the target left: a clone of now is not ours."""
    operator.env |= {"ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "password"}
    operator.env.pop("ZSTACK_SESSION_ID")
    node.acts[A] = [keep_running, accept]
    operator.write_job(B, GIVEN_AWAY, limits="timeout: 2s")
    await operator.run()
    node.posts(A)[0].result = failed("SYS.1006")
    operator.write_job(B, limits="timeout: 2s")
    for _ in range(2):
        await operator.run()
    assert operator.states()[A] == "withdrawn"
    node.made[UUID] = {"uuid": UUID, "name": "another folder's"}
    operator.write_job(B, GIVEN_AWAY, limits="timeout: 2s")
    assert await operator.run() == 3, operator.output
    assert node.given == []


@pytest.mark.both_engines
async def test_status_and_report_agree_with_the_run_on_an_earlier_clone(node: ScriptedNode, operator: Operator) -> None:
    """A hand-over of an earlier clone is refused: exit 3, nothing left to do, and the report says the same."""
    node.made[UUID] = {"uuid": UUID, "name": "another folder's"}
    operator.write_job(GIVEN_AWAY, limits="timeout: 20s")
    assert await operator.run() == 3, operator.output
    assert node.given == []
    await operator.zclone("status", "job.manifest.jsonl")
    assert "go on" not in operator.output, operator.output
    await operator.zclone("report", "job.manifest.jsonl", "--out", "r.json")
    assert json.loads((operator.folder / "r.json").read_text())["exit_code"] == 3


@pytest.mark.both_engines
async def test_a_clone_after_a_collision_is_not_handed_over(node: ScriptedNode, operator: Operator) -> None:
    """The first job reports SYS.1000 and a clone exists: nothing shows whose it is, so it stays, with exit 3."""
    node.acts[A] = [make_and_refuse("SYS.1000")]
    operator.write_job(B, GIVEN_AWAY)
    assert await operator.run() == 3, operator.output
    assert node.given == []


@pytest.mark.slow
async def test_a_clone_made_before_an_edit_is_reported_as_changed(node: ScriptedNode, operator: Operator) -> None:
    """For a target edited in flight, what the first attempt made is reported as changed, refused if strict."""
    node.acts = {A: [keep_running], B: [refuse("SYS.1000")]}
    operator.write_job(f"{{uuid: {A}, id: x}}", limits="timeout: 3s, concurrency: 1")
    await operator.run_and_kill(node)
    operator.write_job(f"{{uuid: {B}, id: x}}", limits="timeout: 3s, concurrency: 1")
    await operator.run("--accept-changes")
    node.execute(node.posts(A)[0])
    await operator.run("--accept-changes")
    assert (node.sources_of, operator.states()) == ([A], {"x": "cloned"})
    assert await operator.run() == 0, operator.output
    assert "1 clones were made before the job file was changed" in operator.output
    assert await operator.run("--strict") == 2, operator.output
