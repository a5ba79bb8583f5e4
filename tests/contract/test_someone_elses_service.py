"""A service that someone else made under a target's uuid is neither handed over nor deleted, nor its clone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import (
    A,
    B,
    C,
    accept,
    accepted,
    failed,
    keep_running,
    lose_answer,
    make_and_refuse,
    outcome,
    queue,
    refuse,
    with_clock_set,
)
from tests.contract.test_earlier_ends import EMPTY, GIVEN_AND_DERIVED, HOUR, OWN, OWNER, purge, take, taken
from tests.contract.test_edits_after_ends import (
    DERIVED,
    OTHER,
    kill_in_flight,
    require_not_cloned,
    write_given,
    write_named,
)
from tests.contract.test_late_jobs import HardNode
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.scripted_node import Act, ApiJob, Operator, ScriptedNode

CHAINS = [
    ("SYS.1000",),
    ("SYS.1002", "SYS.1000"),
    ("SYS.1006", "SYS.1000"),
    ("SYS.1000", "SYS.1006"),
    ("SYS.1000", "SYS.1007"),
    ("ORG_ZSTACK_AI_10001", "SYS.1000"),
]
IN_USE = pytest.mark.parametrize("chain", CHAINS, ids="-".join)
UNEXECUTED = pytest.mark.parametrize("code", ["ID.1001", "SYS.1010"])


def find_in_use(*chain: str) -> Act:
    """Return what accepts a POST whose job finds its uuid in use; ``chain``: the codes of its error, outer ones first.

    Someone else has the uuid where no clone has it.
    """

    def act(node: ScriptedNode, job: ApiJob) -> bytes:
        if job.resource not in node.made:
            take(node, job.resource)
        job.result = failed(*chain)
        return accepted(job)

    return act


def log_in_by_password(operator: Operator) -> None:
    """Let the command log in itself, so that it can renew a session."""
    operator.env.pop("ZSTACK_SESSION_ID", None)
    operator.env |= {"ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "password"}


@pytest.fixture
def node() -> HardNode:
    return HardNode()


def require_untouched(node: ScriptedNode, operator: Operator, uuid: str) -> None:
    """Fail where the service of someone else was handed over, deleted, or is the clone under a given uuid."""
    assert node.given == [], operator.output
    assert uuid in node.made
    assert uuid != OWN or operator.states()[A] != "cloned"


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "purged"])
@GIVEN_AND_DERIVED
@UNEXECUTED
async def test_after_an_unexecuted_attempt_and_a_kill(
    uuid: str, code: str, *, is_known: bool, node: ScriptedNode, operator: Operator
) -> None:
    """That an attempt was not executed is on record before the next one is sent: its job may be purged afterwards."""
    log_in_by_password(operator)
    node.acts[A] = [refuse(code), keep_running]
    write_given(operator, uuid, attempts=3)
    await kill_in_flight(node, operator, "--accept-changes", posts=2)
    take(node, uuid)
    node.posts(A)[0].is_known = is_known
    node.posts(A)[1].result = failed("SYS.1000")
    await operator.run()
    await operator.zclone("rollback", "job.yaml", "--yes")
    require_untouched(node, operator, uuid)


@UNEXECUTED
async def test_after_an_unexecuted_attempt_an_edit_and_a_kill(
    code: str, node: ScriptedNode, operator: Operator
) -> None:
    """What differs from both bodies is not adopted."""
    node.acts[A] = [keep_running, keep_running]
    write_named(operator, "one")
    await kill_in_flight(node, operator)
    node.posts(A)[0].result = failed(code)
    write_named(operator, "two")
    await kill_in_flight(node, operator, "--accept-changes", posts=2)
    take(node, DERIVED, "of another folder")
    node.posts(A)[1].result = failed("SYS.1000")
    await operator.run()
    require_not_cloned(node, operator)


async def test_after_sessions_that_ended(node: ScriptedNode, operator: Operator) -> None:
    """Sessions that end in a row stop the run, and someone takes the uuid before the next one."""
    log_in_by_password(operator)
    node.acts[A] = [refuse("ID.1001")] * 3 + [accept]
    write_given(operator, OWN)
    await operator.run(patience=60)
    take(node, OWN)
    await operator.run(patience=60)
    require_untouched(node, operator, OWN)


@pytest.mark.parametrize("to", [OTHER, None], ids=["edited", "removed"])
@UNEXECUTED
async def test_an_edited_or_removed_target(code: str, to: str | None, node: ScriptedNode, operator: Operator) -> None:
    """The job that was in flight ended unexecuted, and someone has the uuid."""
    node.acts[A] = [keep_running, accept]
    write_given(operator, OWN, attempts=3)
    await kill_in_flight(node, operator)
    take(node, OWN)
    node.posts(A)[0].result = failed(code)
    write_given(operator, to or OWN, attempts=3, has_target=to is not None)
    for _ in range(2):
        await operator.run("--accept-changes")
    require_not_cloned(node, operator)


@pytest.mark.parametrize("is_last", [True, False], ids=["last", "middle"])
async def test_after_lost_lines(node: ScriptedNode, operator: Operator, tmp_path: Path, *, is_last: bool) -> None:
    """What its job found in use may be from a lost attempt or someone else's: it is called cloned, and left alone."""
    take(node, DERIVED, "of another folder")
    row = f"{{uuid: {A}, owner: {OWNER}, params: {{name: of another folder}}}}"
    operator.write_job(*([B, C, row] if is_last else [B, row, C]), limits="concurrency: 1")
    await operator.run()
    assert operator.damage(lambda line: line.get("key") == A and line.get("state") == "cloned") == 1
    await operator.repair()
    await operator.run(env=with_clock_set(2 * HOUR, tmp_path / "later"))
    assert operator.states()[A] == "cloned", operator.output
    require_untouched(node, operator, DERIVED)
    operator.write_job(B, f"{{uuid: {A}, params: {{name: of another folder}}}}", C, limits="concurrency: 1")
    await operator.zclone("rollback", "job.yaml", "--yes", env=with_clock_set(2 * HOUR, tmp_path / "rollback"))
    require_untouched(node, operator, DERIVED)


