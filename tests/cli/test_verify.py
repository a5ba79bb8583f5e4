"""``zclone verify`` over sockets: changes outside the run are reported, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest

from batch.plan import resource_uuid
from batch.report.verification import verification_schema
from tests import nodes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

SESSION: Final = "b86c9016b4f24953a9edefb53ca0678c"
SOURCE: Final = "d76744cb53f9378abf42b907df3efb6e"
TENANT: Final = "5" * 32
OTHER: Final = "6" * 32
STRANGER: Final = "90d425a802ff44eeb530f21587633700"
TWIN: Final = "90d425a802ff44eeb530f21587633701"
HEAD: Final = "version: 1\nname: j\ntag: true\nlimits: {rate: 1000/s, concurrency: 16}\ntargets:\n"


def serve(folder: Path, serve_node: Callable[..., str], **changes: object) -> dict[str, str]:
    node = {"latency": [0, 0.01], "locale": "en_US", "invent_accounts": False, "invent_sources": False} | changes
    accounts = [{"uuid": TENANT, "name": "tenant", "password": "p"}, {"uuid": OTHER, "name": "other", "password": "p"}]
    script = {"version": 1, "node": node, "accounts": accounts, "sources": [{"uuid": SOURCE}]}
    (folder / "node.yaml").write_text(json.dumps(script), encoding="utf-8")
    return {"ZSTACK_API_URL": serve_node("--faults", str(folder / "node.yaml")), "ZSTACK_SESSION_ID": SESSION}


def as_account(env: dict[str, str], name: str) -> dict[str, str]:
    return {"ZSTACK_API_URL": env["ZSTACK_API_URL"], "ZSTACK_ACCOUNT": name, "ZSTACK_PASSWORD": "p"}


def write_job(folder: Path, count: int, *, head: str = HEAD, more: str = "") -> Path:
    rows = "".join(
        f"  - {{uuid: {SOURCE}, id: t{number}, params: {{name: n{number}, requestCpu: 2}}{more}}}\n"
        for number in range(count)
    )
    (folder / "job.yaml").write_text(head + rows, encoding="utf-8")
    return folder / "job.yaml"


def uuid_of(key: str, *, generation: int = 0) -> str:
    return resource_uuid("j", "default", key, generation=generation)


def verify(zclone: Run, *arguments: str, env: dict[str, str], exits: int) -> dict[str, Any]:
    done = zclone("verify", "job.yaml", "-o", "json", *arguments, env=env)
    assert done.returncode == exits, done.stderr + done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(found, verification_schema())
    assert found["exit_code"] == exits
    return found


def fields_by_finding(found: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Return the fields of each finding by verdict and key."""
    return {(one["verdict"], one["key"]): [field["field"] for field in one["differences"]] for one in found["findings"]}


SEVEN: Final = {
    ("drifted", "t3"): ["requestCpu"],
    ("drifted", "t7"): ["name"],
    ("drifted", "t11"): ["userTags"],
    ("missing", "t20"): [],
    ("missing", "t199"): [],
    ("extra", "nobody"): [],
    ("duplicate", "t42"): [],
}


def tamper_seven(url: str) -> None:
    """Three fields changed, two clones deleted, one service with its own key, one with the tag of another clone."""
    nodes.tamper(
        url,
        {
            "change": {uuid_of("t3"): {"requestCpu": 3}, uuid_of("t7"): {"name": "renamed"}},
            "tags": {uuid_of("t11"): ["somebody's"]},
            "delete": [uuid_of("t20"), uuid_of("t199")],
            "make": [
                {"uuid": STRANGER, "name": "x", "source": SOURCE, "userTags": ["zclone::j::default::nobody"]},
                {"uuid": TWIN, "name": "y", "source": SOURCE, "userTags": ["zclone::j::default::t42"]},
            ],
        },
    )


