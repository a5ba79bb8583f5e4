"""``zclone control`` over sockets: a running process obeys at once, and logs, records and shows the current limits."""

from __future__ import annotations

import json
import stat
import time
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from batch.manifest import Header, open_manifest, summary
from batch.manifest.kinds import RemoteEngine
from batch.manifest.schema import manifest_schema
from batch.model import Record, State
from tests import forkserver, nodes
from tests.cli.test_verify import SESSION, SOURCE, serve

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]
    Serve = Callable[..., str]

MANIFEST = "job.manifest.jsonl"
LONGEST = 120.0
"""Seconds that anything may take on a busy machine."""


def write_job(folder: Path, count: int, limits: str = "rate: 40/s, concurrency: 32") -> None:
    rows = (f"  - {{uuid: {SOURCE}, id: t{number}, params: {{name: n{number}}}}}" for number in range(count))
    head = f"version: 1\nname: j\nlimits: {{{limits}}}\ntargets:\n"
    (folder / "job.yaml").write_text(head + "\n".join(rows) + "\n", encoding="utf-8")


def start(folder: Path, env: dict[str, str]) -> AbstractContextManager[forkserver.Process[str]]:
    return forkserver.start_text(["run", "job.yaml", "--log-file", "log.jsonl"], cwd=folder, env=env)


def until(is_so: Callable[[], bool]) -> None:
    """Wait for a condition."""
    ends = time.monotonic() + LONGEST
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.05)


