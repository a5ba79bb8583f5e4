"""What an attempt that has ended means for a target that was edited since, and for its next uuid."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from batch.plan.identity import resource_uuid
from tests.contract.scripted_node import (
    A,
    B,
    ScriptedNode,
    accept,
    failed,
    keep_running,
    lose_answer,
    queue,
    refuse,
    with_clock_set,
)
from tests.contract.test_earlier_ends import HOUR, OWN, OWNER, purge, take, taken
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.scripted_node import Operator

OTHER = "0b0b0b0b0b0b4b0b8b0b0b0b0b0b0b0b"
DERIVED = resource_uuid("job", "default", A)


def write_named(operator: Operator, name: str, *, timeout: str = "30m") -> None:
    """Write a job file in which A gets a name."""
    limits = f"concurrency: 1, timeout: {timeout}"
    operator.write_job(B, f"{{uuid: {A}, owner: {OWNER}, params: {{name: {name}}}}}", limits=limits)


def write_given(operator: Operator, uuid: str, *, attempts: int = 1, has_target: bool = True) -> None:
    """Write a job file in which A gets the uuid, or in which it is missing."""
    params = "" if uuid == DERIVED else f", params: {{resourceUuid: {uuid}}}"
    rows = [B, f"{{uuid: {A}, owner: {OWNER}{params}}}"] if has_target else [B]
    operator.write_job(*rows, limits=f"concurrency: 1, timeout: 2s, attempts: {attempts}")


async def kill_in_flight(node: ScriptedNode, operator: Operator, *options: str, posts: int = 0) -> None:
    """Kill a run with SIGKILL once the job of its first POST for A, or of A's POST number ``posts``, was polled."""
    process, least = operator.start("run", "job.yaml", *options), posts or len(node.posts(A)) + 1
    while len(node.posts(A)) < least or not node.posts(A)[-1].polls:  # noqa: ASYNC110 - a process is waited for
        await asyncio.sleep(0.02)
    process.kill()
    await asyncio.to_thread(process.communicate)


def require_not_cloned(node: ScriptedNode, operator: Operator) -> None:
    """Fail where the service of someone else counts as the clone of A."""
    assert operator.states()[A] != "cloned", operator.output
    assert node.given == [], operator.output


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "purged"])
async def test_a_clone_made_before_an_edit_is_told(node: ScriptedNode, operator: Operator, *, is_known: bool) -> None:
    """The job of the first body made it, although a second one was sent: one line says so, and --strict refuses."""
    node.acts[A] = [keep_running, keep_running]
    write_named(operator, "one", timeout="2s")
    await operator.run()
    write_named(operator, "two", timeout="2s")
    await kill_in_flight(node, operator, "--accept-changes", posts=2)
    for job in node.posts(A):
        node.execute(job)
    node.posts(A)[0].is_known = is_known
    assert await operator.run() == 0, operator.output
    assert "1 clones were made before the job file was changed" in operator.output
    assert await operator.run("--strict") == 2, operator.output


async def test_a_clone_of_the_present_body_is_not_told(node: ScriptedNode, operator: Operator) -> None:
    """The target was changed back to what the first job made it from."""
    node.acts[A] = [keep_running, keep_running]
    write_named(operator, "one", timeout="2s")
    await operator.run()
    write_named(operator, "two", timeout="2s")
    await kill_in_flight(node, operator, "--accept-changes", posts=2)
    write_named(operator, "one", timeout="2s")
    for job in node.posts(A):
        node.execute(job)
    assert await operator.run("--accept-changes", "--strict") == 0, operator.output
    assert "made before the job file was changed" not in operator.output


@pytest.mark.parametrize("code", ["SYS.1007", "ID.1003", "SYS.1010", "LICENSE.1003"])
async def test_what_existed_before_is_compared_with_the_edited_target(
    code: str, node: ScriptedNode, operator: Operator
) -> None:
    """The job ended unexecuted after the process was killed: the service that differs is no clone of the target."""
    take(node, DERIVED, "of another folder")
    node.acts[A] = [keep_running, taken(DERIVED, "SYS.1000", "of another folder")]
    write_named(operator, "one")
    await kill_in_flight(node, operator)
    node.posts(A)[0].result = failed(code)
    write_named(operator, "two")
    for _ in range(2):
        await operator.run("--accept-changes")
    require_not_cloned(node, operator)
    assert operator.states()[A] == "conflict", operator.output


