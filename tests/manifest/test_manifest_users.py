"""The user of a manifest, and contents that no line may have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from batch.errors import ManifestError
from batch.jobfile import load
from batch.manifest import Header, open_manifest, rows, summary
from batch.manifest.kinds import AdoptedLine, RemoteEngine, StartedLine
from batch.manifest.line import Users, own_user, parse_header, seal
from batch.manifest.operations import encode_operation
from batch.manifest.records import encode_started, parse_line
from batch.model import Pins
from batch.plan import Planning
from tests.manifest.manifest_world import scan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

HEADER = Header("job", "default", "http://x/zstack", simulated=False, tool="zclone", created_at=1.0)
GOOD: dict[str, Any] = {"state": "sent", "key": "k", "at": 1790000000.5, "attempt": 1, "deadline": 1790000001.5}
SOURCE = "000000000001" + "4aaa8" + "000000000000001"


def write(path: Path, *lines: str) -> Path:
    """Write a manifest of these lines, without their closing braces, with valid checksums."""
    data, _ = seal([HEADER.body(), *(line.encode() for line in lines)], 0, batch=1)
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def record(**fields: object) -> str:
    return json.dumps(GOOD | fields, separators=(",", ":"))[:-1]


@pytest.mark.parametrize("state", ["sent", "accepted", "cloned", "failed", "uncertain", "planned"])
@pytest.mark.parametrize(
    "fields",
    [
        {"at": float("nan")},
        {"at": float("inf")},
        {"at": float("-inf")},
        {"at": -1e11},
        {"at": 1e300},
        {"at": 10**400},
        {"deadline": float("nan")},
        {"deadline": 1e12},
        {"attempt": -1},
        {"attempt": 1.5},
        {"attempt": float("nan")},
    ],
    ids=str,
)
def test_invalid_numbers_are_refused_with_their_line(state: str, fields: dict[str, object], tmp_path: Path) -> None:
    """NaN, infinity, negative attempts and absurd times end every reading with file and line, never a traceback."""
    good = record(key="another")
    path = write(tmp_path / "m", good, record(state=state, **fields), good)
    with pytest.raises(ManifestError, match="m: line 3: "):
        list(scan(path))
    if "deadline" not in fields:
        with pytest.raises(ManifestError, match="m: line 3: "):
            list(rows(path))
    if state in {"sent", "accepted", "uncertain"}:
        with pytest.raises(ManifestError, match="m: line 3: "):
            open_manifest(path, HEADER)
        with pytest.raises(ManifestError, match="m: line 3: "):
            summary(path)


@pytest.mark.parametrize("at", ["NaN", "Infinity", "-1e11", "1e300", "true", '"1"'])
def test_a_header_has_a_valid_time(at: str) -> None:
    """The first line is checked too."""
    body = HEADER.body().replace(b'"created_at":1.0', f'"created_at":{at}'.encode())
    with pytest.raises(ManifestError, match="created_at"):
        parse_header(body)


def test_a_header_of_a_clock_before_1970_is_read() -> None:
    """A run that began while the clock was wrong resumes."""
    header = replace(HEADER, created_at=-1.0)
    assert parse_header(header.body()) == header


def test_lines_of_processes_are_read_as_written() -> None:
    """A start has host and user, an adoption who adopts from whom; a start without a user is an older zclone's."""
    started = StartedLine(1.0, 7, "host", "zclone", ("w",), "alice")
    assert parse_line(encode_started(started)) == started
    remote = replace(started, remote=RemoteEngine("temporal", "127.0.0.1:7233", "default", "zclone/u/job/run"))
    assert parse_line(encode_started(remote)) == remote
    old = StartedLine(1.0, 7, "host", "zclone")
    assert parse_line(encode_started(old)) == old
    adopted = AdoptedLine("bob", "alice", 2.0)
    assert parse_line(encode_operation(adopted)) == adopted


async def test_an_adoption_is_durable(tmp_path: Path) -> None:
    """Once recorded, every later opening finds who adopted it, and from whom."""
    path = write(tmp_path / "m", started_by("mallory"))
    manifest = open_manifest(path, HEADER)
    assert manifest.past.users.is_foreign("bob")
    await manifest.adopt("bob")
    assert not manifest.past.users.is_foreign("bob")
    await manifest.close(0)
    kinds = [line for line in scan(path) if isinstance(line, StartedLine | AdoptedLine)]
    assert [getattr(line, "user", "") for line in kinds] == ["mallory", own_user(), "bob"]
    manifest = open_manifest(path, HEADER)
    assert not manifest.past.users.is_foreign("bob")
    await manifest.close(0)


