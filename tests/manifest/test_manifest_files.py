"""The manifest's file: its owner, its mode, and what is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from batch.errors import ExitCode, ManifestError, ManifestLockedError, ManifestMismatchError, UsageError
from batch.manifest import open_manifest, summary
from batch.manifest.files import Disk
from batch.manifest.line import seal
from tests.manifest.manifest_world import HEADER, PATH, FakeDisk, cloned, open_fake, sent

_HOLDER = """
import sys, time
from pathlib import Path
from batch.errors import ManifestLockedError
from batch.manifest import Header, open_manifest
sys.stdin.readline()
try:
    manifest = open_manifest(Path(sys.argv[1]), Header("job", "run", "https://zstack.example.com", simulated=False))
except ManifestLockedError:
    print("locked", flush=True)
else:
    print("held", flush=True)
sys.stdin.read()
"""


def make(path: Path, key: str = "a") -> None:
    async def run() -> None:
        manifest = open_manifest(path, HEADER)
        await manifest.commit(sent(key))
        manifest.note(cloned(key))
        await manifest.close(0)

    asyncio.run(run())


def hold(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_mode_is_0600_with_any_umask(tmp_path: Path) -> None:
    """With a umask of 000 only the owner can read the manifest and the files kept aside."""
    path = tmp_path / "m"
    before = os.umask(0)
    try:
        make(path)
        with path.open("ab") as file:
            file.write(b"torn")
        make(path, "b")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "m.torn-1").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "m.torn-1").read_bytes() == b"torn"


@pytest.mark.parametrize("mask", [0o077, 0o777])
def test_narrow_umask_does_no_harm(tmp_path: Path, mask: int) -> None:
    """Even a umask that removes everything leaves the owner the manifest."""
    before = os.umask(mask)
    try:
        make(tmp_path / "m")
    finally:
        os.umask(before)
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o600


def test_symlink_is_refused(tmp_path: Path) -> None:
    """A planted symbolic link does not lead the manifest into another file."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "m").symlink_to(victim)
    with pytest.raises(UsageError, match="symbolic link"):
        open_manifest(tmp_path / "m", HEADER)
    assert victim.read_text() == "mine"


def test_dangling_symlink_is_refused(tmp_path: Path) -> None:
    """Nor is a file created at its destination."""
    (tmp_path / "m").symlink_to(tmp_path / "victim")
    with pytest.raises(UsageError, match="symbolic link"):
        open_manifest(tmp_path / "m", HEADER)
    assert not (tmp_path / "victim").exists()


def test_hard_link_is_refused(tmp_path: Path) -> None:
    """A file with a second name may belong to somebody else."""
    make(tmp_path / "m")
    (tmp_path / "other").hardlink_to(tmp_path / "m")
    with pytest.raises(UsageError, match="hard links"):
        open_manifest(tmp_path / "m", HEADER)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    """A manifest that others can write to cannot be trusted."""
    make(tmp_path / "m")
    (tmp_path / "m").chmod(mode)
    with pytest.raises(UsageError, match="chmod 600"):
        open_manifest(tmp_path / "m", HEADER)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_file_of_another_user_is_refused(tmp_path: Path) -> None:
    """A manifest that belongs to another user is not resumed."""
    make(tmp_path / "m")
    os.chown(tmp_path / "m", 12345, -1)
    with pytest.raises(UsageError, match="another user"):
        open_manifest(tmp_path / "m", HEADER)