async def test_what_existed_before_is_no_clone_of_a_target_that_is_left_out(
    node: ScriptedNode, operator: Operator
) -> None:
    """The target was edited, and --only leaves it out; the whole run compares it as it is now."""
    take(node, DERIVED, "of another folder")
    node.acts[A] = [keep_running, taken(DERIVED, "SYS.1000", "of another folder")]
    write_named(operator, "one")
    await kill_in_flight(node, operator)
    node.posts(A)[0].result = failed("SYS.1007")
    write_named(operator, "two")
    await operator.run("--only", f"key={B}")
    require_not_cloned(node, operator)
    await operator.run()
    require_not_cloned(node, operator)


@pytest.mark.parametrize("is_killed", [True, False])
async def test_a_request_that_never_ran_hides_no_difference(
    *, is_killed: bool, node: ScriptedNode, operator: Operator
) -> None:
    """It had another body than the one whose uuid was in use: what is there was made with neither."""
    node.acts[A] = [
        refuse("LICENSE.1003"),
        keep_running if is_killed else taken(DERIVED, "SYS.1000", "of another folder"),
    ]
    write_named(operator, "one")
    await operator.run()
    write_named(operator, "two")
    if is_killed:
        await kill_in_flight(node, operator)
        take(node, DERIVED, "of another folder")
        node.posts(A)[1].result = failed("SYS.1000")
    await operator.run()
    require_not_cloned(node, operator)
    assert operator.states()[A] == "conflict", operator.output


async def test_a_request_that_never_ran_hides_no_difference_in_the_same_process(
    node: ScriptedNode, operator: Operator
) -> None:
    """It is sent again as edited, and that job finds the uuid in use."""
    node.acts[A] = [keep_running, taken(DERIVED, "SYS.1000", "of another folder")]
    write_named(operator, "one")
    await kill_in_flight(node, operator)
    node.posts(A)[0].result = failed("SYS.1010")
    write_named(operator, "two")
    await operator.run("--accept-changes")
    require_not_cloned(node, operator)


async def fail_unanswered(node: ScriptedNode, operator: Operator, folder: Path) -> None:
    """Let A fail under its uuid as no attempt was answered."""
    await operator.run()
    for number in (1, 2):
        await operator.run(env=with_clock_set(number * 2 * HOUR, folder / f"flag{number}"))
    assert operator.states()[A] == "failed", operator.output