def test_the_first_and_adopting_users_are_accepted() -> None:
    """The first start counts; a user who adopted it once may continue, and so may the one who began it."""
    users = Users()
    assert not users.is_foreign("bob")
    for line in (StartedLine(1.0, 7, "h", "z", (), "alice"), StartedLine(2.0, 8, "i", "z", (), "bob")):
        users.add(line)
    assert (users.begun_by, users.host) == ("alice", "h")
    assert users.is_foreign("bob")
    assert not users.is_foreign("alice")
    users.add(AdoptedLine("bob", "alice", 3.0))
    assert not users.is_foreign("bob")
    assert not users.is_foreign("alice")
    assert users.is_foreign("carol")


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, whose user is in no table."""
    monkeypatch.setattr(os, "geteuid", lambda: 654_321)
    assert own_user() == "654321"


def started_by(user: str, *, host: str = "elsewhere") -> str:
    return encode_started(StartedLine(1790000000.5, 7, host, "zclone", (), user)).decode()


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(f"version: 1\nname: job\nlimits: {{rate: 200/s}}\ntargets: [{SOURCE}]\n", encoding="utf-8")
    return path


def begun_by_another(path: Path, url: str) -> None:
    header = Header("job", "default", url, simulated=False, tool="zclone", created_at=1790000000.0)
    data, _ = seal([header.body(), started_by("mallory").encode()], 0, batch=1)
    path.write_bytes(data)
    path.chmod(0o600)


def test_a_manifest_of_another_user_is_adopted_once(
    zclone: Run, job: Path, serve_node: Callable[..., str], tmp_path: Path
) -> None:
    """Without --adopt-manifest exit 2 and no call; with it once, recorded; then without. Reading never needs it."""
    url = serve_node()
    env = {"ZSTACK_API_URL": url, "ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "password"}
    path = tmp_path / "job.manifest.jsonl"
    begun_by_another(path, url)
    for command in (("status", path), ("list", path), ("report", path, "--out", "r.json")):
        assert zclone(*command).returncode == 0
    before = path.read_bytes()
    refused = zclone("run", job, env=env)
    assert refused.returncode == 2
    assert "was started by the user mallory on elsewhere" in refused.stderr
    assert "--adopt-manifest" in refused.stderr
    assert path.read_bytes() == before
    done = zclone("run", job, "--adopt-manifest", env=env)
    assert done.returncode == 0, done.stderr
    assert [line for line in scan(path) if isinstance(line, AdoptedLine) and line.begun_by == "mallory"]
    again = zclone("run", job, env=env)
    assert again.returncode == 0, again.stderr


def test_a_finished_manifest_of_another_user_is_not_believed(
    zclone: Run, job: Path, serve_node: Callable[..., str], tmp_path: Path
) -> None:
    """Only one's own manifest is believed when it says that everything is done."""
    env = {"ZSTACK_API_URL": serve_node(), "ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "password"}
    assert zclone("run", job, env=env).returncode == 0
    path = tmp_path / "job.manifest.jsonl"
    lines = path.read_bytes().splitlines()
    bodies = [line[: line.rindex(b',"batch":')] for line in lines]
    name = f'"user":"{own_user()}"'.encode()
    data, _ = seal([body.replace(name, b'"user":"mallory"') for body in bodies], 0, batch=1)
    path.write_bytes(data)
    refused = zclone("run", job, env=env)
    assert refused.returncode == 2
    assert "mallory" in refused.stderr


CHILD = """\
import os, socket, sys
uid, host = int(sys.argv[1]), sys.argv[2]
socket.gethostname = lambda: host
os.setgroups([]); os.setgid(uid); os.setuid(uid)
from batch.cli.app import run_command
sys.exit(run_command(sys.argv[3:]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_pods_and_containers_resume_without_adoption(child_env: dict[str, str], tmp_path: Path) -> None:
    """The same number without a name on another host continues; another number has to adopt."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "job.yaml").write_text(f"version: 1\nname: job\ntargets: [{SOURCE}]\n", encoding="utf-8")

    def run(uid: int, host: str, *more: str) -> subprocess.CompletedProcess[str]:
        for path in (folder, *folder.iterdir()):
            os.chown(path, uid, uid)
        command = [sys.executable, "-c", CHILD, str(uid), host, "run", "--simulate", "job.yaml", *more]
        return subprocess.run(
            command, cwd=folder, env=child_env, capture_output=True, text=True, timeout=250, check=False
        )

    first = run(65532, "pod-1", "--deadline", "1s")
    if "Permission denied" in first.stderr or "ModuleNotFoundError" in first.stderr:
        pytest.skip("another user may not start this Python")
    second = run(65532, "pod-2")
    assert second.returncode == 0, second.stderr
    other = run(65533, "pod-3")
    assert other.returncode == 2, other.stderr
    assert "was started by the user 65532 on pod-1, and you are 65533" in other.stderr


def test_forged_pins_change_no_source(job: Path) -> None:
    """Whatever a pinned source says of its uuid, a target is cloned from the uuid in the job file."""
    other = SOURCE.replace("1", "2")
    job.write_text(
        f"version: 1\nname: job\ntargets:\n  - uuid: {SOURCE}\n    params: {{name: '${{source.uuid}}'}}\n",
        encoding="utf-8",
    )
    plan = Planning(load(job), run=None, started_at=0.0, pins=Pins({SOURCE: {"uuid": other, "name": "x"}})).plan()
    assert [clone.source_uuid for clone in plan.clones()] == [SOURCE]


def test_status_shows_what_a_query_found(zclone: Run, tmp_path: Path) -> None:
    """The sources of a ``query:`` come from the manifest once it was queried: ``status`` shows them."""
    path = write(tmp_path / "m", f'{{"pinned":{{}},"query":["type=Endpoint"],"found":["{SOURCE}"]')
    assert f"query     type=Endpoint: 1 found: {SOURCE}" in zclone("status", path).stdout