def test_an_irregular_path_is_refused(tmp_path: Path) -> None:
    """A directory, a FIFO or a missing directory ends the command at once with one line, and never hangs it."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "none" / "m", Path("/dev/zero")):
        with pytest.raises(UsageError) as caught:
            open_manifest(path, HEADER)
        assert caught.value.exit_code == ExitCode.USAGE
        assert "\n" not in str(caught.value)
        with pytest.raises(UsageError):
            summary(path)


def test_foreign_file_is_left_alone(tmp_path: Path) -> None:
    """A file that is not a manifest is refused and keeps every byte."""
    path = tmp_path / "important.txt"
    path.write_text("do not lose this\n" * 3)
    path.chmod(0o600)
    with pytest.raises(ManifestError, match="not a zclone manifest"):
        open_manifest(path, HEADER)
    assert path.read_text() == "do not lose this\n" * 3


@pytest.mark.parametrize(
    ("field", "other"), [("job", "x"), ("run", "x"), ("endpoint", "https://x"), ("simulated", True)]
)
def test_manifest_of_another_run_is_refused(field: str, other: object) -> None:
    """Job, run, endpoint and kind must be those of the header; the message names the field that differs."""
    disk = FakeDisk()
    asyncio.run(open_fake(disk).close(0))
    with pytest.raises(ManifestMismatchError, match=f"line 1: {field}:") as caught:
        open_fake(disk, replace(HEADER, **{field: other}))  # type: ignore[arg-type]
    assert caught.value.exit_code == ExitCode.USAGE


def test_other_tool_and_time_do_not_matter() -> None:
    """A manifest is resumed by a later zclone, and keeps the time at which its run began."""
    disk = FakeDisk()
    asyncio.run(open_fake(disk).close(0))
    manifest = open_fake(disk, replace(HEADER, tool="zclone 9", created_at=9.0))
    assert (manifest.header.tool, manifest.header.created_at) == ("zclone 9", HEADER.created_at)


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        (b'"version":1', b'"version":2', "version 2.*use a newer one"),
        (b'"format":"zclone-manifest"', b'"format":"zclone-something"', "not a zclone manifest"),
        (b'"job":"job"', b'"job":["job"]', "no text as job"),
        (b'"version":1', b'"version":1,"later":{"a":[1]}', None),
    ],
)
def test_header_of_another_version(found: bytes, wanted: bytes, message: str | None) -> None:
    """A newer format is refused, unknown fields are ignored."""
    line, _ = seal([HEADER.body().replace(found, wanted)], 0, batch=0)
    disk = FakeDisk()
    disk.put(line)
    if message is None:
        asyncio.run(open_fake(disk).close(0))
        assert disk.data == line
    else:
        with pytest.raises(ManifestError, match=message):
            open_fake(disk)
        assert disk.data == line


def test_network_file_system_is_warned_of() -> None:
    """On a network file system the operator is warned that the lock may not hold."""
    disk = FakeDisk()
    disk.remote = True
    assert "network file system" in open_fake(disk).warnings[0]


def test_local_file_system_is_not_warned_of(tmp_path: Path) -> None:
    """On a local disk there is no warning."""
    manifest = open_manifest(tmp_path / "m", HEADER)
    assert manifest.warnings == []
    asyncio.run(manifest.close(0))


def test_one_of_eight_racers_gets_the_manifest(tmp_path: Path) -> None:
    """Of processes started at once one gets the manifest; SIGKILL frees it for the next."""
    path = tmp_path / "m"
    racers = [hold(path) for _ in range(8)]
    try:
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        outputs = {racer: racer.stdout.readline().strip() for racer in racers if racer.stdout is not None}
        assert sorted(outputs.values()) == ["held"] + ["locked"] * 7
        with pytest.raises(ManifestLockedError) as caught:
            open_manifest(path, HEADER)
        assert caught.value.exit_code == ExitCode.LOCKED
        holder = next(racer for racer, word in outputs.items() if word == "held")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        manifest = open_manifest(path, HEADER)
        assert not manifest.warnings
        asyncio.run(manifest.close(0))
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


def test_replaced_file_is_noticed(tmp_path: Path) -> None:
    """A name that was given to another file between open and lock is refused: the lock would be on the wrong one."""

    class Racing(Disk):
        def open(self, path: Path) -> int:
            handle = super().open(path)
            path.unlink()
            path.write_bytes(b"")
            return handle

    make(tmp_path / "m")
    with pytest.raises(ManifestLockedError, match="replaced"):
        open_manifest(tmp_path / "m", HEADER, files=Racing())


def test_an_unreadable_disk_is_reported() -> None:
    """An I/O error while the manifest is read ends the command and says so."""
    disk = FakeDisk()
    asyncio.run(open_fake(disk).close(0))

    def fault(operation: str) -> int | None:
        if operation == "read":
            raise OSError(5, "Input/output error")
        return None

    disk.fault = fault
    with pytest.raises(ManifestError, match="Input/output error"):
        open_fake(disk)
    assert not disk.files[PATH].is_locked


def test_header_is_durable_before_anything_else() -> None:
    """A new manifest's header and name are durable when it is open."""
    disk = FakeDisk()
    open_fake(disk)
    assert disk.files[PATH].synced == disk.data
    assert disk.log[-1] == "sync_directory"
