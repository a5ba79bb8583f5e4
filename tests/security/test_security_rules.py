"""Rules of security that only the whole command shows; tests/README.md names the tests of all of them."""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import pytest

from batch.manifest import Header, open_manifest, rows
from batch.model import Record
from tests.conftest import ROOT, Planted, leaks
from tests.manifest.manifest_world import scan
from tests.nodes import ledger
from tests.security.hostile import hostile

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

JOB: Final = "version: 1\nname: safe\nlimits: {rate: 100/s, attempts: 1}\ntargets:\n"
SOURCES: Final = [f"{number:012x}4aaa8{number:015x}" for number in range(1, 4)]
MANIFEST: Final = "job.manifest.jsonl"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB + "".join(f"  - {source}\n" for source in SOURCES), encoding="utf-8")
    return path


def children(env: dict[str, str], *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "batch", *arguments]
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_posts(url: str) -> None:
    give_up = time.monotonic() + 200
    while not ledger(url)["calls"].get("submit"):
        assert time.monotonic() < give_up, "nothing is sent"
        time.sleep(0.02)


def test_every_form_of_a_planted_secret_is_found(planted: Planted) -> None:
    """The search after every test knows a secret plain, as SHA-512, hex, base64 of a header, url- and JSON-encoded."""
    for secret in (planted.session, planted.password, planted.key_secret):
        raw = secret.encode()
        digest = hashlib.sha512(raw).hexdigest()
        urls: tuple[str, ...] = (quote(raw, safe=""), base64.urlsafe_b64encode(raw).decode())
        header = base64.b64encode(b"OAuth " + raw).decode()
        json_escaped = "".join(f"\\u{ord(char):04x}" for char in secret)
        urls += (header, raw.hex(), raw.hex().upper(), json_escaped, *([secret[3:29]] if len(secret) > 29 else []))
        for form in (secret, digest, digest.upper(), base64.b64encode(raw).decode(), *urls, json.dumps(secret)[1:-1]):
            assert leaks(f"before {form} after".encode())
    assert not leaks(b"before and after")


