"""What failed means where the account changes between two processes: the real command against a scripted server.

An account sees its own services only, so that its looks prove nothing about what another one may have made.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import A, B, Operator, ScriptedNode, accept, lose_answer, refuse, with_clock_set
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.zstack.wire_server import Seen

OTHER = "0" * 31 + "b"
"""Session of another account."""
LATER = 4 * 3600.0
"""Seconds after which the server has purged the rows of all jobs."""


def gate_of(*, is_admin: bool) -> Callable[[Seen], bytes | None]:
    """Return a gate that shows each session its account; what the first one made only to an admin."""

    def gate(seen: Seen) -> bytes | None:
        is_other = OTHER in seen.headers.get("authorization", "")
        if seen.call == "GET /v1/accounts":
            uuid = ("b" if is_other else "a") * 32
            is_shown = "SystemAdmin" not in seen.target or (is_other and is_admin)
            return answer(200, {"inventories": [{"uuid": uuid, "name": "account"}] if is_shown else []})
        if is_other and not is_admin and seen.call.startswith("GET /v1/ai/model-services/"):
            return answer(200, {"inventories": []})
        return None

    return gate


async def clone_one_and_kill(node: ScriptedNode, operator: Operator) -> None:
    """Kill a run whose first target is cloned once the POST of its second one arrived."""
    process = operator.start("run", "job.yaml")
    while len(node.jobs) < 2 or operator.states().get(B) != "cloned":  # noqa: ASYNC110 - a process is waited for
        await asyncio.sleep(0.02)
    process.kill()
    await asyncio.to_thread(process.communicate)


@pytest.mark.parametrize("attempts", [1, 4])
async def test_what_another_account_made_is_not_failed(
    attempts: int, node: ScriptedNode, operator: Operator, tmp_path: Path
) -> None:
    """A clone of a lost POST is not failed for an account that cannot see it, and is found by its own account."""
    node.gate = gate_of(is_admin=False)
    node.acts[A] = [lose_answer, refuse("ID.1003")]
    operator.write_job(B, A, limits=f"attempts: {attempts}")
    await clone_one_and_kill(node, operator)
    later = with_clock_set(LATER, tmp_path / "flag")
    for _ in range(2):
        assert await operator.run(env=later | {"ZSTACK_SESSION_ID": OTHER}) == 3, operator.output
        assert operator.states() == {A: "uncertain", B: "cloned"}
        assert f"the account {'a' * 32} sent it" in operator.output
    assert await operator.run(env=later) == 0, operator.output
    assert (operator.states(), len(node.posts(A))) == ({A: "cloned", B: "cloned"}, 1)


async def test_a_lost_line_of_an_account_proves_nothing(node: ScriptedNode, operator: Operator, tmp_path: Path) -> None:
    """Where the lines that name the account of a POST were lost, a look of another account shows nothing."""
    node.gate = gate_of(is_admin=False)
    node.acts[A] = [lose_answer, refuse("ID.1003")]
    operator.write_job(B, A, limits="attempts: 1")
    await clone_one_and_kill(node, operator)
    assert operator.damage(lambda line: "connected" in line)
    await operator.repair()
    for number in range(2):
        later = with_clock_set(LATER * (number + 1), tmp_path / f"flag{number}")
        assert await operator.run(env=later | {"ZSTACK_SESSION_ID": OTHER}) == 3, operator.output
        assert operator.states() == {A: "uncertain", B: "cloned"}
        assert "account" in operator.output


async def test_an_admin_sees_what_another_account_made(node: ScriptedNode, operator: Operator, tmp_path: Path) -> None:
    """An admin's look is proof whoever sent the POST: what does not exist is sent again."""
    node.gate = gate_of(is_admin=True)
    node.acts[A] = [lambda *_: None, accept]
    operator.write_job(B, A)
    await clone_one_and_kill(node, operator)
    node.posts(A)[0].is_known = False
    later = with_clock_set(LATER, tmp_path / "flag")
    assert await operator.run(env=later | {"ZSTACK_SESSION_ID": OTHER}) == 0, operator.output
    assert (operator.states(), len(node.posts(A))) == ({A: "cloned", B: "cloned"}, 2)


async def test_an_attempt_with_a_definite_end_is_no_doubt_for_another_account(
    node: ScriptedNode, operator: Operator
) -> None:
    """After a failed attempt of another account, this account's own failure is failed."""
    node.gate = gate_of(is_admin=False)
    node.acts[A] = [refuse("ID.1003"), refuse("SYS.1003")]
    operator.write_job(B, A)
    assert await operator.run() == 3, operator.output
    assert await operator.zclone("retry", "job.yaml", env={"ZSTACK_SESSION_ID": OTHER}) == 3, operator.output
    assert (operator.states(), len(node.posts(A))) == ({A: "failed", B: "cloned"}, 2)
