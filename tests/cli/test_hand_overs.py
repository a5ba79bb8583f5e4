"""Hand-overs and waves, end to end over sockets: killed, refused, fixed, held back."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest

from batch.app.schemas import log_schema, plan_schema
from tests import nodes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

SESSION: Final = "b86c9016b4f24953a9edefb53ca0678c"
SOURCE: Final = "d76744cb53f9378abf42b907df3efb6e"
TENANTS: Final = 6
PARTNER: Final = "f" * 32
HEAD: Final = "version: 1\nname: j\nlimits: {rate: 1000/s, concurrency: 3}\ntargets:\n"


def account(number: int) -> str:
    return f"{number + 1:032x}"


def ledger(env: dict[str, str]) -> Any:
    return nodes.ledger(env["ZSTACK_API_URL"])


def owners(env: dict[str, str]) -> dict[str, tuple[int, list[str]]]:
    """By owner: how often its clone was handed over, and with whom it is shared."""
    made = ledger(env)["clones"]
    assert len(made) == len({row["owner"] for row in made})
    return {row["owner"]: (row["given"], row["shared"]) for row in made}


def write_job(folder: Path, *, share: str = "", count: int = TENANTS) -> Path:
    rows = "".join(
        f"  - {{uuid: {SOURCE}, id: t{number}, owner: '{account(number)}'{share}}}\n" for number in range(count)
    )
    (folder / "job.yaml").write_text(HEAD + rows, encoding="utf-8")
    return folder / "job.yaml"


def serve(
    folder: Path, serve_node: Callable[..., str], *accounts: dict[str, object], faults: str = "[]"
) -> dict[str, str]:
    (folder / "node.yaml").write_text(
        "version: 1\nnode: {latency: [0, 0.01], invent_accounts: false, locale: en_US}\n"
        f"accounts: {json.dumps(accounts)}\nsources: [{{uuid: {SOURCE}}}]\nfaults: {faults}\n",
        encoding="utf-8",
    )
    return {"ZSTACK_API_URL": serve_node("--faults", str(folder / "node.yaml")), "ZSTACK_SESSION_ID": SESSION}


def tenants(**changes: object) -> list[dict[str, object]]:
    known: list[dict[str, object]] = [{"uuid": account(number), "name": f"t{number}"} for number in range(TENANTS)]
    return [known[0] | changes, *known[1:], {"uuid": PARTNER, "name": "partner"}]


def test_killed_between_clone_and_hand_over(
    tmp_path: Path, zclone: Run, child_env: dict[str, str], serve_node: Callable[..., str]
) -> None:
    """After kill -9 during the hand-overs the same command does the rest: every clone is handed over exactly once."""
    env = serve(tmp_path, serve_node, *tenants())
    job = write_job(tmp_path, share=f", share_with: [{PARTNER}]")
    process = subprocess.Popen(
        [sys.executable, "-m", "batch", "run", str(job)],
        cwd=tmp_path,
        env=child_env | env,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "clone.handed_over" not in process.stderr.readline():
        assert process.poll() is None
    process.kill()
    process.communicate(timeout=200)
    killed = zclone("status", "job.manifest.jsonl")
    assert f"cloned            {TENANTS}" in killed.stdout
    assert f"of {TENANTS} clones handed over" in killed.stdout
    assert "next      zclone run" in killed.stdout
    done = zclone("run", job, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"{TENANTS} of {TENANTS} targets cloned; {TENANTS} of {TENANTS} clones handed over") == 1
    assert owners(env) == {account(number): (1, [PARTNER]) for number in range(TENANTS)}
    calls = ledger(env)["calls"]
    assert zclone("run", job, env=env).returncode == 0
    assert ledger(env)["calls"] == calls


@pytest.mark.slow
def test_a_lost_answer_to_a_hand_over(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """After a hand-over without an answer the server is queried for the owner: no hand-over fails."""
    faults = "[{fault: row_missing, on: owner, requests: 1}]"
    env = serve(tmp_path, serve_node, *tenants(), faults=faults)
    done = zclone("run", write_job(tmp_path, count=2), env=env)
    assert done.returncode == 0, done.stderr
    assert {given for given, _ in owners(env).values()} == {1}


def test_a_refused_hand_over_is_reported_and_retried(
    tmp_path: Path, zclone: Run, serve_node: Callable[..., str]
) -> None:
    """The clone stays cloned, the exit code is 3, lists show it; once the owner is fixed the same command ends."""
    env = serve(tmp_path, serve_node, *tenants(quota=0))
    job = write_job(tmp_path)
    planned = zclone("plan", job, "--details", env=env)
    assert planned.returncode == 0, planned.stderr
    assert "does not exist" not in planned.stderr
    assert "(once it is made)\n" in planned.stdout
    refused = zclone("run", job, "--log-format", "json", "--log-file", "log.jsonl", env=env)
    assert refused.returncode == 3, refused.stderr
    assert f"{TENANTS} of {TENANTS} targets cloned; {TENANTS - 1} of {TENANTS} clones handed over, 1 refused" in (
        refused.stderr
    )
    assert "1 cloned with ID.1003: hand-over refused: " in refused.stderr
    assert "fix what was refused, then: zclone run" in refused.stderr
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        jsonschema.validate(line, log_schema())
    assert [line["key"] for line in lines if line["event"] == "clone.not_handed_over"] == ["t0"]
    (row,) = json.loads(zclone("list", "job.manifest.jsonl", "--code", "ID.1003", "-o", "json").stdout)
    assert (row["key"], row["state"], len(row["clone_uuid"])) == ("t0", "cloned", 32)
    again = zclone("run", job, env=env)
    assert again.returncode == 3
    job.write_text(job.read_text(encoding="utf-8").replace(account(0), PARTNER), encoding="utf-8")
    mended = zclone("run", job, env=env)
    assert mended.returncode == 0, mended.stderr
    assert owners(env) == {(PARTNER if number == 0 else account(number)): (1, []) for number in range(TENANTS)}
    assert ledger(env)["clones_made"] == TENANTS


def test_without_the_right_to_hand_over(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """A non-admin account is warned at plan; the clone is made and shared, the run exits with 3, admin finishes it."""
    env = serve(tmp_path, serve_node, *tenants(password="p"))
    login = {"ZSTACK_API_URL": env["ZSTACK_API_URL"], "ZSTACK_ACCOUNT": "t0", "ZSTACK_PASSWORD": "p"}
    rows = f"  - {{uuid: {SOURCE}, owner: '{account(1)}', share_with: ['{PARTNER}']}}\n"
    (tmp_path / "job.yaml").write_text(HEAD + rows, encoding="utf-8")
    planned = zclone("plan", "job.yaml", "-o", "json", env=login)
    assert planned.returncode == 0, planned.stderr
    assert "warning: this account may not call APIChangeResourceOwnerMsg" in planned.stderr
    assert "APIShareResourceMsg" not in planned.stderr
    document = json.loads(planned.stdout)
    jsonschema.Draft7Validator(plan_schema()).validate(document)
    (clone,) = document["clones"]
    assert (clone["owner"], clone["share_with"]) == (account(1), [PARTNER])
    stopped = zclone("run", "job.yaml", env=login)
    assert stopped.returncode == 3, stopped.stderr
    assert f"stopped early: hand-over of {SOURCE}: ID.1002: " in stopped.stderr
    assert owners(env) == {account(0): (0, [PARTNER])}
    done = zclone("run", "job.yaml", env=env)
    assert done.returncode == 0, done.stderr
    assert owners(env) == {account(1): (1, [PARTNER])}
    (tmp_path / "job.yaml").write_text(HEAD + rows.replace(account(1), "c" * 32), encoding="utf-8")
    planned = zclone("plan", "job.yaml", env=env)
    assert planned.returncode == 2
    assert f"targets[0].owner: the account {'c' * 32} does not exist on the server" in planned.stderr
    assert PARTNER not in planned.stderr


def test_a_rehearsal_hands_over_too(tmp_path: Path, zclone: Run) -> None:
    """A rehearsal makes up the accounts like the sources, and only the first run has something to do."""
    job = write_job(tmp_path, count=2)
    done = zclone("run", "--simulate", "calm", job)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 clones handed over" in done.stderr
    assert "clone.handed_over" not in zclone("run", "--simulate", "calm", job).stderr


def test_waves_are_held_back_by_a_failure(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """A failing wave ends the run with exit code 3 and its reason; fixed and retried, the rest follows."""
    sources = [f"{number:012x}4aaa8{number:015x}" for number in range(12)]
    known = json.dumps([{"uuid": uuid} for uuid in sources])
    (tmp_path / "node.yaml").write_text(
        f"version: 1\nnode: {{latency: [0, 0.01], invent_sources: false}}\nsources: {known}\n", encoding="utf-8"
    )
    env = {"ZSTACK_API_URL": serve_node("--faults", str(tmp_path / "node.yaml")), "ZSTACK_SESSION_ID": SESSION}
    job = tmp_path / "job.yaml"
    rows = [*sources[:3], "e" * 32, *sources[3:]]
    text = "version: 1\nname: j\nlimits: {rate: 1000/s, waves: [1, 4, 50%, rest]}\ntargets:\n"
    job.write_text(text + "".join(f"  - {{uuid: {uuid}, id: r{n}}}\n" for n, uuid in enumerate(rows)), encoding="utf-8")
    planned = zclone("plan", job)
    assert "waves of 1, 4, 7, 1" in planned.stdout
    held = zclone("run", job, env=env)
    assert held.returncode == 3, held.stderr
    assert "wave 3 of 4 is not started: 1 of 5 settled clones failed: fix them, then zclone retry" in held.stderr
    assert ledger(env)["clones_made"] == 4
    again = zclone("run", job, env=env)
    assert (again.returncode, ledger(env)["clones_made"]) == (3, 4)
    job.write_text(job.read_text(encoding="utf-8").replace("e" * 32, sources[0]), encoding="utf-8")
    mended = zclone("retry", job, env=env)
    assert mended.returncode == 0, mended.stderr
    assert ledger(env)["clones_made"] == 13


def test_a_clone_is_handed_over_under_its_actual_uuid(
    tmp_path: Path, zclone: Run, serve_node: Callable[..., str]
) -> None:
    """On a server that chooses its own uuids the clone is handed over, not the requested uuid."""
    env = serve(tmp_path, serve_node, *tenants())
    script = (tmp_path / "node.yaml").read_text(encoding="utf-8")
    (tmp_path / "own.yaml").write_text(
        script.replace("node: {", "node: {honours_resource_uuid: false, "), encoding="utf-8"
    )
    env["ZSTACK_API_URL"] = serve_node("--faults", str(tmp_path / "own.yaml"))
    done = zclone("run", "--at-most-once", write_job(tmp_path, count=2), env=env)
    assert done.returncode == 0, done.stderr
    assert owners(env) == {account(0): (1, []), account(1): (1, [])}
