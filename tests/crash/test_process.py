"""The process and its environment: full disks, few descriptors, stopped clocks, signals, many runners at once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from batch.manifest import rows
from batch.model import Record
from tests.crash.limits import limited, mount, small_disk
from tests.crash.stage import ZCLONE, NodeProcess, environment, finish, node, write_job
from tests.manifest.manifest_world import scan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = ["run", "job.yaml", "--progress", "none"]
MANIFEST = "job.manifest.jsonl"
QUICK = "version: 1\nnode: {latency: [0, 0.01]}\n"
SLOW = "version: 1\nnode: {latency: [4, 4]}\n"


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NodeProcess]:
    """A node whose jobs take no time, or as the parameter says."""
    (tmp_path / "node.yaml").write_text(getattr(request, "param", QUICK), encoding="utf-8")
    with node("node.yaml", cwd=tmp_path) as running:
        yield running


def start(command: list[str], folder: Path, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=folder, env=environment(url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(command: list[str], folder: Path, url: str) -> tuple[int, str]:
    process = start(command, folder, url)
    _, output = process.communicate(timeout=250)
    return process.returncode, output


def posts(ledger: dict[str, Any]) -> list[float]:
    return [at for at, kind in zip(ledger["call_times"], ledger["call_kinds"], strict=True) if kind == "submit"]


def wait_for_posts(served: NodeProcess, count: int) -> None:
    """Return once the node got ``count`` POSTs."""
    give_up = time.monotonic() + 200
    while served.ledger()["calls"].get("submit", 0) < count:
        assert time.monotonic() < give_up, "the command sends nothing"
        time.sleep(0.02)


def check(served: NodeProcess, manifest: Path, count: int) -> None:
    """Compare ledger and manifest: none duplicated, none lost, none made up."""
    made = {clone["uuid"]: clone["source"] for clone in served.ledger()["clones"]}
    assert sorted(made.values()) == [f"{number:032x}" for number in range(1, count + 1)]
    assert {row.clone_uuid: row.source_uuid for row in rows(manifest)} == made


def check_nothing_unrecorded(served: NodeProcess, manifest: Path) -> None:
    """Check that every POST has its record."""
    recorded = {record.key for record in scan(manifest) if isinstance(record, Record) and record.attempt}
    assert set(served.ledger()["posts_per_source"]) <= recorded


def test_a_disk_that_fills_up(tmp_path: Path, served: NodeProcess) -> None:
    """On a full tmpfs the command exits with 1 and every POST is recorded; with room again a rerun ends the run."""
    write_job(tmp_path, 40, rate="500/s", concurrency=8)
    with small_disk(tmp_path / "small", size="8k") as disk:
        command = [*RUN, "--manifest", "small/m.jsonl"]
        code, _, output = finish(command, cwd=tmp_path, url=served.url)
        assert code == 1, output
        assert "No space left on device); nothing more is sent: fix that, then run the same command again" in output
        assert output.count("No space left on device") == 1
        check_nothing_unrecorded(served, disk / "m.jsonl")
        assert len(posts(served.ledger())) < 40
        mount("-o", "remount,size=1m", str(disk))
        assert finish(command, cwd=tmp_path, url=served.url)[0] == 0
        check(served, disk / "m.jsonl", 40)


def test_a_file_size_limit(tmp_path: Path, served: NodeProcess) -> None:
    """A write cut short by RLIMIT_FSIZE is cut back, exit 1; without the limit the same command ends the run."""
    write_job(tmp_path, 20, rate="500/s", concurrency=4)
    code, output = ended(limited("RLIMIT_FSIZE", 5000, [*ZCLONE, *RUN]), tmp_path, served.url)
    assert code == 1, output
    assert "File too large" in output
    check_nothing_unrecorded(served, tmp_path / MANIFEST)
    assert finish(RUN, cwd=tmp_path, url=served.url)[0] == 0
    check(served, tmp_path / MANIFEST, 20)


def test_unwritable_logs_lose_only_the_logs(tmp_path: Path, served: NodeProcess) -> None:
    """With /dev/full as stderr and as log file every target is cloned and the exit code is 0."""
    write_job(tmp_path, 3, rate="500/s")
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [*ZCLONE, *RUN, "--log-file", "/dev/full"],
            cwd=tmp_path,
            env=environment(served.url),
            stdout=full,
            stderr=full,
            timeout=250,
            check=False,
        )
    assert done.returncode == 0
    check(served, tmp_path / MANIFEST, 3)


def test_few_descriptors(tmp_path: Path, served: NodeProcess) -> None:
    """With 24 descriptors and a concurrency of 64, every target is cloned once and the exit code is 0."""
    write_job(tmp_path, 60, rate="1000/s", concurrency=64)
    code, output = ended(limited("RLIMIT_NOFILE", 24, [*ZCLONE, *RUN]), tmp_path, served.url)
    assert code == 0, output
    check(served, tmp_path / MANIFEST, 60)


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_a_stopped_process_resumes_without_a_burst(seconds: int, tmp_path: Path, served: NodeProcess) -> None:
    """After SIGSTOP and SIGCONT the rate is still kept, and every target is cloned once."""
    write_job(tmp_path, 30, rate="30/s", concurrency=16)
    process = start([*ZCLONE, *RUN], tmp_path, served.url)
    wait_for_posts(served, 5)
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)
    _, output = process.communicate(timeout=250)
    assert process.returncode == 0, output
    check(served, tmp_path / MANIFEST, 30)
    assert served.ledger()["calls_peak_1s"] <= 31


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_nothing_is_sent_after_a_signal(name: str, tmp_path: Path, served: NodeProcess) -> None:
    """After one signal the node gets no POST, exit 4 names the command, and that command ends the run."""
    write_job(tmp_path, 40, rate="20/s", concurrency=8)
    process = start([*ZCLONE, *RUN], tmp_path, served.url)
    wait_for_posts(served, 3)
    process.send_signal(getattr(signal, name))
    signalled = time.time()
    _, output = process.communicate(timeout=200)
    assert process.returncode == 4, output
    assert "zclone run job.yaml --progress none" in output
    # A POST may be on its way at that very moment; the next ones would come every 50 ms for two seconds.
    assert [at for at in posts(served.ledger()) if at > signalled + 0.25] == []
    assert finish([*RUN, "--rate", "500/s"], cwd=tmp_path, url=served.url)[0] == 0
    check(served, tmp_path / MANIFEST, 40)


@pytest.mark.parametrize("served", [SLOW], indirect=True)
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 143)])
def test_a_second_signal_leaves_a_valid_manifest(name: str, code: int, tmp_path: Path, served: NodeProcess) -> None:
    """The same signal a second later ends the process; the manifest is valid, the same command adopts what was sent."""
    write_job(tmp_path, 2, rate="200/s")
    process = start([*ZCLONE, *RUN], tmp_path, served.url)
    wait_for_posts(served, 1)
    process.send_signal(getattr(signal, name))
    assert process.stderr is not None
    while "Stopping: " not in (line := process.stderr.readline()):
        assert line, "the signal was not told"
    while process.poll() is None:
        # Within the first second it still counts as the same signal.
        process.send_signal(getattr(signal, name))
        time.sleep(0.1)
    process.communicate(timeout=200)
    assert process.returncode == code
    assert finish(["status", MANIFEST], cwd=tmp_path, url=None)[0] == 0
    assert finish(RUN, cwd=tmp_path, url=served.url)[0] == 0
    check(served, tmp_path / MANIFEST, 2)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-", "| head -0"])
def test_closed_streams_change_nothing(closed: str, tmp_path: Path, served: NodeProcess) -> None:
    """With closed streams, or a reader that exited, every target is cloned and the manifest has only its lines."""
    write_job(tmp_path, 3, rate="500/s")
    command = f"set -o pipefail; {' '.join([*ZCLONE, *RUN])} {closed}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(served.url), timeout=200, check=False)
    assert done.returncode == 0
    check(served, tmp_path / MANIFEST, 3)


def test_one_of_eight_runners_wins(tmp_path: Path, served: NodeProcess) -> None:
    """Of eight started at once seven exit with 75 without a call; kill -9 of the winner frees the manifest."""
    write_job(tmp_path, 20, rate="10/s")
    runners = [start([*ZCLONE, *RUN], tmp_path, served.url) for _ in range(8)]
    give_up = time.monotonic() + 200
    while sum(runner.poll() is not None for runner in runners) < 7:
        assert time.monotonic() < give_up, "more than one holds the manifest"
        time.sleep(0.05)
    winner = next(runner for runner in runners if runner.poll() is None)
    winner.kill()
    for runner in runners:
        runner.communicate(timeout=200)
    assert Counter(runner.returncode for runner in runners) == {75: 7, -9: 1}
    assert served.ledger()["calls"]["version"] == 1
    assert finish([*RUN, "--rate", "500/s"], cwd=tmp_path, url=served.url)[0] == 0
    check(served, tmp_path / MANIFEST, 20)


def unusable(kind: str, folder: Path) -> Path:
    """Make a place where no manifest can be."""
    path = folder / "m.jsonl"
    if kind == "directory":
        path.mkdir()
    elif kind == "symlink":
        (folder / "victim").write_text("precious", encoding="utf-8")
        path.symlink_to("victim")
    elif kind == "no permission":
        path.touch(0o000)
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
    elif kind == "missing parent":
        return folder / "absent" / "m.jsonl"
    return path


@pytest.mark.parametrize("kind", ["directory", "symlink", "no permission", "missing parent"])
def test_an_unusable_manifest_ends_before_any_call(kind: str, tmp_path: Path, served: NodeProcess) -> None:
    """Exit 2 with one line that names the path; the server got no call."""
    write_job(tmp_path, 2)
    path = unusable(kind, tmp_path)
    code, _, output = finish([*RUN, "--manifest", str(path)], cwd=tmp_path, url=served.url)
    assert code == 2, output
    assert output.count("\n") == 1
    assert str(path) in output
    assert served.ledger()["calls_total"] == 0
    assert kind != "symlink" or (tmp_path / "victim").read_text(encoding="utf-8") == "precious"


def test_a_read_only_folder_ends_before_any_call(tmp_path: Path, served: NodeProcess) -> None:
    """In a folder that cannot be written: exit 2, one line, no call."""
    write_job(tmp_path, 2)
    with small_disk(tmp_path / "small", size="64k") as disk:
        mount("-o", "remount,ro", str(disk))
        code, _, output = finish([*RUN, "--manifest", "small/m.jsonl"], cwd=tmp_path, url=served.url)
    assert code == 2, output
    assert output == "zclone: small/m.jsonl: Read-only file system\n"
    assert served.ledger()["calls_total"] == 0