@pytest.mark.timeout(400)
def test_exactly_the_changes_are_reported(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """Of 200 tagged clones three drifted, two are missing, one service is extra and one a duplicate: these seven."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 200)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    clean = verify(zclone, env=env, exits=0)
    assert (clean["counts"]["in-sync"], clean["findings"]) == (200, [])
    tamper_seven(env["ZSTACK_API_URL"])
    found = verify(zclone, env=env, exits=3)
    assert fields_by_finding(found) == SEVEN
    assert found["counts"]["in-sync"] == 195
    shown = zclone("verify", "job.yaml", env=env)
    assert shown.returncode == 3
    lines = shown.stdout.splitlines()
    assert lines[0] == "j, run default: 200 targets: 195 in-sync, 3 drifted, 2 missing, 1 duplicate, 1 extra"
    assert len(lines) == 8
    assert any("t3" in line and "requestCpu: 2 -> 3" in line for line in lines)
    reopen_and_mend(zclone, env)
    proven = zclone("verify", "job.yaml", "--proof", "p.json", env=env)
    assert (proven.returncode, proven.stdout.splitlines()) == (0, ["j, run default: 200 targets: 200 in-sync"])
    held = zclone("verify", "--check", "p.json", "job.manifest.jsonl")
    assert (held.returncode, "p.json holds: j, run default" in held.stdout) == (0, True)
    data = bytearray((tmp_path / "job.manifest.jsonl").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "job.manifest.jsonl").write_bytes(data)
    broken = zclone("verify", "--check", "p.json", "job.manifest.jsonl")
    assert (broken.returncode, "line" in broken.stderr) == (3, True)


def reopen_and_mend(zclone: Run, env: dict[str, str]) -> None:
    """Let the run recreate the two missing clones, and fix the other five outside the run."""
    unsaid = zclone("verify", "job.yaml", "--reopen", env=env)
    assert (unsaid.returncode, "add --yes" in unsaid.stderr, "missing" in unsaid.stdout) == (2, True, True)
    reopening = zclone("verify", "job.yaml", "--reopen", "--yes", env=env)
    assert (reopening.returncode, "2 targets are undone; next: zclone run job.yaml" in reopening.stderr) == (3, True)
    assert "next      zclone run job.yaml" in zclone("status", "job.manifest.jsonl").stdout
    undone = verify(zclone, env=env, exits=3)
    assert (undone["counts"]["undone"], undone["counts"]["missing"]) == (2, 0)
    again = zclone("run", "job.yaml", env=env)
    assert (again.returncode, "200 of 200 targets cloned" in again.stderr) == (0, True), again.stderr
    shown = zclone("show", "job.manifest.jsonl", "t20").stdout
    assert "parameters, by job.yaml, as they were sent:" in shown
    made = {row["uuid"] for row in nodes.ledger(env["ZSTACK_API_URL"])["clones"]}
    assert {uuid_of("t20", generation=1), uuid_of("t199", generation=1)} <= made
    assert len(made) == 202
    nodes.tamper(
        env["ZSTACK_API_URL"],
        {
            "change": {uuid_of("t3"): {"requestCpu": 2}, uuid_of("t7"): {"name": "n7"}},
            "tags": {uuid_of("t11"): ["zclone::j::default::t11"]},
            "delete": [STRANGER, TWIN],
        },
    )


def test_an_unfinished_run_is_open(
    tmp_path: Path, zclone: Run, child_env: dict[str, str], serve_node: Callable[..., str]
) -> None:
    """For a run killed with clones in flight verify exits with 4, reports none as missing, and says how to continue."""
    env = serve(tmp_path, serve_node, latency=[0, 8])
    write_job(tmp_path, 40, head=HEAD.replace("16", "40"))
    process = subprocess.Popen(
        [sys.executable, "-m", "batch", "run", "job.yaml", "--log-format", "json"],
        cwd=tmp_path,
        env=child_env | env,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    manifest = tmp_path / "job.manifest.jsonl"
    while not manifest.exists() or '"state":"cloned"' not in manifest.read_text(encoding="utf-8"):
        assert process.stderr.readline(), "the run ended"
    process.kill()
    process.communicate(timeout=200)
    found = verify(zclone, env=env, exits=4)
    assert found["counts"]["missing"] == 0
    assert found["counts"]["open"] >= 1
    # What settled just before the kill may not be recorded yet.
    recorded = manifest.read_text(encoding="utf-8").count('"state":"cloned"')
    assert found["counts"]["in-sync"] == recorded > 0
    assert found["counts"]["open"] + found["counts"]["in-sync"] == 40
    assert "next, for what is open: zclone run job.yaml" in zclone("verify", "job.yaml", env=env).stdout
    before = (tmp_path / "job.manifest.jsonl").read_bytes()
    refused = zclone("verify", "job.yaml", "--reopen", "--yes", env=env)
    assert (refused.returncode, "nothing is recorded while clones are open" in refused.stderr) == (4, True)
    assert (tmp_path / "job.manifest.jsonl").read_bytes() == before


def test_clones_of_another_account_are_unknown(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """Clones that were given away are unknown to accounts that cannot see them, and in sync for admin."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 5, more=f", owner: '{TENANT}'")
    assert zclone("run", "job.yaml", env=env).returncode == 0
    found = verify(zclone, env=as_account(env, "other"), exits=4)
    assert (found["counts"]["unknown"], found["counts"]["missing"], found["is_admin"]) == (5, 0, False)
    assert verify(zclone, env=env, exits=0)["counts"]["in-sync"] == 5
    # The manifest alone does not say which clones have a new owner.
    alone = zclone("verify", "job.manifest.jsonl", "-o", "json", env=as_account(env, "other"))
    assert (alone.returncode, json.loads(alone.stdout)["counts"]["unknown"]) == (4, 5)


def test_missing_is_reported_only_to_an_account_that_would_see_it(
    tmp_path: Path, zclone: Run, serve_node: Callable[..., str]
) -> None:
    """A missing clone is missing for admin and its maker, and unknown for any other account."""
    env = serve(tmp_path, serve_node)
    tenant = as_account(env, "tenant")
    write_job(tmp_path, 3)
    assert zclone("run", "job.yaml", env=tenant).returncode == 0
    nodes.tamper(env["ZSTACK_API_URL"], {"delete": [uuid_of("t1")]})
    expected: dict[tuple[str, str], list[str]] = {("missing", "t1"): []}
    assert fields_by_finding(verify(zclone, env=tenant, exits=3)) == expected
    assert fields_by_finding(verify(zclone, env=env, exits=3)) == expected
    other = verify(zclone, env=as_account(env, "other"), exits=4)
    assert (other["counts"]["unknown"], other["counts"]["missing"]) == (3, 0)
    assert other["account"] == OTHER


def test_owner_and_shares_are_compared(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """An owner or a share that differs from the job is a drift for admin; others do not see the shares."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 2, more=f", owner: '{TENANT}', share_with: ['{OTHER}']")
    assert zclone("run", "job.yaml", env=env).returncode == 0
    nodes.tamper(env["ZSTACK_API_URL"], {"owners": {uuid_of("t0"): OTHER}})
    found = verify(zclone, env=env, exits=3)
    assert [(one["key"], one["differences"]) for one in found["findings"]] == [
        ("t0", [{"field": "owner", "wanted": TENANT, "found": OTHER}])
    ]
    seen = verify(zclone, env=as_account(env, "other"), exits=3)
    assert seen["not_shown"] == {"share_with": 2}


def test_an_edited_target_is_compared_with_the_file_as_it_is(
    tmp_path: Path, zclone: Run, serve_node: Callable[..., str]
) -> None:
    """An edited target is marked, and compared with the current file."""
    env = serve(tmp_path, serve_node)
    job = write_job(tmp_path, 3)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    text = job.read_text(encoding="utf-8").replace("name: n1, requestCpu: 2", "name: n1, requestCpu: 4")
    job.write_text(text, encoding="utf-8")
    found = verify(zclone, env=env, exits=3)
    assert [(one["key"], one["verdict"], one["edited"]) for one in found["findings"]] == [("t1", "drifted", True)]
    nodes.tamper(env["ZSTACK_API_URL"], {"change": {uuid_of("t1"): {"requestCpu": 4}}})
    found = verify(zclone, env=env, exits=0)
    assert (found["edited"], found["findings"]) == (1, [])


def test_a_field_the_server_never_shows_has_no_verdict(
    tmp_path: Path, zclone: Run, serve_node: Callable[..., str]
) -> None:
    """A field that no inventory has is not shown; one that another clone's has is null, and so a drift."""
    env = serve(tmp_path, serve_node, version="5.3.30")
    job = write_job(tmp_path, 3)
    text = job.read_text(encoding="utf-8")
    job.write_text(text.replace("requestCpu: 2", "requestCpu: 2, description: d"), encoding="utf-8")
    assert zclone("run", "job.yaml", env=env).returncode == 0
    job.write_text(text.replace("requestCpu: 2", "requestCpu: 2, supportDistributed: true"), encoding="utf-8")
    assert verify(zclone, env=env, exits=0)["not_shown"] == {"supportDistributed": 3}
    job.write_text(text.replace("requestCpu: 2", "requestCpu: 2, description: d"), encoding="utf-8")
    nodes.tamper(env["ZSTACK_API_URL"], {"change": {uuid_of("t1"): {"description": None}}})
    found = verify(zclone, env=env, exits=3)
    assert [(one["key"], one["differences"]) for one in found["findings"]] == [
        ("t1", [{"field": "description", "wanted": "d", "found": None}])
    ]


def test_other_ends_are_listed_by_state(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """A failed target is reported with its error, and counts as 3."""
    env = serve(tmp_path, serve_node)
    job = write_job(tmp_path, 2)
    bad = f"  - {{uuid: '{'9' * 32}', id: bad}}\n"
    job.write_text(job.read_text(encoding="utf-8") + bad, encoding="utf-8")
    assert zclone("run", "job.yaml", env=env).returncode == 3
    found = verify(zclone, env=env, exits=3)
    assert fields_by_finding(found) == {("failed", "bad"): []}
    assert "SYS.1003" in found["findings"][0]["detail"]


def test_a_manifest_alone_is_compared_by_existence_and_name(
    tmp_path: Path, zclone: Run, serve_node: Callable[..., str]
) -> None:
    """Without its job file a run is verified from the manifest alone: whether each clone exists, and has its name."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 4).rename(tmp_path / "moved.yaml")
    assert zclone("run", "moved.yaml", env=env).returncode == 0
    (tmp_path / "moved.yaml").unlink()
    changes = {uuid_of("t0"): {"name": "renamed"}, uuid_of("t1"): {"requestCpu": 7}}
    nodes.tamper(env["ZSTACK_API_URL"], {"change": changes, "delete": [uuid_of("t2")]})
    done = zclone("verify", "moved.manifest.jsonl", "-o", "json", env=env)
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert fields_by_finding(found) == {("drifted", "t0"): ["name"], ("missing", "t2"): []}
    assert found["has_intent"] is False


def test_the_manifest_of_another_job_or_server_is_refused(
    tmp_path: Path, zclone: Run, serve_node: Callable[..., str]
) -> None:
    """A job file of another name, another endpoint and a run without a manifest exit with 2 and name both sides."""
    env = serve(tmp_path, serve_node)
    job = write_job(tmp_path, 1)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    other = zclone("verify", "job.yaml", env=env | {"ZSTACK_API_URL": "http://127.0.0.1:9/zstack"})
    assert (other.returncode, "the settings name 'http://127.0.0.1:9/zstack'" in other.stderr) == (2, True)
    unknown = zclone("verify", "job.yaml", "--run", "other", env=env)
    assert (unknown.returncode, "no run other" in unknown.stderr) == (2, True)
    job.write_text(job.read_text(encoding="utf-8").replace("name: j\n", "name: k\n"), encoding="utf-8")
    renamed = zclone("verify", "job.yaml", "--manifest", "job.manifest.jsonl", env=env)
    assert (renamed.returncode, "is of the job 'j'" in renamed.stderr) == (2, True)
    both = zclone("verify", "job.manifest.jsonl", "--run", "default", env=env)
    assert (both.returncode, "with a job file" in both.stderr) == (2, True)


def test_a_rehearsal_is_verified_on_its_own_node(tmp_path: Path, zclone: Run) -> None:
    """`verify --simulate` queries the embedded node of the rehearsal; without it a rehearsal is no run."""
    write_job(tmp_path, 3)
    assert zclone("run", "job.yaml", "--simulate").returncode == 0
    found = verify(zclone, "--simulate", env={}, exits=0)
    assert (found["counts"]["in-sync"], found["endpoint"]) == (3, "embedded node")
    refused = zclone("verify", "job.yaml")
    assert (refused.returncode, "--simulate" in refused.stderr) == (2, True)


def test_verify_beside_a_running_process_needs_a_rate(
    tmp_path: Path, zclone: Run, child_env: dict[str, str], serve_node: Callable[..., str]
) -> None:
    """While a process runs, verify without --rate exits with 75; with it, the sum of both is printed."""
    env = serve(tmp_path, serve_node, latency=[20, 20])
    write_job(tmp_path, 3, head=HEAD.replace("1000/s", "30/s"))
    process = subprocess.Popen(
        [sys.executable, "-m", "batch", "run", "job.yaml"],
        cwd=tmp_path,
        env=child_env | env,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        while "run.started" not in process.stderr.readline():
            assert process.poll() is None
        refused = zclone("verify", "job.yaml", env=env)
        assert (refused.returncode, "30/s" in refused.stderr, refused.stdout) == (75, True, "")
        beside = zclone("verify", "job.yaml", "--rate", "5/s", env=env)
        assert beside.returncode == 4, beside.stderr
        assert "of this one up to 35/s" in beside.stderr
    finally:
        process.kill()
        process.communicate(timeout=200)


def test_a_given_uuid_is_not_used_twice(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """A target whose own `resourceUuid` was undone is a problem of the plan, with its place, until it has another."""
    env = serve(tmp_path, serve_node)
    job = write_job(tmp_path, 2)
    given = "90d425a802ff44eeb530f215876337aa"
    text = job.read_text(encoding="utf-8").replace("name: n1,", f"name: n1, resourceUuid: {given},")
    job.write_text(text, encoding="utf-8")
    assert zclone("run", "job.yaml", env=env).returncode == 0
    nodes.tamper(env["ZSTACK_API_URL"], {"delete": [given]})
    assert zclone("verify", "job.yaml", "--reopen", "--yes", env=env).returncode == 3
    refused = zclone("run", "job.yaml", env=env)
    assert refused.returncode == 2
    assert "job.yaml:7:" in refused.stderr
    assert "params.resourceUuid: the clone of this uuid was undone" in refused.stderr
    job.write_text(text.replace(f" resourceUuid: {given},", ""), encoding="utf-8")
    done = zclone("run", "job.yaml", env=env)
    assert done.returncode == 0, done.stderr
    assert verify(zclone, env=env, exits=0)["counts"]["in-sync"] == 2


def check_proof(zclone: Run, manifest: str) -> str:
    done = zclone("verify", "--check", "p.json", manifest)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_proof_holds_for_every_verdict(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """A target added to the file since is open, and tags that may not be queried are unknown: the proof says both."""
    env = serve(tmp_path, serve_node)
    node = json.loads((tmp_path / "node.yaml").read_text(encoding="utf-8"))
    node["accounts"][0]["denied"] = ["QueryUserTag"]
    (tmp_path / "node.yaml").write_text(json.dumps(node), encoding="utf-8")
    env["ZSTACK_API_URL"] = serve_node("--faults", str(tmp_path / "node.yaml"))
    tenant = as_account(env, "tenant")
    write_job(tmp_path, 3)
    for shard in ("0/2", "1/2"):
        assert zclone("run", "job.yaml", "--shard", shard, env=tenant).returncode == 0
    parts = [f"job.shard-{number}-of-2.manifest.jsonl" for number in (0, 1)]
    assert zclone("merge", *parts, "--out", "all.jsonl").returncode == 0
    shown = zclone("verify", "job.yaml", "--manifest", "all.jsonl", "--proof", "p.json", env=tenant)
    assert (shown.returncode, "(tags of the run)" in shown.stdout) == (4, True)
    assert shown.stdout.startswith("j, run default: 3 targets: 4 unknown\n")
    assert "4 unknown" in check_proof(zclone, "all.jsonl")
    write_job(tmp_path, 5)
    assert verify(zclone, "--manifest", "all.jsonl", "--proof", "p.json", env=env, exits=4)["counts"]["open"] == 2
    assert "3 in-sync, 2 open" in check_proof(zclone, "all.jsonl")


def test_a_recreated_clone_is_handed_over_again(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """A clone that is made again is given to its owner like the first one."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 2, more=f", owner: '{TENANT}'")
    assert zclone("run", "job.yaml", env=env).returncode == 0
    nodes.tamper(env["ZSTACK_API_URL"], {"delete": [uuid_of("t1")]})
    assert zclone("verify", "job.yaml", "--reopen", "--yes", env=env).returncode == 3
    done = zclone("run", "job.yaml", env=env)
    assert (done.returncode, "2 of 2 clones handed over" in done.stderr) == (0, True), done.stderr
    owners = {row["uuid"]: row["owner"] for row in nodes.ledger(env["ZSTACK_API_URL"])["clones"] if not row["deleted"]}
    assert owners == dict.fromkeys([uuid_of("t0"), uuid_of("t1", generation=1)], TENANT)
    assert verify(zclone, env=env, exits=0)["counts"]["in-sync"] == 2


def test_a_locked_manifest_is_not_reopened(
    tmp_path: Path, zclone: Run, child_env: dict[str, str], serve_node: Callable[..., str]
) -> None:
    """While a process runs, nothing is recorded beside it, at any rate: exit code 75."""
    env = serve(tmp_path, serve_node, latency=[20, 20])
    write_job(tmp_path, 1)
    process = subprocess.Popen(
        [sys.executable, "-m", "batch", "run", "job.yaml"],
        cwd=tmp_path,
        env=child_env | env,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        while "run.started" not in process.stderr.readline():
            assert process.poll() is None
        refused = zclone("verify", "job.yaml", "--reopen", "--yes", "--rate", "5/s", env=env)
        assert (refused.returncode, "another process holds this manifest" in refused.stderr) == (75, True)
    finally:
        process.kill()
        process.communicate(timeout=200)


def test_a_shard_is_verified_as_that_part_only(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """The tags of other shards are not extra, their targets are not open, and the output says that it is a part."""
    env = serve(tmp_path, serve_node)
    job = write_job(tmp_path, 4)
    # No tag can hold these keys: hashes stand for them.
    hashed = "".join(f"  - {{uuid: {SOURCE}, id: 'h{number}\U0001f600'}}\n" for number in range(4))
    job.write_text(job.read_text(encoding="utf-8") + hashed, encoding="utf-8")
    for shard in ("0/2", "1/2"):
        assert zclone("run", "job.yaml", "--shard", shard, env=env).returncode == 0
    counts = []
    for shard in ("0/2", "1/2"):
        manifest = f"job.shard-{shard.replace('/', '-of-')}.manifest.jsonl"
        found = verify(zclone, "--manifest", manifest, env=env, exits=0)
        assert (found["shard"], found["findings"]) == (shard, [])
        counts.append(found["counts"]["in-sync"])
        shown = zclone("verify", manifest, env=env)
        assert (shown.returncode, f"shard {shard} only: " in shown.stdout) == (0, True)
    assert (sum(counts), min(counts) > 0) == (8, True)
    nodes.tamper(
        env["ZSTACK_API_URL"],
        {"make": [{"uuid": STRANGER, "name": "x", "source": SOURCE, "userTags": ["zclone::j::default::nobody"]}]},
    )
    codes = [
        zclone("verify", "job.yaml", "--manifest", f"job.shard-{number}-of-2.manifest.jsonl", env=env).returncode
        for number in (0, 1)
    ]
    assert sorted(codes) == [0, 3]
