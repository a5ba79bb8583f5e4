"""The end of a whole run: the real command against a server that answers each call as the test says.

At most once is at most one under any answers; a run that sent nothing says so; an unavailable node costs no target; a
wave is judged by what the job file has; a session or a server that cannot work is not retried without end.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import (
    PASSWORD,
    SOURCES,
    A,
    Act,
    ApiJob,
    B,
    C,
    Operator,
    ScriptedNode,
    accept,
    accepted,
    failed,
    keep_running,
    lose_answer,
    make_and_refuse,
    queue,
    refuse,
    with_clock_set,
)
from tests.zstack.wire_server import answer, error

if TYPE_CHECKING:
    from pathlib import Path

    from tests.zstack.wire_server import Seen

AWAY = 6.0
"""Seconds for which a node stops, boots or refuses all callers."""
OVER_LIMIT = answer(429, "Rate limit exceeded")
"""The server's own limiter, which answers before any other check."""
MONTH = 30 * 86_400.0


# --- Counts are the plan's --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "only"), [((B,), ()), ((A, B), ("--only", f"source={B}"))], ids=["edited", "another --only"]
)
async def test_a_stop_before_the_plan_is_recorded_is_never_success(
    rows: tuple[str, ...], only: tuple[str, ...], node: ScriptedNode, operator: Operator
) -> None:
    """A run stopped before it recorded what its job file asks for now is not done: exit 4, and a rerun does it."""
    named = "{uuid: %s, params: {name: '${source.name}-copy'}}"
    operator.write_job(named % A)
    assert await operator.run() == 0, operator.output
    operator.write_job(*(named % source for source in rows))
    node.release = asyncio.Event()
    process = operator.start("run", "job.yaml", *only)
    await asyncio.wait_for(node.held.wait(), 30)
    process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.5)
    node.release.set()
    output = (await asyncio.to_thread(process.communicate))[0].decode()
    assert process.returncode == 4, output
    assert "1 of 1" not in output
    assert await operator.run(*only) == 0, operator.output
    assert sorted(node.sources_of) == [A, B]


# --- At most once -----------------------------------------------------------------------------------------------------


def make_and_deny(node: ScriptedNode, job: ApiJob) -> bytes:
    """202, the clone is made, and copying its files is denied to an agent of the server."""
    node.execute(job)
    job.result = answer(503, error("SYS.1006", "rsync: mkdir /models failed: Permission denied (13)"))
    return accepted(job)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(make_and_refuse("SYS.1001"), id="timed out"),
        pytest.param(make_and_refuse("SYS.1006", "SYS.1009"), id="inner transient"),
        pytest.param(make_and_refuse("SYS.1006", "ID.1001"), id="inner session"),
        pytest.param(lose_answer, id="answer lost"),
        pytest.param(make_and_refuse("SYS.1017"), id="cancelled"),
        pytest.param(make_and_refuse("TAG.1001"), id="doubled tag"),
        pytest.param(make_and_deny, id="an agent's denial"),
    ],
)
@pytest.mark.parametrize("honours", [False, True], ids=["ignores the uuid", "honours it"])
@pytest.mark.both_engines
async def test_at_most_once_is_at_most_one(act: Act, node: ScriptedNode, operator: Operator, *, honours: bool) -> None:
    """Whatever the end of its job, a target that may have been cloned is not sent again, by any process."""
    node.honours = honours
    node.acts[A] = [act]
    operator.write_job(A, limits="timeout: 3s")
    await operator.run("--at-most-once")
    for _ in range(2):
        await operator.run()
    await operator.zclone("retry", "job.yaml")
    assert (node.sources_of, len(node.posts())) == ([A], 1)


async def test_at_most_once_survives_damage_and_repair(node: ScriptedNode, operator: Operator) -> None:
    """A damaged sent line and a repair: the target has no job uuid any more, is queried and never sent."""
    node.honours = False
    node.acts[A] = [lose_answer, accept]
    operator.write_job(A, limits="timeout: 2s")
    await operator.run("--at-most-once")
    assert operator.damage(lambda line: line.get("state") == "sent") == 1
    await operator.repair()
    for _ in range(2):
        assert await operator.run() in {3, 4}, operator.output
    assert node.sources_of == [A]


async def test_at_most_once_survives_a_retry_of_another_target(node: ScriptedNode, operator: Operator) -> None:
    """A retry of what failed for good sends nothing again that may have been cloned."""
    node.honours = False
    node.acts = {A: [lose_answer, accept], B: [refuse("SYS.1003"), accept]}
    operator.write_job(A, B, limits="timeout: 2s")
    await operator.run("--at-most-once")
    await operator.zclone("retry", "job.yaml")
    assert Counter(node.sources_of) == {A: 1, B: 1}


# --- A server that gives no proof -------------------------------------------------------------------------------------


async def test_nothing_is_sent_again_without_proof(node: ScriptedNode, operator: Operator) -> None:
    """A server that ignores resourceUuid and ends jobs with 200 {}: the run stops, at one clone."""
    node.honours = False

    def make_silently(node: ScriptedNode, job: ApiJob) -> bytes:
        node.execute(job)
        job.result = answer(200, {})
        return accepted(job)

    node.acts = {source: [make_silently] for source in (A, B, C)}
    operator.write_job(A, B, C, limits="timeout: 5s")
    for _ in range(2):
        assert await operator.run() == 3, operator.output
    assert node.sources_of == [A]


