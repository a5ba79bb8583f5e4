"""What ``verify --reopen`` and ``rollback`` may conclude: from accounts, lost lines, DELETEs and merged shards."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import SOURCES, A, ApiJob, B, accept, accepted, refuse, with_clock_set
from tests.contract.test_undone_targets import UUIDS, OccupiedNode, damage_line
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.scripted_node import Operator
    from tests.zstack.wire_server import Seen

OTHER = "0" * 31 + "b"
AS_OTHER = {"ZSTACK_SESSION_ID": OTHER}
ACCOUNTS = {"me": "a" * 32, "other": "b" * 32}


class AccountNode(OccupiedNode):
    """A node whose accounts see what they made and what is shared with them; it may keep DELETEs waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.owners: dict[str, str] = {}
        self.shared: set[str] = set()
        self.admins: set[str] = set()
        self.caller = "me"
        self.deleted: list[str] = []
        """Uuids of services with a DELETE."""
        self.keeps_deletes_waiting = False

    def execute(self, job: ApiJob) -> None:
        before = set(self.made)
        super().execute(job)
        self.owners |= dict.fromkeys(self.made.keys() - before, self.caller)

    def is_visible(self, uuid: str) -> bool:
        return self.caller in self.admins or uuid in self.shared or self.owners.get(uuid, self.caller) == self.caller

    def own_answer(self, seen: Seen) -> bytes | None:
        self.caller = "other" if OTHER in seen.headers.get("authorization", "") else "me"
        if seen.call == "GET /v1/accounts":
            is_shown = "SystemAdmin" not in seen.target or self.caller in self.admins
            rows = [{"uuid": ACCOUNTS[self.caller], "name": self.caller}] if is_shown else []
            return answer(200, {"inventories": rows})
        uuid = seen.call.rpartition("/")[2]
        if seen.call.startswith("DELETE "):
            return self.delete(seen, uuid)
        hidden = {one for one in self.made if not self.is_visible(one)}
        if seen.call.startswith("GET /v1/ai/model-services/") and uuid in hidden:
            return answer(200, {"inventories": []})
        if seen.call == "GET /v1/ai/model-services":
            rows = [dict(self.made[one]) for one in sorted(self.made.keys() - hidden) if one in seen.target]
            rows += [{"uuid": one, "name": "source"} for one in SOURCES if one in seen.target]
            return answer(200, {"inventories": rows, "total": len(rows)})
        return super().own_answer(seen)

    def delete(self, seen: Seen, uuid: str) -> bytes:
        self.deleted.append(uuid)
        job = ApiJob(seen.headers["x-job-uuid"], "", {})
        self.jobs.append(job)
        if not self.keeps_deletes_waiting:
            self.made.pop(uuid, None)
            job.result = answer(200, {})
        return accepted(job)


@pytest.fixture
def node() -> AccountNode:
    return AccountNode()


async def test_a_clone_of_another_account_is_not_reopened(node: AccountNode, operator: Operator) -> None:
    """It existed before, and its share has ended: that this account does not see it proves nothing."""
    node.made[UUIDS[0]] = {"uuid": UUIDS[0], "name": "mine"}
    node.used.add(UUIDS[0])
    node.owners[UUIDS[0]] = "other"
    node.shared.add(UUIDS[0])
    operator.write_job(B, f"{{uuid: {A}, params: {{name: mine}}}}")
    assert await operator.run() == 0, operator.output
    node.shared.clear()
    assert await operator.zclone("verify", "job.yaml", "--reopen", "--yes") == 4, operator.output
    assert await operator.run() == 0, operator.output
    assert {*UUIDS} & node.made.keys() == {UUIDS[0]}


async def test_after_lost_lines_only_an_admin_reopens(
    node: AccountNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """The line of the account that made the clone is lost: another one does not see it, and proves nothing."""
    node.acts[A] = [refuse("SYS.1003"), accept]
    operator.write_job(B, A)
    assert await operator.run() == 3, operator.output
    assert await operator.zclone("retry", "job.yaml", env=AS_OTHER) == 0, operator.output
    texts = operator.manifest().read_bytes().splitlines()
    damage_line(operator, max(at for at, text in enumerate(texts) if json.loads(text).get("state") == "sent"))
    await operator.repair()
    await operator.run()
    assert await operator.zclone("verify", "job.yaml", "--reopen", "--yes") == 4, operator.output
    await operator.run()
    assert node.sources_of.count(A) == 1
    del node.made[UUIDS[0]]
    node.admins.add("me")
    # Until then what the lost line sent may still make a clone.
    later = with_clock_set(7200.0, tmp_path / "flag")
    await operator.zclone("verify", "job.yaml", "--reopen", "--yes", env=later)
    assert operator.states()[A] == "undone", operator.output


async def test_a_clone_with_a_delete_on_its_way_is_not_cloned(
    node: AccountNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """Also where the line that it was cloned was lost after the rollback was killed."""
    node.admins.add("me")
    operator.write_job(B, A)
    assert await operator.run() == 0, operator.output
    node.keeps_deletes_waiting = True
    process = operator.start("rollback", "job.yaml", "--yes")
    while not node.deleted:  # noqa: ASYNC110 - a process is waited for
        await asyncio.sleep(0.02)
    process.kill()
    await asyncio.to_thread(process.communicate)
    assert operator.damage(lambda line: line.get("state") == "cloned") == 2
    await operator.repair()
    assert await operator.run(env=with_clock_set(100.0, tmp_path / "flag")) == 4, operator.output


async def test_a_merge_under_another_name_is_no_manifest_of_the_job(node: AccountNode, operator: Operator) -> None:
    """``rollback`` of the job file leaves what the shards do not record as undone: they are what ``run`` continues."""
    node.admins.add("me")
    operator.write_job(*SOURCES[:4])
    shards = [f"job.shard-{number}-of-2.manifest.jsonl" for number in range(2)]
    for number in range(2):
        assert await operator.run("--shard", f"{number}/2") == 0, operator.output
    assert await operator.zclone("merge", *shards, "--out", "job.all.manifest.jsonl") == 0, operator.output
    await operator.zclone("rollback", "job.yaml", "--yes")
    for number in range(2):
        assert await operator.run("--shard", f"{number}/2") == 0, operator.output
    assert len(node.made) == 4


@pytest.mark.parametrize(
    ("command", "code"),
    [(("rollback",), 4), (("verify", "--reopen"), 4), (("verify", "--fix"), 4), (("verify",), 5)],
    ids=["rollback", "reopen", "fix", "verify"],
)
async def test_after_a_post_a_server_that_is_away_leaves_it_unfinished(
    command: tuple[str, ...], code: int, node: AccountNode, operator: Operator
) -> None:
    """Exit code 5 says that nothing was ever sent, from every command that may change something."""
    operator.write_job(B, A)
    assert await operator.run() == 0, operator.output
    node.gate = lambda seen: answer(502, "<html>bad gateway</html>")
    name, *flags = command
    assert await operator.zclone(name, "job.yaml", *flags, *(["--yes"] if code == 4 else [])) == code, operator.output
