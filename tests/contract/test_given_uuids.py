"""A service that had a given resourceUuid before anything was sent is not ours, whatever the lookups answered."""

from __future__ import annotations

import pytest

from tests.contract.scripted_node import (
    A,
    ApiJob,
    B,
    Operator,
    ScriptedNode,
    accept,
    accepted,
    failed,
    keep_running,
    lose_answer,
)
from tests.zstack.wire_server import answer, error

OWN = "0a0a0a0a0a0a4a0a8a0a0a0a0a0a0a0a"
OTHER = "0b0b0b0b0b0b4b0b8b0b0b0b0b0b0b0b"
ACCOUNT = "7" * 12 + "4" + "7" * 3 + "8" + "7" * 15
GIVEN = f"{{uuid: {A}, owner: {ACCOUNT}, params: {{resourceUuid: {OWN}}}}}"


@pytest.mark.slow
@pytest.mark.both_engines
async def test_lookups_without_an_answer_before_the_first_post(node: ScriptedNode, operator: Operator) -> None:
    """Eight lookups before the first POST are answered by a node that starts: the next start settles it."""
    node.made[OWN] = {"uuid": OWN, "name": "somebody's"}
    node.look = lambda _: failed("SYS.1010")
    operator.write_job(B, GIVEN)
    assert await operator.run(patience=240) == 4, operator.output
    node.look = None
    assert await operator.run() == 3, operator.output
    assert operator.states()[A] == "conflict"
    assert (node.posts(A), node.given) == ([], [])


async def test_a_foreign_service_is_not_adopted_once_lookups_are_allowed(
    node: ScriptedNode, operator: Operator
) -> None:
    """While lookups are denied nothing is sent for a given uuid; once they are allowed the service is foreign."""
    node.made[OWN] = {"uuid": OWN, "name": "somebody's"}
    node.look = lambda _: answer(503, error("SYS.1006", "permission denied, the account is not the owner"))
    operator.write_job(B, GIVEN)
    await operator.run()
    node.look = None
    code = await operator.run()
    assert operator.states()[A] != "cloned", operator.output
    assert code != 0
    assert (node.sources_of, node.posts(A), node.given) == ([B], [], [])


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("is_given", [True, False], ids=["before the first POST", "after a lost answer"])
async def test_a_refusal_of_a_look_that_is_no_error_of_zstack_is_named(
    status: int, node: ScriptedNode, operator: Operator, *, is_given: bool
) -> None:
    """A gateway's own answer to a look is reported as what it is, and not as a missing right of the account."""
    node.acts[A] = [lose_answer]
    node.look = lambda _: answer(status, "blocked by the gateway")
    operator.write_job(B, GIVEN if is_given else A, limits="timeout: 5s")
    await operator.run()
    text = next(line["error"] for line in reversed(list(operator.lines())) if line.get("error") and line["key"] == A)
    assert f"the look for the clone was answered with HTTP {status}" in text
    assert "blocked by the gateway" in text
    assert "may not look" not in operator.output


@pytest.mark.both_engines
async def test_a_given_uuid_taken_by_others_meanwhile_is_a_conflict(node: ScriptedNode, operator: Operator) -> None:
    """Somebody takes the given uuid between the lookup and the POST: it is no clone of ours, and never exit 0."""

    def taken(node: ScriptedNode, job: ApiJob) -> bytes:
        node.made[OWN] = {"uuid": OWN, "name": "somebody's"}
        node.execute(job)
        return accepted(job)

    node.acts[A] = [taken]
    operator.write_job(GIVEN, limits="timeout: 5s")
    code = await operator.run()
    assert (code, operator.states()[A]) != (0, "cloned"), operator.output
    assert node.given == []


@pytest.mark.both_engines
async def test_given_uuids_swapped_in_flight(node: ScriptedNode, operator: Operator) -> None:
    """Two targets whose given uuids were swapped while one was in flight: two clones or no exit 0."""
    node.acts[A] = [keep_running, accept]

    def rows(one: str, other: str) -> list[str]:
        return [f"{{uuid: {A}, params: {{resourceUuid: {one}}}}}", f"{{uuid: {B}, params: {{resourceUuid: {other}}}}}"]

    limits = "timeout: 3s, concurrency: 1"
    operator.write_job(*rows(OWN, OTHER), limits=limits)
    await operator.run_and_kill(node)
    operator.write_job(*rows(OTHER, OWN), limits=limits)
    await operator.run("--accept-changes")
    if node.posts(A)[0].result is None:
        node.execute(node.posts(A)[0])
    code = await operator.run("--accept-changes")
    states = operator.states()
    assert code != 0 or sorted(node.sources_of) == [A, B], operator.output
    assert list(states.values()).count("cloned") <= len(node.sources_of), operator.output


@pytest.mark.both_engines
async def test_a_given_uuid_in_flight_belongs_to_no_other_target(node: ScriptedNode, operator: Operator) -> None:
    """A target that leaves the file in flight keeps its given uuid: another that takes it is not cloned by that."""
    node.acts[A] = [keep_running]
    operator.write_job(f"{{uuid: {A}, params: {{resourceUuid: {OWN}}}}}", limits="timeout: 3s")
    await operator.run_and_kill(node)

    def come_too_late(node: ScriptedNode, job: ApiJob) -> bytes:
        node.execute(node.posts(A)[0])
        node.execute(job)
        return accepted(job)

    node.acts[B] = [come_too_late]
    operator.write_job(f"{{uuid: {B}, params: {{resourceUuid: {OWN}}}}}", limits="timeout: 3s")
    assert (await operator.run(), node.sources_of) != (0, [A]), operator.output
