"""A merged manifest is as safe as the shards' manifests: its lines are durable, and it knows what each process sent."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.scripted_node import SOURCES, ApiJob, accept, accepted, failed, keep_running, lose_answer, refuse
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.scripted_node import Operator, ScriptedNode
    from tests.zstack.wire_server import Seen

TARGETS = SOURCES[:6]


async def merge(operator: Operator) -> None:
    """Merge the manifests of all shards and leave only the merged one."""
    names = sorted(path.name for path in operator.folder.glob("*.jsonl"))
    assert await operator.zclone("merge", *names, "--out", "merged") == 0, operator.output
    for name in names:
        operator.manifest(name).unlink()
    operator.manifest("merged").rename(operator.manifest())


def spoil(operator: Operator, state: str) -> None:
    """Damage the checksum of the first record with a state."""
    texts = operator.manifest().read_bytes().splitlines(keepends=True)
    number = next(at for at, text in enumerate(texts) if json.loads(text).get("state") == state)
    texts[number] = texts[number][:-4] + bytes([texts[number][-4] ^ 1]) + texts[number][-3:]
    operator.manifest().write_bytes(b"".join(texts))


@pytest.mark.parametrize("state", ["accepted", pytest.param("sent", marks=pytest.mark.slow)])
async def test_a_damaged_line_of_a_merged_manifest_is_refused(
    state: str, node: ScriptedNode, operator: Operator
) -> None:
    """It is no write that a crash cut short: nothing is sent before a repair, and nothing twice after it."""
    operator.write_job(*TARGETS, limits="timeout: 3s")
    for shard in ("0/2", "1/2"):
        assert await operator.run("--shard", shard) == 0, operator.output
    await merge(operator)
    spoil(operator, state)
    assert await operator.run() == 1, operator.output
    assert "zclone repair" in operator.output
    await operator.repair()
    assert await operator.run() == 0, operator.output
    assert sorted(node.sources_of) == sorted(TARGETS)
    assert len(node.posts()) == len(TARGETS)


async def test_a_shard_without_the_flag_counts_after_a_merge(node: ScriptedNode, operator: Operator) -> None:
    """One shard ran without --at-most-once and has two jobs open, the other one with it: no third POST."""
    order: list[str] = []

    def act(node: ScriptedNode, job: ApiJob) -> bytes | None:
        if job.source not in order:
            order.append(job.source)
        return (keep_running if order.index(job.source) == 1 else accept)(node, job)

    node.acts = {source: [act] for source in TARGETS}
    operator.write_job(*TARGETS, limits="timeout: 3s, concurrency: 1")
    for _ in range(2):
        await operator.run("--shard", "0/2")
    await operator.run("--shard", "1/2", "--at-most-once")
    await merge(operator)
    doubtful = order[1]
    assert len(node.posts(doubtful)) == 2
    node.posts(doubtful)[-1].result = failed("SYS.1009")
    await operator.run("--at-most-once")
    assert len(node.posts(doubtful)) == 2
    assert operator.states()[doubtful] == "uncertain", operator.output


async def test_a_shard_that_ran_later_without_the_flag_counts(node: ScriptedNode, operator: Operator) -> None:
    """It failed after the other shard had the flag: merged and retried, its target is only looked for."""
    order: list[str] = []

    def act(node: ScriptedNode, job: ApiJob) -> bytes | None:
        order.append(job.source)
        return refuse("SYS.1006")(node, job) if len(order) == 2 else accept(node, job)

    operator.write_job(*TARGETS, limits="timeout: 2s, attempts: 1, concurrency: 1")
    await operator.run("--shard", "1/2", "--at-most-once")
    node.acts = {source: [act] for source in TARGETS}
    await operator.run("--shard", "0/2")
    await merge(operator)
    assert operator.states()[order[1]] == "failed"
    await operator.zclone("retry", "job.yaml")
    assert len(node.posts(order[1])) == 1


async def run_on_a_full_disk(operator: Operator, *arguments: str) -> int | None:
    """Run a command that cannot write more than the first few lines of a file."""
    command = 'ulimit -f 4; exec "$0" -m batch "$@"'
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", command, sys.executable, *arguments, cwd=operator.folder, env=operator.env, stderr=-1
    )
    operator.output = (await process.communicate())[1].decode()
    return process.returncode


async def test_a_merge_that_was_cut_off_leaves_no_manifest(node: ScriptedNode, operator: Operator) -> None:
    """At most once on a server that ignores `resourceUuid`: what a full disk leaves of a merge is not the run."""
    node.honours = False
    targets = SOURCES[:8]
    operator.write_job(*targets, limits="timeout: 2s, concurrency: 1")
    for shard in ("0/2", "1/2"):
        assert await operator.run("--shard", shard, "--at-most-once") == 0, operator.output
    names = sorted(path.name for path in operator.folder.glob("*.jsonl"))
    assert await run_on_a_full_disk(operator, "merge", *names, "--out", "job.manifest.jsonl") == 1
    assert "job.manifest.jsonl: File too large" in operator.output
    assert not [path.name for path in operator.folder.iterdir() if path.name.removeprefix(".").startswith("job.m")]
    assert await operator.run("--at-most-once") == 2, operator.output
    assert await run_on_a_full_disk(operator, "repair", names[0], "--out", "job.manifest.jsonl") == 1
    assert await operator.run("--at-most-once") == 2, operator.output
    assert await operator.zclone("merge", *names, "--out", "job.manifest.jsonl") == 0, operator.output
    assert await operator.run("--at-most-once") == 0, operator.output
    assert sorted(node.sources_of) == targets
    assert len(node.posts()) == len(targets)


async def test_a_shard_with_a_damaged_end_is_run_before_it_is_merged(node: ScriptedNode, operator: Operator) -> None:
    """At most once on a server that ignores `resourceUuid`: its `sent` line was damaged after its POST had left."""
    node.honours = False
    operator.write_job(*TARGETS, limits="timeout: 2s, concurrency: 1")
    assert await operator.run("--shard", "1/2", "--at-most-once") == 0, operator.output
    node.acts = {source: [lose_answer] for source in TARGETS}
    await operator.run_and_kill(node, "run", "job.yaml", "--shard", "0/2", "--at-most-once")
    names = [f"job.shard-{number}-of-2.manifest.jsonl" for number in range(2)]
    data = operator.manifest(names[0]).read_bytes()
    *lines, last = data[: data.index(b"\n", data.index(b'{"state":"sent"')) + 1].splitlines(keepends=True)
    operator.manifest(names[0]).write_bytes(b"".join(lines) + last.replace(b'"sent"', b'"sint"'))
    assert await operator.zclone("merge", *names, "--out", "job.manifest.jsonl") == 2, operator.output
    assert f"{names[0]}: line {len(lines) + 1}: damaged" in operator.output
    node.acts = {}
    await operator.run("--shard", "0/2", "--at-most-once")
    await merge(operator)
    await operator.run("--at-most-once")
    doubtful = json.loads(last)["key"]
    assert operator.states()[doubtful] == "uncertain", operator.output
    assert sorted(node.sources_of) == sorted(set(node.sources_of))
    assert len(node.posts(doubtful)) == 1


def hide_given(node: ScriptedNode) -> Callable[[Seen], bytes | None]:
    """Change owners without an end, and answer an account that does not see the clones that were given away."""

    def gate(seen: Seen) -> bytes | None:
        method, _, path = seen.call.partition(" ")
        if path.startswith("/v1/account/"):
            node.given.append(seen.json["params"]["resourceUuid"])
            node.jobs.append(ApiJob(seen.headers["x-job-uuid"], "", {}))
            return accepted(node.jobs[-1])
        if method != "GET" or path.startswith("/v1/api-jobs/"):
            return None
        found: list[dict[str, Any]] = []
        if path == "/v1/accounts" and "SystemAdmin" not in seen.target:
            found = [{"uuid": "a" * 32, "name": "me"}]
        elif path.startswith("/v1/ai/model-services"):
            known = node.made | {uuid: {"uuid": uuid, "name": "source"} for uuid in SOURCES}
            found = [service for uuid, service in known.items() if uuid in seen.target and uuid not in node.given]
        return answer(200, {"inventories": found, "total": len(found)})

    return gate


async def test_a_merge_does_not_forget_that_a_clone_may_be_given_away(node: ScriptedNode, operator: Operator) -> None:
    """Its owner was changed and the answer lost; the owner left the job file since: nobody sees the clone."""
    node.gate = hide_given(node)
    limits = "concurrency: 1, timeout: 2s"
    account = "7" * 12 + "4" + "7" * 3 + "8" + "7" * 15
    operator.write_job(*(f"{{uuid: {source}, owner: {account}}}" for source in TARGETS), limits=limits)
    node.acts = {
        source: [lambda node, job: (accept if len(node.jobs) == 1 else keep_running)(node, job)] for source in TARGETS
    }
    process = operator.start("run", "job.yaml", "--shard", "1/2")
    while not node.given:  # noqa: ASYNC110 - a process is waited for
        await asyncio.sleep(0.02)
    process.kill()
    await asyncio.to_thread(process.communicate)
    node.acts = {}
    for job in node.jobs:
        if job.source and job.result is None:
            node.execute(job)
    operator.write_job(*TARGETS, limits=limits)
    for shard in ("0/2", "1/2"):
        assert await operator.run("--shard", shard) == 0, operator.output
    await merge(operator)
    assert await operator.zclone("verify", "job.yaml", "--reopen", "--yes") == 4, operator.output
    assert "1 unknown" in operator.output
    assert await operator.run() == 0, operator.output
    assert sorted(node.sources_of) == sorted(TARGETS)


async def test_shards_are_merged_after_a_target_was_added(node: ScriptedNode, operator: Operator) -> None:
    """The shard without the new target has nothing left to do, and records that the whole plan is another."""
    for count in (4, 5):
        operator.write_job(*SOURCES[:count])
        for shard in ("0/2", "1/2"):
            assert await operator.run("--shard", shard) == 0, operator.output
    names = [f"job.shard-{number}-of-2.manifest.jsonl" for number in range(2)]
    before = [operator.manifest(name).read_bytes() for name in names]
    for shard in ("0/2", "1/2"):
        assert await operator.run("--shard", shard) == 0, operator.output
    assert [operator.manifest(name).read_bytes() for name in names] == before
    await merge(operator)
    assert await operator.run() == 0, operator.output
    assert sorted(node.sources_of) == SOURCES[:5]
