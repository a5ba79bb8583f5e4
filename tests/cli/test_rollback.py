"""``zclone rollback`` over sockets: what the run made is deleted, and nothing else."""

from __future__ import annotations

import fcntl
import json
import time
from typing import TYPE_CHECKING, Final

import pytest

from batch.manifest import Header, open_manifest
from batch.manifest.kinds import RemoteEngine
from batch.manifest.targets import open_targets
from batch.model import Record, State
from tests import forkserver, nodes
from tests.cli.test_verify import HEAD, SESSION, SOURCE, TENANT, as_account, serve, uuid_of, verify, write_job

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]
    Serve = Callable[..., str]

ROLLBACK: Final = ("rollback", "job.yaml", "--yes")


def reasons(text: str) -> dict[str, str]:
    """Return by key why each target is left, from the last summary of a rollback."""
    lines = [line for line in text.splitlines() if line]
    last = max(number for number, line in enumerate(lines) if ", run " in line)
    words = [line.split(maxsplit=2) for line in lines[last + 1 :]]
    return {key: why for kind, key, why in words if kind in {"left", "unknown"}}


def deleted(env: dict[str, str]) -> set[str]:
    """Return the clones that the server deleted."""
    return {row["uuid"] for row in nodes.ledger(env["ZSTACK_API_URL"])["clones"] if row["deleted"]}


def uuids(numbers: Iterable[int]) -> set[str]:
    return {uuid_of(f"t{number}") for number in numbers}


