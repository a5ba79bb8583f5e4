"""The command against a node as operators configure it: each credential, a server without a good certificate, chaos."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme

from tests import forkserver
from tests.nodes import ledger
from tests.zstack.wire_server import SESSION as WIRE_SESSION
from tests.zstack.wire_server import Seen, WireServer, answer

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

SESSION: Final = "b86c9016b4f24953a9edefb53ca0678c"
SOURCES: Final = [f"{number:012x}4aaa8{number:015x}" for number in range(1, 25)]
NODE: Final = """
version: 1
node: {latency: [0, 0.01]}
access_keys: [{id: AKID, secret: key-secret}]
"""
CONTEXT: Final = """
current-context: lab
contexts:
  lab: {endpoint: "http://192.0.2.1:8080", username: admin, password: password}
  test: {endpoint: "%s", username: admin, password: password}
"""


def write_job(folder: Path, count: int) -> None:
    targets = "".join(f"  - {source}\n" for source in SOURCES[:count])
    text = f"version: 1\nname: job\nlimits: {{rate: 200/s, timeout: 10s, attempts: 8}}\ntargets:\n{targets}"
    (folder / "job.yaml").write_text(text, encoding="utf-8")


def records(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("env", "flags", "logins"),
    [
        ({"ZSTACK_SESSION_ID": SESSION}, (), 0),
        ({"ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD_FILE": "password.secret"}, (), 1),
        ({"ZSTACK_ACCESS_KEY_ID": "AKID", "ZSTACK_ACCESS_KEY_SECRET": "key-secret"}, (), 0),
        ({"ZSTACK_CONFIG": "contexts.secret"}, ("--context", "test"), 1),
    ],
    ids=["session", "password", "access-key", "context"],
)
def test_each_credential_clones(
    env: dict[str, str],
    flags: tuple[str, ...],
    logins: int,
    tmp_path: Path,
    zclone: Run,
    serve_node: Callable[..., str],
) -> None:
    """A session, an account, an AccessKey and a context of zstack-cli each run a job, and leave no session behind."""
    write_job(tmp_path, 3)
    (tmp_path / "node.secret").write_text(NODE, encoding="utf-8")
    url = serve_node("--faults", str(tmp_path / "node.secret"))
    (tmp_path / "password.secret").write_text("password\n", encoding="utf-8")
    (tmp_path / "password.secret").chmod(0o600)
    (tmp_path / "contexts.secret").write_text(CONTEXT % url, encoding="utf-8")
    (tmp_path / "contexts.secret").chmod(0o600)
    place = {} if flags else {"ZSTACK_API_URL": url}
    done = zclone("run", *flags, "job.yaml", env=env | place)
    assert done.returncode == 0, done.stderr
    assert "operator.warned" not in done.stderr
    seen = ledger(url)
    assert seen["clones_made"] == 3
    assert (seen["calls"].get("login", 0), seen["calls"].get("logout", 0)) == (logins, logins)
    assert seen["sessions_open"] == 1
    assert "key-secret" not in done.stderr + (tmp_path / "job.manifest.jsonl").read_text(encoding="utf-8")


def test_a_wrong_password_is_sent_once_and_nothing_else(
    tmp_path: Path, zclone: Run, serve_node: Callable[..., str]
) -> None:
    """A wrong password ends the command with 5 after one login; no clone was requested."""
    write_job(tmp_path, 3)
    url = serve_node()
    done = zclone(
        "run", "job.yaml", env={"ZSTACK_API_URL": url, "ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "wr0ng-one"}
    )
    assert done.returncode == 5
    assert "ID.1000" in done.stderr
    assert "wr0ng-one" not in done.stderr
    calls = ledger(url)["calls"]
    assert (calls["login"], calls.get("submit", 0)) == (1, 0)


def test_hints_follow_the_locale(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """ZStack's message is recorded unchanged; the hint is in the operator's language."""
    (tmp_path / "node.yaml").write_text("version: 1\nnode: {latency: [0, 0], invent_sources: false}\n", "utf-8")
    url = serve_node("--faults", str(tmp_path / "node.yaml"))
    for locale, hint in (("en_US.UTF-8", "check the uuids"), ("zh_CN.UTF-8", "请检查 UUID")):
        write_job(tmp_path, 1)
        manifest = f"{locale}.manifest.jsonl"
        env = {"ZSTACK_API_URL": url, "ZSTACK_SESSION_ID": SESSION, "LC_ALL": locale}
        done = zclone("run", "job.yaml", "--manifest", manifest, "--run", locale[:2], env=env)
        assert done.returncode == 3, done.stderr
        events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        assert hint in next(event["error"] for event in events if event["event"] == "clone.settled")
        error = records(tmp_path / manifest)[-2]["error"]
        assert "未找到" in error
        assert hint not in error


async def test_insecure_is_warned_of_and_recorded(tmp_path: Path, child_env: dict[str, str]) -> None:
    """An unknown certificate exits with 5; with --insecure the run warns, and manifest and status say so."""
    made: list[str] = []

    def handler(seen: Seen) -> bytes:
        if "actions" in seen.target:
            return answer(200, {"version": "5.5.22"})
        if seen.method == "POST":
            made.append(seen.json["params"]["resourceUuid"])
            return answer(202, {})
        return answer(200, {"inventory": {"uuid": made[-1]}} if "/api-jobs/" in seen.target else {"inventories": []})

    async def zclone(*arguments: str) -> tuple[int | None, str]:
        env = child_env | {"ZSTACK_API_URL": server.url, "ZSTACK_SESSION_ID": WIRE_SESSION}
        process = forkserver.start(arguments, cwd=tmp_path, env=env, stderr="stdout")
        output, _ = await asyncio.to_thread(process.communicate)
        return process.returncode, output.decode()

    write_job(tmp_path, 1)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    async with WireServer(handler, tls=tls) as server:
        code, output = await zclone("run", "job.yaml")
        assert code == 5
        assert "certificate was rejected" in output
        code, output = await zclone("run", "job.yaml", "--insecure")
        assert code == 0, output
        assert "certificate is NOT checked" in output
        _, status = await zclone("status", "job.manifest.jsonl")
    (started,) = [line for line in records(tmp_path / "job.manifest.jsonl") if "started" in line]
    assert "certificate is NOT checked" in started["warnings"][0]
    assert "warning   the server's certificate is NOT checked" in status


def test_a_chaos_rehearsal_survives_its_sessions(tmp_path: Path, zclone: Run) -> None:
    """A rehearsal whose node ends sessions logs in again and reaches its end, by the same command."""
    (tmp_path / "dying.yaml").write_text(
        "version: 1\npreset: chaos\nseed: 3\nfaults: [{fault: expire_sessions, requests: 4}]\n", encoding="utf-8"
    )
    write_job(tmp_path, 12)
    done = zclone("run", "--simulate=dying.yaml", "job.yaml")
    for _ in range(9):
        if done.returncode in {4, 5}:
            done = zclone("run", "--simulate=dying.yaml", "job.yaml")
    assert done.returncode == 0, done.stderr
    assert "ZSTACK_SESSION_ID" not in done.stderr
    events = records(tmp_path / "job.simulated.node.jsonl")
    assert any(event["e"] == "expire" for event in events)
    made = Counter(event["s"] for event in events if event["e"] == "clone")
    assert made == dict.fromkeys(SOURCES[:12], 1)