async def test_a_lost_answer_is_not_repeated_without_proof(node: ScriptedNode, operator: Operator) -> None:
    """Until something proves that the server honours resourceUuid, an unanswered POST makes no second clone."""
    node.honours = False
    node.acts[A] = [lose_answer]
    operator.write_job(A, B, limits="timeout: 5s")
    for _ in range(2):
        await operator.run()
    assert max(Counter(node.sources_of).values()) == 1


# --- Sessions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [{}, PASSWORD], ids=["given session", "password"])
async def test_uncharged_sends_are_bounded(env: dict[str, str], node: ScriptedNode, operator: Operator) -> None:
    """Answers lost while every job ends for its session: a few POSTs, and the run ends by itself."""
    if env:
        operator.env.pop("ZSTACK_SESSION_ID")

    def lose_to_a_dead_session(node: ScriptedNode, job: ApiJob) -> None:
        job.result = failed("ID.1001")

    node.acts[A] = [lose_to_a_dead_session]
    operator.write_job(A, limits="attempts: 2")
    assert await operator.run(patience=25.0, env=env) in {3, 4}, operator.output
    assert len(node.posts()) <= 10


# --- An unavailable node
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(failed("SYS.1010"), id="not ready"),
        pytest.param(failed("SYS.1008"), id="stopping"),
        pytest.param(failed("PORTAL.1002"), id="booting"),
        pytest.param(OVER_LIMIT, id="rate limit"),
    ],
)
async def test_an_unavailable_node_costs_no_target(refusal: bytes, node: ScriptedNode, operator: Operator) -> None:
    """What a node reports about itself for some seconds charges no attempt: everything is cloned."""
    since: list[float] = []

    def away(seen: Seen) -> bytes | None:
        if not since and seen.method == "POST" and node.sources_of:
            since.append(time.monotonic())
        if "/api-jobs/" in seen.target and refusal is not OVER_LIMIT:
            # The answer to a poll is its job's own end.
            return None
        return refusal if since and time.monotonic() < since[0] + AWAY else None

    node.gate = away
    operator.write_job(*SOURCES[:6], limits="attempts: 2, concurrency: 4")
    assert await operator.run() == 0, operator.output
    assert sorted(node.sources_of) == SOURCES[:6]
    assert not [line for line in operator.lines() if line.get("state") in {"failed", "uncertain"}]


async def test_jobs_that_end_as_the_node_stops_cost_no_target(node: ScriptedNode, operator: Operator) -> None:
    """The same if the POST is accepted and its job ends with the node's code."""
    since: list[float] = []

    def act(node: ScriptedNode, job: ApiJob) -> bytes:
        since.append(time.monotonic())
        if time.monotonic() < since[0] + AWAY:
            job.result = failed("SYS.1008")
            return accepted(job)
        return accept(node, job)

    node.acts = {source: [act] for source in SOURCES[1:4]}
    operator.write_job(*SOURCES[:4], limits="attempts: 2, concurrency: 4")
    assert await operator.run() == 0, operator.output
    assert sorted(node.sources_of) == SOURCES[:4]


# --- Waves ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [refuse("SYS.1003"), queue], ids=["failed", "uncertain"])
async def test_a_removed_target_holds_no_wave_back(act: Act, node: ScriptedNode, operator: Operator) -> None:
    """What left the job file after it failed, or was lost, is no part of the plan: the next wave starts."""
    node.acts[B] = [act]
    waves = "timeout: 2s, attempts: 1, waves: [2, rest]"
    operator.write_job(A, B, *SOURCES[2:5], limits=waves)
    await operator.run()
    assert node.sources_of == [A]
    operator.write_job(A, *SOURCES[2:5], limits=waves)
    await operator.run()
    assert sorted(node.sources_of) == sorted([A, *SOURCES[2:5]])


async def test_a_removed_target_starts_no_wave(node: ScriptedNode, operator: Operator) -> None:
    """What left the job file does not count for its wave: the next one waits until the plan's own were tried."""
    node.acts = {A: [lose_answer], B: [refuse("SYS.1003")]}
    node.look = lambda _: None
    waves = "timeout: 2s, attempts: 1, waves: [1, rest]"
    operator.write_job(A, B, C, limits=waves)
    await operator.run_and_kill(node)
    node.look = None
    operator.write_job(B, C, limits=waves)
    await operator.run()
    assert operator.states()[A] == "cloned"
    assert (len(node.posts(B)), len(node.posts(C))) == (1, 0)


async def test_a_removed_failure_does_not_count_towards_max_failures(node: ScriptedNode, operator: Operator) -> None:
    """max_failures counts the plan's targets: failures that left the job file stop nothing, and stay recorded: 3."""
    node.acts = {source: [refuse("SYS.1003")] for source in SOURCES[:10]}
    operator.write_job(*SOURCES[:12], limits="concurrency: 1, max_failures: 2")
    await operator.run()
    operator.write_job(*SOURCES[10:14], limits="concurrency: 1, max_failures: 2")
    assert await operator.run() == 3, operator.output
    assert "stopped early" not in operator.output
    assert sorted(node.sources_of) == SOURCES[10:14]


# --- Clocks -----------------------------------------------------------------------------------------------------------


async def test_a_deadline_of_a_clock_that_was_ahead_is_not_waited_for(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """A job recorded by a clock thirty days ahead is polled for its own window and no longer."""
    node.acts[A] = [keep_running]
    operator.write_job(A, limits="timeout: 3s, attempts: 1")
    flag = tmp_path / "flag"
    await operator.run_and_kill(node, env=with_clock_set(MONTH, flag))
    assert await operator.run(patience=25.0) in {3, 4}, operator.output
    assert operator.states() == {A: "uncertain"}