async def test_an_unanswered_attempt_says_nothing_about_another_uuid(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """The retry under the other uuid ended unexecuted; hours later someone has that uuid."""
    node.acts[A] = [queue, refuse("LICENSE.1003"), accept]
    write_given(operator, OWN)
    await fail_unanswered(node, operator, tmp_path)
    write_given(operator, OTHER)
    await operator.zclone("retry", "job.yaml", env=with_clock_set(6 * HOUR, tmp_path / "flag3"))
    take(node, OTHER)
    await operator.run(env=with_clock_set(7 * HOUR, tmp_path / "flag4"))
    require_not_cloned(node, operator)


@pytest.mark.parametrize("uuid", [OTHER, DERIVED], ids=["given", "derived"])
async def test_what_takes_the_next_uuid_is_not_handed_over(
    uuid: str, node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """Someone else gets it while the retry's request is on its way."""
    node.acts[A] = [queue, taken(uuid, "SYS.1000")]
    write_given(operator, OWN)
    await fail_unanswered(node, operator, tmp_path)
    write_given(operator, uuid)
    await operator.zclone("retry", "job.yaml", env=with_clock_set(6 * HOUR, tmp_path / "flag3"))
    assert node.given == [], operator.output


async def test_a_target_that_returns_under_another_uuid_has_no_attempt_there(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """Its attempt went unanswered under the first one, before it left the job file."""
    node.acts[A] = [queue, taken(OTHER, "SYS.1000")]
    write_given(operator, OWN, attempts=3)
    await operator.run()
    write_given(operator, OWN, has_target=False)
    for number in (1, 2):
        await operator.run(env=with_clock_set(number * 2 * HOUR, tmp_path / f"flag{number}"))
    write_given(operator, OTHER, attempts=3)
    await operator.run(env=with_clock_set(6 * HOUR, tmp_path / "flag3"))
    require_not_cloned(node, operator)


@pytest.mark.parametrize("is_hidden", [True, False])
async def test_a_refusal_does_not_forget_an_earlier_silence(
    *, is_hidden: bool, node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """The first attempt made the clone, which no look shows; the second one is refused, and the target fails.

    Its retry finds the uuid in use: that may be its own clone, which is handed over once it is visible.
    """
    is_shut = [True]
    node.acts[A] = [lose_answer, refuse("SYS.1007"), refuse("SYS.1000")]
    node.look = lambda uuid: answer(200, {"inventories": []}) if is_shut[0] and uuid == DERIVED else node.shown(uuid)
    write_given(operator, DERIVED, attempts=2)
    await operator.run()
    for number in (1, 2):
        if operator.states()[A] != "failed":
            await operator.run(env=with_clock_set(number * 2 * HOUR, tmp_path / f"flag{number}"))
    assert operator.states()[A] == "failed", operator.output
    is_shut[0] = is_hidden
    await operator.zclone("retry", "job.yaml", env=with_clock_set(6 * HOUR, tmp_path / "flag3"))
    assert operator.states()[A] == ("uncertain" if is_hidden else "cloned"), operator.output
    assert node.sources_of.count(A) == 1
    assert bool(node.given) is not is_hidden


@pytest.mark.parametrize("code", ["SYS.1000", "ID.1003"])
async def test_an_end_that_was_seen_is_not_forgotten_with_its_job(
    code: str, node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """Someone takes the given uuid during the POST; hours later the server has no row of the job any more."""
    node.acts[A] = [taken(OWN, code)]
    write_given(operator, OWN)
    for number in range(3):
        await operator.run(env=with_clock_set(number * 4 * HOUR, tmp_path / f"flag{number}"))
        purge(node)
    require_not_cloned(node, operator)
    assert len(node.posts(A)) == 1


async def test_an_edited_target_is_compared_whenever_its_job_is_purged(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """Another folder has its derived uuid, as its job found; it is edited, and the row of the job is purged."""
    take(node, DERIVED, "of another folder")
    node.acts[A] = [keep_running, taken(DERIVED, "SYS.1000", "of another folder")]
    write_named(operator, "one")
    await kill_in_flight(node, operator)
    node.posts(A)[0].result = failed("SYS.1000")
    write_named(operator, "two")
    await operator.run("--accept-changes")
    purge(node)
    await operator.run("--accept-changes", env=with_clock_set(4 * HOUR, tmp_path / "flag"))
    require_not_cloned(node, operator)
    assert operator.states()[A] == "conflict", operator.output


async def test_a_given_uuid_in_use_leaves_the_target_in_doubt(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """The operator gives it another uuid, and its job is purged: what has the first one is not its clone."""
    node.acts[A] = [taken(OWN, "SYS.1000"), accept]
    write_given(operator, OWN, attempts=3)
    await operator.run()
    write_given(operator, OTHER, attempts=3)
    for number in range(2):
        await operator.run("--accept-changes", env=with_clock_set(number * 4 * HOUR, tmp_path / f"flag{number}"))
        purge(node)
    require_not_cloned(node, operator)
    del node.made[OWN]
    assert await operator.run("--accept-changes", env=with_clock_set(9 * HOUR, tmp_path / "flag")) == 0, operator.output
    assert node.given == [OTHER]


async def test_a_given_uuid_that_is_taken_between_attempts_stays_uncertain(
    node: ScriptedNode, operator: Operator
) -> None:
    """The attempt ended in a run of another part; each rerun looks again, and says that only the operator can help."""
    node.acts[A] = [keep_running, accept]
    write_given(operator, OWN, attempts=3)
    await operator.run()
    node.posts(A)[0].result = failed("SYS.1006")
    await operator.run("--only", f"key={B}")
    assert operator.states()[A] == "planned", operator.output
    take(node, OWN)
    for _ in range(2):
        assert await operator.run() == 3, operator.output
        assert operator.states()[A] == "uncertain"
    require_not_cloned(node, operator)
    del node.made[OWN]
    assert await operator.run() == 0, operator.output
    assert node.given == [OWN]


async def test_uuids_that_never_ran_may_be_exchanged(node: ScriptedNode, operator: Operator) -> None:
    """The licence stopped the run; the operator exchanges the uuids of two targets."""
    rows = [f"{{uuid: {source}, params: {{resourceUuid: {uuid}}}}}" for source, uuid in ((A, OWN), (B, OTHER))]
    node.acts[A] = [refuse("LICENSE.1003"), accept]
    operator.write_job(*rows, limits="concurrency: 1")
    await operator.run()
    swapped = [rows[0].replace(OWN, OTHER), rows[1].replace(OTHER, OWN)]
    operator.write_job(*swapped, limits="concurrency: 1")
    assert await operator.run("--accept-changes") == 0, operator.output
    assert sorted(node.made) == sorted([OWN, OTHER])


async def test_at_most_once_a_uuid_found_in_use_is_never_sent_again(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """Its job is purged and what had the uuid is gone: that job may have made a clone under another uuid."""
    node.acts[A] = [taken(OWN, "SYS.1000"), accept]
    write_given(operator, OWN, attempts=3)
    await operator.run("--at-most-once")
    purge(node)
    del node.made[OWN]
    for number in (1, 2):
        await operator.run(env=with_clock_set(number * 4 * HOUR, tmp_path / f"flag{number}"))
    assert len(node.posts(A)) == 1, operator.output
    assert operator.states()[A] == "uncertain"