@pytest.fixture
def running(serve_node: Callable[..., str], child_env: dict[str, str], job: Path, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a run that logs in with the node's own password."""
    (tmp_path / "slow.yaml").write_text("version: 1\nnode: {latency: [1, 1]}\n", encoding="utf-8")
    url = serve_node("--faults", str(tmp_path / "slow.yaml"))
    return child_env | {"ZSTACK_API_URL": url, "ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "password"}


def test_no_secret_in_any_command_line(running: dict[str, str], tmp_path: Path) -> None:
    """Neither the command nor its children show a credential to ``ps``."""
    process = children(running, "run", "job.yaml", cwd=tmp_path)
    wait_for_posts(running["ZSTACK_API_URL"])
    shown = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    process.communicate(timeout=200)
    assert shown[1:-1] == [b"-m", b"batch", b"run", b"job.yaml"]


def test_no_core_is_dumped(child_env: dict[str, str], tmp_path: Path) -> None:
    """RLIMIT_CORE is 0, soft and hard, in every command, as secrets may be in the memory of each."""
    code = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)\n"
        "sys.argv[1:] = {arguments!r}\n"
        "try: runpy.run_module('batch', run_name='__main__')\n"
        "finally: print(resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        code = code.replace("(resource.RLIM_INFINITY,) * 2", "resource.getrlimit(resource.RLIMIT_CORE)")
    for arguments in (["--version"], ["list", "none"], ["doctor"], ["validate", "none"]):
        command = [sys.executable, "-c", code.format(arguments=arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=child_env, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[-1] == "(0, 0)", done.stderr


def test_the_embedded_node_inherits_no_foreign_variable(
    child_env: dict[str, str], job: Path, tmp_path: Path, planted: Planted
) -> None:
    """The node's process gets only the variables that a Python program needs to start."""
    process = children(
        child_env | {"AWS_SECRET_ACCESS_KEY": planted.key_secret, "ZSTACK_SESSION_ID": planted.session},
        *("run", "--simulate", "job.yaml", "--rate", "1/s"),
        cwd=tmp_path,
    )
    give_up = time.monotonic() + 200
    environment = b""
    while not environment:
        assert time.monotonic() < give_up, "no node is started"
        time.sleep(0.02)
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split():
            # Between fork and exec a child still shows its parent's command line and environment.
            if b"batch.simulator" in Path(f"/proc/{child}/cmdline").read_bytes():
                environment = Path(f"/proc/{child}/environ").read_bytes()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=200)
    names = {line.partition(b"=")[0].decode() for line in environment.split(b"\0") if line}
    assert not leaks(environment)
    assert {
        name for name in names if not re.match("PATH|LANG|LC_|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHON|COVERAGE_", name)
    } == set()


@pytest.mark.parametrize("name", [None, "SIGTERM"])
def test_sessions_are_closed_after_a_signal(name: str | None, running: dict[str, str], tmp_path: Path) -> None:
    """A session opened by the command is closed at the end, also after SIGTERM; the password is not in the output."""
    url = running["ZSTACK_API_URL"]
    before = ledger(url)["sessions_open"]
    process = children(running, "run", "job.yaml", cwd=tmp_path)
    wait_for_posts(url)
    assert ledger(url)["sessions_open"] == before + 1
    if name is not None:
        process.send_signal(getattr(signal, name))
    process.communicate(timeout=200)
    assert ledger(url)["sessions_open"] == before


def test_a_hostile_server_gets_nothing_through(zclone: Run, job: Path, tmp_path: Path, planted: Planted) -> None:
    """Quoted secrets, escapes, formulas, scripts and a megabyte end as some 2 KiB of harmless text everywhere."""
    with hostile() as server:
        env = {"ZSTACK_API_URL": server.url, "ZSTACK_SESSION_ID": planted.session}
        done = zclone("run", job, "--log-file", "run.log", env=env)
    assert done.returncode == 4, done.stderr
    outputs = [done.stdout, done.stderr, (tmp_path / "run.log").read_text(encoding="utf-8")]
    for ending in ("html", "md", "csv", "xml", "json"):
        assert zclone("report", MANIFEST, "--out", f"r.{ending}").returncode == 0
    readings = (["status"], ["list"], ["list", "-o", "csv"], ["list", "-o", "json"], ["show", SOURCES[0]])
    outputs += [zclone(command, MANIFEST, *rest).stdout for command, *rest in readings]
    for text in outputs:
        assert not leaks(text.encode())
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "<script>alert" not in (tmp_path / "r.html").read_text(encoding="utf-8")
    with (tmp_path / "r.csv").open(encoding="utf-8-sig", newline="") as stream:
        assert not [cell for row in csv.reader(stream) for cell in row if cell.strip().startswith(("=", "+", "-", "@"))]
    assert max(len(row.error or "") for row in rows(tmp_path / MANIFEST)) <= 2048 + 256
    assert (tmp_path / MANIFEST).stat().st_size < 64 << 10


def test_nothing_goes_to_another_host(zclone: Run, job: Path, tmp_path: Path, planted: Planted) -> None:
    """Proxy variables, .netrc, foreign locations and cookies of the server lead no call to another host."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login eve password eve\n", encoding="utf-8")
    with hostile() as other, hostile(elsewhere=other.url) as server:
        env = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"), other.url)
        env |= {"HOME": str(tmp_path), "ZSTACK_API_URL": server.url, "ZSTACK_SESSION_ID": planted.session}
        zclone("run", job, env=env)
        assert any(line.startswith("POST") for line in server.lines)
        assert other.lines == []


def test_job_uuids_are_secrets(
    zclone: Run, job: Path, tmp_path: Path, serve_node: Callable[..., str], planted: Planted
) -> None:
    """Job uuids give anybody access to results: v4, all different, in no output but the manifest itself."""
    env = {"ZSTACK_API_URL": serve_node(), "ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "password"}
    done = zclone("run", job, "--log-file", "run.log", env=env)
    assert done.returncode == 0, done.stderr
    jobs = {line.job_uuid for line in scan(tmp_path / MANIFEST) if isinstance(line, Record) and line.job_uuid}
    assert len(jobs) == len(SOURCES)
    shown = [done.stderr, (tmp_path / "run.log").read_text(encoding="utf-8")]
    commands = (["status", MANIFEST], ["list", MANIFEST, "-o", "json"], ["show", MANIFEST, SOURCES[0]])
    shown += [zclone(*command).stdout for command in commands]
    for uuid in jobs:
        assert re.fullmatch("[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", uuid)
        assert not [text for text in shown if uuid in text]


def test_files_are_private(zclone: Run, job: Path, tmp_path: Path) -> None:
    """Under umask 000 manifest, log, node state and repaired manifest are 0600; only a report is for others too."""
    before = os.umask(0)
    try:
        assert zclone("run", "--simulate", job, "--manifest", MANIFEST, "--log-file", "run.log").returncode == 0
        assert zclone("repair", MANIFEST).returncode == 0
    finally:
        os.umask(before)
    made = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path != job}
    assert len(made) == 4
    assert {name: oct(mode) for name, mode in made.items() if mode != 0o600} == {}


def test_no_unsafe_yaml() -> None:
    """Nothing builds objects from YAML: every call that loads a tree names a safe loader."""
    for path in (ROOT / "batch").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"yaml\.(unsafe|full)_load|yaml\.(C?Loader|CUnsafeLoader|UnsafeLoader|FullLoader)", text)
        assert "yaml.load(" not in text or "(yaml.SafeLoader)" in text, path.name


def test_web_hooks_have_one_requester_and_one_address() -> None:
    """The client asks the server to call an address only if the module of ``--webhook-listen`` gave it one."""
    client = [path for path in (ROOT / "batch").rglob("*.py") if "simulator" not in path.parts]
    texts = {path.relative_to(ROOT / "batch").as_posix(): path.read_text(encoding="utf-8") for path in client}
    assert [name for name, text in texts.items() if "x-web-hook" in text.lower()] == ["zstack/client.py"]
    assert [name for name, text in texts.items() if re.search(r"(?<!self)\.web_hook = ", text)] == ["app/webhook.py"]
    assert "self.web_hook: str | None = None\n" in texts["zstack/client.py"]


@pytest.mark.parametrize("kind", ["fifo", "device", "link to a device", "link to another kind", "folder", "url"])
def test_inputs_are_regular_files(kind: str, zclone: Run, tmp_path: Path) -> None:
    """A file named by a job file must be a regular file: a pipe or device hangs nothing, a link shows no other file."""
    (tmp_path / "victim").write_text("root:x:precious\n", encoding="utf-8")
    name = {"device": "/dev/zero", "url": "file:///etc/passwd"}.get(kind, "rows.csv")
    path = tmp_path / "rows.csv"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "link to a device":
            path.symlink_to("/dev/zero")
        case "link to another kind":
            path.symlink_to("victim")
        case "folder":
            path.mkdir()
    (tmp_path / "job.yaml").write_text(f"{JOB}  - from: {name}\n", encoding="utf-8")
    done = zclone("validate", "job.yaml")
    assert done.returncode == 2
    assert "job.yaml:5:11: targets[0].from: " in done.stdout + done.stderr
    assert "precious" not in done.stdout + done.stderr


def test_an_endless_job_file_is_refused(zclone: Run) -> None:
    """A device in the place of the job file is refused, and its problem is shown without reading on."""
    assert zclone("validate", "/dev/zero").returncode == 2


def test_a_manifest_never_sets_the_endpoint(zclone: Run, job: Path, tmp_path: Path, planted: Planted) -> None:
    """A manifest that names another endpoint is refused: no call goes to either."""
    with hostile() as evil, hostile() as server:
        header = Header("safe", "default", evil.url, simulated=False, tool="zclone", created_at=time.time())
        asyncio.run(open_manifest(tmp_path / MANIFEST, header).close(0))
        done = zclone("run", job, env={"ZSTACK_API_URL": server.url, "ZSTACK_SESSION_ID": planted.session})
        assert done.returncode == 2, done.stderr
        assert evil.lines == server.lines == []