async def test_it_is_not_fixed(node: ScriptedNode, operator: Operator) -> None:
    """Its owner renamed what existed before: verify --fix leaves it as it is, as rollback does."""
    take(node, DERIVED, "as requested")
    write_named(operator, "as requested")
    await operator.run()
    take(node, DERIVED, "renamed by its owner")
    await operator.zclone("verify", "job.yaml", "--fix", "--yes")
    assert "foreign: it existed before" in operator.output
    assert [call for call in node.calls if call.startswith("PUT /v1/ai/model-services")] == []


@UNEXECUTED
async def test_an_edited_target_of_another_folder(code: str, node: ScriptedNode, operator: Operator) -> None:
    """Another folder has the derived uuid, and the target's name was edited."""
    take(node, DERIVED, "of another folder")
    node.acts[A] = [keep_running, taken(DERIVED, "SYS.1000", "of another folder")]
    write_named(operator, "one")
    await kill_in_flight(node, operator)
    node.posts(A)[0].result = failed(code)
    write_named(operator, "two")
    for _ in range(2):
        await operator.run("--accept-changes")
    require_not_cloned(node, operator)


@pytest.mark.parametrize("first", [taken(OWN, "SYS.1000"), keep_running], ids=["in-use", "agent"])
async def test_a_uuid_in_use_says_nothing_about_another(
    first: Act, node: ScriptedNode, operator: Operator, tmp_path: Path
) -> None:
    """Given another uuid, a target whose POSTs are lost fails once their time is over, and is retried."""
    node.acts[A] = [first, queue, queue, accept]
    write_given(operator, OWN, attempts=2)
    await operator.run()
    if first is keep_running:
        node.posts(A)[0].result = failed("SYS.1006")
    node.made.pop(OWN, None)
    write_given(operator, OTHER, attempts=2)
    await operator.run("--accept-changes")
    for count in range(1, 5):
        await operator.run(env=with_clock_set(count * 2 * HOUR, tmp_path / f"clock{count}"))
    assert operator.states()[A] == "failed", operator.output
    await operator.zclone("retry", "job.yaml", env=with_clock_set(14 * HOUR, tmp_path / "clock"))
    await operator.run(env=with_clock_set(16 * HOUR, tmp_path / "clock6"))
    assert operator.states()[A] == "cloned"


@GIVEN_AND_DERIVED
@IN_USE
async def test_a_uuid_in_use_as_any_cause(
    chain: tuple[str, ...], uuid: str, node: ScriptedNode, operator: Operator
) -> None:
    """The code of a uuid in use counts at any place of the error."""
    node.acts[A] = [find_in_use(*chain)]
    write_given(operator, uuid)
    await operator.run()
    await operator.zclone("rollback", "job.yaml", "--yes")
    require_untouched(node, operator, uuid)