def calls(env: dict[str, str], start: float, end: float, *kinds: str) -> int:
    """Return how many calls (of ``kinds``) arrived in that span of the node's clock, once it is over."""
    until(lambda: nodes.ledger(env["ZSTACK_API_URL"])["now"] > end)
    found = nodes.ledger(env["ZSTACK_API_URL"])
    times = zip(found["call_times"], found["call_kinds"], strict=True)
    return sum(start <= at < end and (not kinds or kind in kinds) for at, kind in times)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    yield from (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


class Operator:
    """Sends control commands to a run."""

    def __init__(self, zclone: Run, env: dict[str, str]) -> None:
        self._zclone = zclone
        self._env = env

    def order(self, *orders: str, job: str = MANIFEST) -> tuple[float, str]:
        """Send commands; return the node's time by which they were applied, and the answer."""
        done = self._zclone("control", job, *orders)
        assert done.returncode == 0, done.stderr
        return nodes.ledger(self._env["ZSTACK_API_URL"])["now"], done.stdout.strip()


def submits(env: dict[str, str]) -> int:
    return int(nodes.ledger(env["ZSTACK_API_URL"])["calls"].get("submit", 0))


@pytest.mark.timeout(600)
def test_the_node_sees_each_command_applied_at_once(
    tmp_path: Path, zclone: Run, child_env: dict[str, str], serve_node: Serve
) -> None:
    """A run of 2,000 gets 5/s, pause, resume and 100/s: a second later its calls follow, and no clone is lost."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 2_000)
    operator = Operator(zclone, env)
    with start(tmp_path, child_env | env) as process:
        until(lambda: submits(env) > 40)
        slow, answer = operator.order("rate=5/s")
        assert answer == "5 calls/s, 32 in flight at most"
        assert 1 <= calls(env, slow + 1, slow + 7) <= 6 * 5 + 1
        paused, answer = operator.order("pause")
        assert answer == "5 calls/s, 32 in flight at most, paused"
        assert calls(env, paused + 1, paused + 4, "submit") == 0
        until(lambda: summary(tmp_path / MANIFEST).counts[State.ACCEPTED] == 0)
        counts = summary(tmp_path / MANIFEST).counts
        assert counts[State.CLONED] == submits(env)
        assert "paused, by zclone control since" in zclone("status", MANIFEST).stdout
        resumed, _ = operator.order("resume", job="job.yaml")
        assert 1 <= calls(env, resumed + 1, resumed + 4) <= 3 * 5 + 1
        fast, answer = operator.order("rate=100/s")
        assert answer == "100 calls/s, 32 in flight at most"
        assert 3 * 10 < calls(env, fast + 1, fast + 4) <= 3 * 100 + 1
        operator.order("rate=2000/s", "concurrency=64")
        assert process.wait(timeout=400) == 0
    ledger = nodes.ledger(env["ZSTACK_API_URL"])
    assert (ledger["clones_made"], ledger["duplicates"], ledger["calls"]["submit"]) == (2_000, [], 2_000)
    commands = [line["controlled"] for line in lines(tmp_path / MANIFEST) if "controlled" in line]
    assert commands == ["rate=5/s", "pause", "resume", "rate=100/s", "rate=2000/s concurrency=64"]
    logged = [line["order"] for line in lines(tmp_path / "log.jsonl") if line["event"] == "run.controlled"]
    assert logged == commands
    for line in lines(tmp_path / MANIFEST):
        jsonschema.validate(line, manifest_schema()) if "controlled" in line else None


@pytest.mark.timeout(300)
def test_a_drain_and_a_reload(tmp_path: Path, zclone: Run, child_env: dict[str, str], serve_node: Serve) -> None:
    """reload takes the file's limits and says what needs a new process; a drained run exits with 4 and nothing open."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 400, "rate: 10/s, concurrency: 4")
    operator = Operator(zclone, env)
    with start(tmp_path, child_env | env) as process:
        until(lambda: submits(env) > 5)
        (socket,) = tmp_path.glob(".zclone-*")
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert operator.order()[1] == "10 calls/s, 4 in flight at most"
        write_job(tmp_path, 400, "rate: 20/s, concurrency: 6, timeout: 5m")
        reloaded = zclone("control", MANIFEST, "reload")
        assert reloaded.stdout.strip() == "20 calls/s, 6 in flight at most"
        assert "not changed while a process runs: timeout" in reloaded.stderr
        (tmp_path / "job.yaml").write_text("version: 1\nname: j\nlimits: {rate: fast}\ntargets: []\n", encoding="utf-8")
        broken = zclone("control", MANIFEST, "reload")
        assert (broken.returncode, "job.yaml:3" in broken.stderr) == (2, True), broken.stderr
        assert operator.order()[1] == "20 calls/s, 6 in flight at most"
        assert operator.order("drain")[1].endswith(", draining")
        assert process.wait(timeout=LONGEST) == 4
    found = summary(tmp_path / MANIFEST)
    assert set(found.counts) == {State.CLONED, State.PLANNED}
    assert found.ended is not None
    assert found.ended.reason == "drained by zclone control"
    assert list(tmp_path.glob(".zclone-*")) == []


@pytest.mark.parametrize(
    "orders",
    [
        ["rate=0/s"],
        ["rate=fast"],
        ["concurrency=0"],
        ["concurrency=-1"],
        ["faster"],
        ["pause", "resume"],
        ["rate=1/s", "rate=2/s"],
        ["reload", "rate=1/s"],
    ],
    ids=" ".join,
)
def test_an_unknown_command_is_refused(orders: list[str], tmp_path: Path, zclone: Run) -> None:
    """Exit 2 and the list of commands, before any process is looked for."""
    (tmp_path / MANIFEST).touch()
    refused = zclone("control", MANIFEST, *orders)
    assert refused.returncode == 2
    assert "No such file" not in refused.stderr


async def test_no_process_to_control_is_reported(tmp_path: Path, zclone: Run) -> None:
    """No process: 2, and what to do; a run on Temporal: 2, and what sets its rate."""
    header = Header("j", "default", "http://127.0.0.1:9/zstack", simulated=False, tool="t", created_at=1.0, job_file="")
    manifest = open_manifest(tmp_path / MANIFEST, header)
    manifest.past.remote = RemoteEngine("temporal", "localhost:7233", "default", "zclone/j/default")
    manifest.note(Record(State.SENT, "t0", 1.0, 1, resource_uuid="1" * 32, job_uuid="1" * 32, digest="d" * 32))
    await manifest.flush()
    remote = zclone("control", MANIFEST, "pause", env={"ZSTACK_SESSION_ID": SESSION})
    assert (remote.returncode, "zclone worker --rate" in remote.stderr) == (2, True), remote.stderr
    await manifest.close(4)
    nobody = zclone("control", MANIFEST, "pause")
    assert (nobody.returncode, "no process is running" in nobody.stderr) == (2, True), nobody.stderr
