"""That a POST never left, or was refused before it ran, is on record before anything else is waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import A, B, accept, failed, keep_running, make_and_refuse
from tests.contract.test_earlier_ends import EMPTY, GIVEN_AND_DERIVED, OWN, OWNER, take
from tests.contract.test_edits_after_ends import DERIVED, write_given, write_named
from tests.contract.test_late_jobs import HardNode
from tests.contract.test_someone_elses_service import log_in_by_password, require_untouched
from tests.zstack.wire_server import answer, error

if TYPE_CHECKING:
    from tests.contract.scripted_node import Act, ApiJob, Operator, ScriptedNode
    from tests.forkserver import Process
    from tests.zstack.wire_server import Seen


class HungLogin(HardNode):
    """A node whose second login gets no answer for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = True
        self.is_waited_for = asyncio.Event()

    async def handle(self, seen: Seen) -> bytes | None:
        if self.hangs and self.logins and seen.call == "PUT /v1/accounts/login":
            self.is_waited_for.set()
            await asyncio.sleep(100)
        return await super().handle(seen)


@pytest.fixture
def node() -> HungLogin:
    return HungLogin()


def turn_away_for(code: str) -> Act:
    """Return what refuses a POST at once with an error of ZStack: no job of it is known."""

    def act(_node: ScriptedNode, job: ApiJob) -> bytes:
        job.is_known = False
        return answer(503, error(code, ""))

    return act


async def kill_planned(process: Process[bytes], operator: Operator) -> None:
    """Kill a command with SIGKILL once A is planned again; fail where that does not come."""
    async with asyncio.timeout(20):
        while operator.states()[A] != "planned":  # noqa: ASYNC110 - a file is waited for
            await asyncio.sleep(0.02)
    process.kill()
    await asyncio.to_thread(process.communicate)


async def test_a_kill_while_the_new_login_hangs(node: HungLogin, operator: Operator) -> None:
    """At most once a POST that was refused for its session is sent again by the next process."""
    log_in_by_password(operator)
    node.acts[A] = [turn_away_for("ID.1001"), accept]
    operator.write_job(B, A, limits="concurrency: 1")
    process = operator.start("run", "job.yaml", "--at-most-once")
    await node.is_waited_for.wait()
    await kill_planned(process, operator)
    node.hangs = False
    assert await operator.run() == 0, operator.output
    assert len(node.made) == 2


async def test_a_uuid_taken_while_the_new_login_hangs(node: HungLogin, operator: Operator) -> None:
    """A service that someone makes under the given uuid meanwhile is a conflict."""
    log_in_by_password(operator)
    node.acts[A] = [turn_away_for("ID.1001"), accept]
    write_given(operator, OWN)
    process = operator.start("run", "job.yaml")
    await node.is_waited_for.wait()
    await kill_planned(process, operator)
    node.hangs = False
    take(node, OWN)
    await operator.run()
    assert operator.states()[A] == "conflict", operator.output
    require_untouched(node, operator, OWN)


async def test_a_kill_while_the_node_is_not_ready(node: HungLogin, operator: Operator) -> None:
    """At most once a POST that the starting node refused is sent again by the next process."""
    node.acts[A] = [turn_away_for("SYS.1010")]
    operator.write_job(B, A, limits="concurrency: 1")
    process = operator.start("run", "job.yaml", "--at-most-once")
    while len(node.posts(A)) < 3:  # noqa: ASYNC110 - a process is waited for
        await asyncio.sleep(0.02)
    await kill_planned(process, operator)
    node.acts[A] = [accept]
    assert await operator.run() == 0, operator.output
    assert len(node.made) == 2


@GIVEN_AND_DERIVED
@pytest.mark.parametrize("status", [400, 500, 503])
async def test_a_post_answered_with_a_uuid_in_use(uuid: str, status: int, node: HungLogin, operator: Operator) -> None:
    """The answer to the POST itself says, as the end of a job does, that it made nothing."""

    def act(_node: ScriptedNode, job: ApiJob) -> bytes:
        take(node, uuid)
        job.is_known = False
        return answer(status, error("SYS.1000", ""))

    node.acts[A] = [act]
    write_given(operator, uuid, attempts=4)
    await operator.run()
    require_untouched(node, operator, uuid)
    await operator.zclone("rollback", "job.yaml", "--yes")
    require_untouched(node, operator, uuid)


@GIVEN_AND_DERIVED
@pytest.mark.parametrize("end", ["SYS.1000", "SYS.1010"])
@pytest.mark.parametrize("code", ["LICENSE.1003", "ID.1001"])
async def test_a_refused_post_beside_a_job_that_made_nothing(
    uuid: str, end: str, code: str, node: HungLogin, operator: Operator
) -> None:
    """It was taken back: the end of the job that was open beside it counts as if it had not been sent."""
    node.acts[A] = [keep_running, turn_away_for(code)]
    write_given(operator, uuid, attempts=4)
    for _ in range(2):
        await operator.run()
    assert len(node.posts(A)) == 2
    take(node, uuid)
    node.posts(A)[0].result = failed(end)
    await operator.run()
    require_untouched(node, operator, uuid)
    await operator.zclone("rollback", "job.yaml", "--yes")
    require_untouched(node, operator, uuid)


@GIVEN_AND_DERIVED
async def test_a_uuid_in_use_that_could_not_be_looked_for(uuid: str, node: HungLogin, operator: Operator) -> None:
    """The next process does not forget the answer to the POST, although the looks after it failed."""

    def act(_node: ScriptedNode, job: ApiJob) -> bytes:
        take(node, uuid)
        job.is_known = False
        return answer(503, error("SYS.1000", ""))

    node.acts[A] = [act]
    node.look = lambda one: answer(500, "") if one == uuid and node.posts(A) else node.shown(one)
    write_given(operator, uuid, attempts=4)
    await operator.run()
    node.look = None
    await operator.run()
    require_untouched(node, operator, uuid)


async def test_a_refused_post_after_an_error_that_made_the_clone(node: HungLogin, operator: Operator) -> None:
    """What the first job made without showing it is this run's clone, also where the POST between was refused."""
    node.acts[A] = [make_and_refuse("SYS.1006"), turn_away_for("LICENSE.1003"), accept]
    node.look = lambda uuid: EMPTY if uuid == DERIVED and len(node.posts(A)) < 3 else node.shown(uuid)
    operator.write_job(B, f"{{uuid: {A}, owner: {OWNER}}}", limits="concurrency: 1, attempts: 4")
    for _ in range(2):
        await operator.run()
    assert operator.states()[A] == "cloned", operator.output
    assert node.given == [DERIVED]


async def test_a_refused_post_of_an_edited_target(node: HungLogin, operator: Operator) -> None:
    """The job of the first body made the clone: that is reported, as the second body was refused."""
    node.acts[A] = [keep_running, turn_away_for("LICENSE.1003")]
    write_named(operator, "one", timeout="2s")
    await operator.run()
    write_named(operator, "two", timeout="2s")
    await operator.run("--accept-changes")
    node.execute(node.posts(A)[0])
    assert await operator.run("--accept-changes") == 0, operator.output
    assert "1 clones were made before the job file was changed" in operator.output
    assert await operator.run("--strict") == 2, operator.output