def test_clones_of_the_run_are_deleted_and_recreated(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """Without --yes nothing; then all; again nothing; the next run makes them under the next generation's uuids."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 12)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    unsaid = zclone("rollback", "job.yaml", env=env)
    assert (unsaid.returncode, deleted(env)) == (2, set())
    assert "12 to delete" in unsaid.stdout
    assert "add --yes" in unsaid.stderr
    done = zclone(*ROLLBACK, env=env)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "12 undone, 0 left, 0 unknown" in done.stdout
    assert deleted(env) == uuids(range(12))
    again = zclone(*ROLLBACK, env=env)
    assert (again.returncode, deleted(env)) == (0, uuids(range(12))), again.stderr
    assert zclone("run", "job.yaml", env=env).returncode == 0
    made = {row["uuid"] for row in nodes.ledger(env["ZSTACK_API_URL"])["clones"]}
    assert {uuid_of(f"t{number}", generation=1) for number in range(12)} <= made
    assert verify(zclone, env=env, exits=0)["counts"]["in-sync"] == 12


EIGHT: Final = {
    **{f"t{number}": "changed: requestCpu" for number in range(10, 15)},
    **{f"t{number}": "in use: an instance group runs on it" for number in range(20, 23)},
}


def tamper_eight(url: str) -> None:
    """Change five clones, and run something on three."""
    changes = {uuid_of(f"t{number}"): {"requestCpu": 3} for number in range(10, 15)}
    groups = {uuid_of(f"t{number}"): [f"{number:032x}"] for number in range(20, 23)}
    nodes.tamper(url, {"change": changes, "groups": groups})


def kill_after(count: int, folder: Path, env: dict[str, str]) -> None:
    """Start a rollback and kill it once it has deleted ``count`` more clones."""
    wanted = len(deleted(env)) + count
    with forkserver.start_text(ROLLBACK, cwd=folder, env=env) as process:
        while len(deleted(env)) < wanted:
            assert process.poll() is None
        process.kill()


@pytest.mark.timeout(300)
def test_only_unchanged_unused_clones_are_deleted(
    tmp_path: Path, zclone: Run, child_env: dict[str, str], serve_node: Serve
) -> None:
    """Of 200 clones 5 changed, 3 in use and 2 foreign are left and reported, through all kills; 190 are recreated."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 2)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    (tmp_path / "job.manifest.jsonl").unlink()
    write_job(tmp_path, 200)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    tamper_eight(env["ZSTACK_API_URL"])
    for _ in range(5):
        kill_after(20, tmp_path, child_env | env)
    done = zclone(*ROLLBACK, env=env)
    assert done.returncode == 3, done.stderr + done.stdout
    foreign = dict.fromkeys(("t0", "t1"), "foreign: it existed before this run requested it")
    assert reasons(done.stdout) == EIGHT | foreign
    ours = set(range(2, 200)) - {*range(10, 15), *range(20, 23)}
    assert deleted(env) == uuids(ours)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    made = {row["uuid"] for row in nodes.ledger(env["ZSTACK_API_URL"])["clones"]}
    assert made == uuids(range(200)) | {uuid_of(f"t{number}", generation=1) for number in ours}
    found = verify(zclone, env=env, exits=3)
    assert [one["key"] for one in found["findings"]] == [f"t{number}" for number in range(10, 15)]
    assert deleted(env) == uuids(ours)


def test_changed_clones_are_left(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """A field nobody requested, a tag, an owner, an edit of the job file, a target that left it: left and reported."""
    env = serve(tmp_path, serve_node)
    job = write_job(tmp_path, 7)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    time.sleep(4)  # the server's dates are whole seconds, and the clone's own are its job's
    order: dict[str, object] = {
        "change": {uuid_of("t1"): {"description": "mine"}},
        "tags": {uuid_of("t2"): []},
        "delete": [uuid_of("t5")],
    }
    nodes.tamper(env["ZSTACK_API_URL"], order)
    text = job.read_text(encoding="utf-8").replace("name: n3", "name: other")
    job.write_text("".join(line for line in text.splitlines(keepends=True) if "id: t4" not in line), encoding="utf-8")
    done = zclone(*ROLLBACK, env=env)
    assert done.returncode == 3, done.stderr
    found = reasons(done.stdout)
    assert {key: why.split(":")[0] for key, why in found.items()} == {
        "t1": "changed",
        "t2": "changed",
        "t3": "edited",
        "t4": "edited",
    }
    assert "3 undone" in done.stdout
    assert deleted(env) == uuids([0, 5, 6])


def test_clones_an_account_cannot_see_are_left(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """An account that sees none of the clones deletes nothing, and proves nothing gone; admin deletes them."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 3, more=f", owner: '{TENANT}'")
    assert zclone("run", "job.yaml", env=env).returncode == 0
    other = zclone(*ROLLBACK, env=as_account(env, "other"))
    assert other.returncode == 3, other.stderr
    assert {why.split(":")[0] for why in reasons(other.stdout).values()} == {"not seen"}
    assert deleted(env) == set()
    nodes.tamper(env["ZSTACK_API_URL"], {"delete": [uuid_of("t1")]})
    assert reasons(zclone(*ROLLBACK, env=as_account(env, "tenant")).stdout)["t1"].startswith("not seen")
    assert zclone(*ROLLBACK, env=env).returncode == 0
    assert deleted(env) == uuids(range(3))


def test_a_user_given_uuid_is_deleted_if_the_file_has_it(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """A clone under the job file's `resourceUuid` is deleted; its target then needs another uuid: exit 2."""
    env = serve(tmp_path, serve_node)
    own = "7" * 12 + "4" + "7" * 3 + "8" + "7" * 15
    write_job(tmp_path, 2, more="").write_text(
        HEAD + f"  - {{uuid: d76744cb53f9378abf42b907df3efb6e, id: t0, params: {{resourceUuid: '{own}'}}}}\n",
        encoding="utf-8",
    )
    assert zclone("run", "job.yaml", env=env).returncode == 0
    assert zclone(*ROLLBACK, env=env).returncode == 0
    assert deleted(env) == {own}
    assert zclone("run", "job.yaml", env=env).returncode == 2


async def test_a_uuid_that_only_the_manifest_has_is_left(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """Somebody else's service that a manifest claims was requested and made, and that matches: left, reported."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 1, head=HEAD.replace("tag: true\n", ""))
    path, uuid = tmp_path / "job.manifest.jsonl", "90d425a802ff44eeb530f21587633700"
    assert zclone("run", "job.yaml", env=env).returncode == 0
    with open_targets(path) as targets:
        header, digest = targets.header, targets.read(0).digest
    path.unlink()
    nodes.tamper(env["ZSTACK_API_URL"], {"make": [{"uuid": uuid, "name": "n0", "userTags": []}]})
    nodes.tamper(env["ZSTACK_API_URL"], {"change": {uuid: {"name": "n0", "requestCpu": 2}}})
    manifest, now = open_manifest(path, header), time.time()
    manifest.note(Record(State.SENT, "t0", now, 1, SOURCE, uuid, "1" * 32, digest, open_jobs=()))
    manifest.note(Record(State.CLONED, "t0", now + 60, 1, clone_uuid=uuid))
    await manifest.close(0)
    done = zclone(*ROLLBACK, env=env)
    assert (done.returncode, deleted(env)) == (3, set()), done.stderr
    assert reasons(done.stdout) == {"t0": "foreign: its uuid is neither derived nor in the job file"}


def test_rollback_needs_a_free_manifest_and_a_sufficient_rate(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """A locked manifest: 75; a rate too low for each DELETE to follow its lookup in time, or a manifest as JOB: 2."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 2)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    with (tmp_path / "job.manifest.jsonl").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert zclone(*ROLLBACK, env=env).returncode == 75
    assert zclone(*ROLLBACK, "--rate", "30/min", env=env).returncode == 2
    assert zclone("rollback", "job.manifest.jsonl", "--yes", env=env).returncode == 2
    assert deleted(env) == set()


def test_nothing_is_deleted_if_usage_cannot_be_queried(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """If the server does not say on which clones anything runs, the command fails before it deletes anything."""
    write_job(tmp_path, 2)
    rule = {"fault": "error_500", "on": "queryModelServiceInstanceGroup", "probability": 1.0}
    script = {"version": 1, "node": {"latency": [0, 0.01]}, "sources": [{"uuid": SOURCE}], "faults": [rule]}
    (tmp_path / "node.yaml").write_text(json.dumps(script), encoding="utf-8")
    env = {"ZSTACK_API_URL": serve_node("--faults", str(tmp_path / "node.yaml")), "ZSTACK_SESSION_ID": SESSION}
    assert zclone("run", "job.yaml", env=env).returncode == 0
    refused = zclone(*ROLLBACK, env=env)
    assert refused.returncode in {3, 4}, refused.stderr
    assert "instances/groups" in refused.stderr
    assert deleted(env) == set()


async def test_a_run_still_active_on_temporal_is_refused(tmp_path: Path, zclone: Run) -> None:
    """A run whose engine is Temporal, with targets that have no end: 75, and nothing is queried or deleted."""
    write_job(tmp_path, 2)
    url = "http://127.0.0.1:9/zstack"
    header = Header("j", "default", url, simulated=False, tool="t", created_at=1.0, job_file="job.yaml")
    manifest = open_manifest(tmp_path / "job.manifest.jsonl", header)
    manifest.past.remote = RemoteEngine("temporal", "localhost:7233", "default", "zclone/j/default")
    manifest.note(Record(State.SENT, "t0", 1.0, 1, resource_uuid=uuid_of("t0"), job_uuid="1" * 32, digest="d" * 32))
    await manifest.close(4)
    refused = zclone(*ROLLBACK, env={"ZSTACK_API_URL": url, "ZSTACK_SESSION_ID": SESSION})
    assert (refused.returncode, "zclone/j/default" in refused.stderr) == (75, True), refused.stderr