@IN_USE
async def test_a_uuid_in_use_by_a_clone_that_is_not_visible(
    chain: tuple[str, ...], node: ScriptedNode, operator: Operator, tmp_path: Path
) -> None:
    """The first attempt had no answer and made it; hours later it is not failed."""
    node.acts[A] = [lose_answer, find_in_use(*chain)]
    node.look = lambda uuid: EMPTY if uuid == DERIVED else node.shown(uuid)
    operator.write_job(B, A, limits="concurrency: 1, timeout: 2s, attempts: 1")
    await operator.run()
    operator.write_job(B, A, limits="concurrency: 1, timeout: 2s, attempts: 2")
    for count in (1, 2):
        await operator.run(env=with_clock_set(count * 2 * HOUR, tmp_path / f"clock{count}"))
    assert operator.states()[A] != "failed"


async def test_a_uuid_in_use_by_what_a_failed_job_made(node: ScriptedNode, operator: Operator) -> None:
    """The first job made the clone and ended with an error, the second finds its uuid in use, and no look shows it."""
    node.acts[A] = [make_and_refuse("SYS.1006"), find_in_use("SYS.1000")]
    node.look = lambda uuid: EMPTY if uuid == DERIVED else node.shown(uuid)
    operator.write_job(B, A, limits="concurrency: 1, attempts: 2")
    await operator.run()
    assert operator.states()[A] == "uncertain", operator.output
    node.look = None
    await operator.run()
    assert operator.states()[A] == "cloned", operator.output
    assert node.sources_of.count(A) == 1


@IN_USE
async def test_a_uuid_in_use_at_most_once(
    chain: tuple[str, ...], node: ScriptedNode, operator: Operator, tmp_path: Path
) -> None:
    """At most once nothing is sent again, also once the uuid is free."""
    node.acts[A] = [find_in_use(*chain), accept]
    write_given(operator, OWN, attempts=3)
    await operator.run("--at-most-once")
    purge(node)
    node.made.pop(OWN, None)
    for count in (1, 2):
        await operator.run(env=with_clock_set(count * 4 * HOUR, tmp_path / f"clock{count}"))
    assert len(node.posts(A)) == 1
    assert operator.states()[A] != "cloned"


def hide_job_once(node: ScriptedNode, number: int) -> None:
    """Let one poll of A's POST ``number``, counted from 0, reach a node that does not know the job."""
    hidden = [1]

    def poll(job: ApiJob) -> bytes:
        posts = node.posts(A)
        if len(posts) > number and job is posts[number] and hidden and hidden.pop():
            return answer(404, "the job has been expired")
        return outcome(job)

    node.poll = poll


async def test_one_404_after_a_lost_answer_and_a_uuid_in_use(node: ScriptedNode, operator: Operator) -> None:
    """The next poll shows that the job found the uuid in use."""

    def lose_in_use(node: ScriptedNode, job: ApiJob) -> None:
        find_in_use("SYS.1000")(node, job)

    hide_job_once(node, 0)
    node.acts[A] = [lose_in_use]
    operator.write_job(B, f"{{uuid: {A}, owner: {OWNER}, params: {{resourceUuid: {OWN}}}}}", limits="concurrency: 1")
    await operator.run()
    require_untouched(node, operator, OWN)


async def test_one_404_after_a_lost_answer_of_a_running_job(node: ScriptedNode, operator: Operator) -> None:
    """Its clone is visible, and the server removes it once the job fails."""

    def lose_running(node: ScriptedNode, job: ApiJob) -> None:
        node.execute(job)
        job.result = None

    hide_job_once(node, 0)
    node.acts[A] = [lose_running]
    operator.write_job(B, A, limits="timeout: 4s")
    await operator.run(patience=30)
    node.posts(A)[0].result = failed("SYS.1003")
    node.made.pop(DERIVED, None)
    await operator.run(patience=30)
    assert operator.states()[A] != "cloned"


@pytest.mark.parametrize("code", ["SYS.1000", "ID.1003"])
async def test_one_404_about_the_job_of_an_earlier_attempt(code: str, node: ScriptedNode, operator: Operator) -> None:
    """It runs and shows its clone, and the job of the next attempt has ended."""

    def end_beside(node: ScriptedNode, job: ApiJob) -> bytes:
        node.made[job.resource] = {"uuid": job.resource}
        job.result = failed(code)
        hide_job_once(node, 0)
        return accepted(job)

    node.acts[A] = [keep_running, end_beside]
    operator.write_job(B, A, limits="timeout: 4s, attempts: 2")
    for _ in range(2):
        await operator.run()
    del node.made[DERIVED]
    node.posts(A)[0].result = failed("SYS.1006")
    await operator.run()
    assert operator.states()[A] != "cloned"
