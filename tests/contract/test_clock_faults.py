"""Conclusions from recorded times, and from the lines of a version that recorded less."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from batch.plan.identity import resource_uuid
from tests.contract.scripted_node import (
    A,
    ApiJob,
    B,
    Operator,
    ScriptedNode,
    lose_answer,
    queue,
    refuse,
    with_clock_set,
)
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from pathlib import Path

GONE = {None, "planned", "failed", "conflict", "withdrawn", "undone"}
LATER = 7200.0
YEAR = 365 * 86_400.0


# --- Times ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_process_with_a_clock_that_is_behind_ends_nothing(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """A POST of a minute ago may still be executed, although a process in between had a clock a year behind."""
    node.acts[A] = [queue]
    operator.write_job(B, A, limits="timeout: 2s, attempts: 1, concurrency: 1")
    assert await operator.run() in {3, 4}, operator.output
    await operator.run(env=with_clock_set(-YEAR, tmp_path / "flag"))
    await operator.run()
    assert operator.states()[A] not in GONE, operator.output
    node.execute(node.posts(A)[0])
    await operator.run()
    assert operator.states()[A] == "cloned"


@pytest.mark.slow
async def test_failing_lookups_after_the_timeout_leave_exit_4(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """While the server cannot say whether a clone exists a rerun can settle it: exit 4, also after its time."""
    node.acts[A] = [lose_answer]
    node.look = lambda _: answer(500, "")
    operator.write_job(A, limits="timeout: 2s, attempts: 2")
    assert await operator.run() == 4, operator.output
    later = with_clock_set(LATER, tmp_path / "flag")
    code = await operator.run(env=later)
    node.look = None
    assert await operator.run(env=later) == 0, operator.output
    assert code == 4


# --- A manifest of the version that wrote neither open_jobs nor until nor api_timeout ---------------------------------


def sealed(lines: list[dict[str, Any]]) -> bytes:
    text, crc = b"", 0
    for number, line in enumerate(lines):
        body = json.dumps({**line, "batch": number}, separators=(",", ":")).encode()[:-1]
        crc = zlib.crc32(body, crc)
        text += body + b',"crc":"%08x"}\n' % crc
    return text


async def begun_by_older_version(operator: Operator, node: ScriptedNode, *records: dict[str, Any]) -> None:
    """Write the manifest of a run in which B was cloned and then ``records`` were written, by a dead process."""
    operator.write_job(B, A, limits="timeout: 2s, attempts: 2, concurrency: 1")
    node.acts[A] = [refuse("SYS.1003")]
    assert await operator.run() == 3, operator.output
    del node.jobs[1:]
    lines = [line for line in operator.lines() if line.get("key") != A and "ended" not in line]
    for line in lines:
        line.pop("crc")
        line.pop("more", None)
        line.pop("api_timeout", None)
    at = max(line["at"] for line in lines if "at" in line)
    uuid = resource_uuid("job", "default", A)
    body = {"at": at, "source_uuid": A, "resource_uuid": uuid, "deadline": at + 5.0}
    for record in records:
        more = body if record["state"] == "sent" else {"at": at}
        lines.append({"state": record["state"], "key": A, **more, **record})
    operator.manifest().write_bytes(sealed(lines))


def sent(attempt: int, job: str) -> dict[str, Any]:
    return {"state": "sent", "attempt": attempt, "job_uuid": job}


JOBS = [f"{number:032x}" for number in (101, 102)]


def pending(node: ScriptedNode, job: str) -> ApiJob:
    """A POST of the older version that waits at the server without a row."""
    one = ApiJob(job, A, {"resourceUuid": resource_uuid("job", "default", A)}, is_known=False)
    node.jobs.append(one)
    return one


async def test_an_older_versions_first_attempt_is_not_ended_by_its_second(
    node: ScriptedNode, operator: Operator
) -> None:
    """The older version sent a second job uuid while the first was open and did not record that: it stays open."""
    await begun_by_older_version(
        operator, node, sent(1, JOBS[0]), {"state": "accepted", "attempt": 1, "job_uuid": JOBS[0]}, sent(2, JOBS[1])
    )
    first = pending(node, JOBS[0])
    second = ApiJob(JOBS[1], A, first.params)
    refuse("ID.1003")(node, second)
    node.jobs.append(second)
    await operator.run("--accept-changes")
    assert operator.states()[A] not in GONE, operator.output
    node.execute(first)
    await operator.run("--accept-changes")
    assert operator.states()[A] == "cloned"


@pytest.mark.slow
async def test_an_older_versions_withdrawn_attempt_may_have_run(node: ScriptedNode, operator: Operator) -> None:
    """The older version took an attempt back after a refused lookup: its job is queried before it counts as failed."""
    await begun_by_older_version(operator, node, sent(1, JOBS[0]), {"state": "planned", "attempt": 0})
    first = pending(node, JOBS[0])
    node.acts[A] = [refuse("ID.1003")]
    await operator.run("--accept-changes")
    assert operator.states()[A] not in GONE, operator.output
    node.execute(first)
    await operator.run("--accept-changes")
    assert operator.states()[A] == "cloned"
