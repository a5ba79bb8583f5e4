"""The journal at rare moments: notes during a write, hooks at a failure, clones taken up after crashes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import zlib
from typing import TYPE_CHECKING

import pytest

from batch.errors import ManifestError, ManifestLockedError, UsageError
from batch.manifest import ManifestFold, is_locked, open_manifest, read_finished
from batch.manifest.line import SEAL
from batch.manifest.listing import clone_lines
from batch.manifest.reader import exclude_writers, last_end
from batch.manifest.records import encode_record
from batch.model import State
from tests.manifest.manifest_world import HEADER, PATH, FakeDisk, cloned, held, open_fake, plan, sent

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_note_during_a_write_becomes_durable_soon() -> None:
    """A note that comes while a batch is being written is durable a moment later, though nothing commits or closes."""
    disk = FakeDisk()
    release = asyncio.Event()
    manifest = open_manifest(PATH, HEADER, files=disk, in_thread=held(release))
    commit = asyncio.ensure_future(manifest.commit(sent("a")))
    await asyncio.sleep(0)
    manifest.note(sent("b"))
    release.set()
    await commit
    async with asyncio.timeout(5):
        while b'"key":"b"' not in disk.files[PATH].synced:
            disk.synced.clear()
            await disk.synced.wait()
    await manifest.close(0)


async def test_hooks_are_called_at_once_after_a_failed_write() -> None:
    """Hooks run before the waiters get the failure, so that no POST is sent in between."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    calls: list[str] = []
    manifest.on_failure(lambda: calls.append("first"))
    manifest.on_failure(lambda: calls.append("second"))

    def fault(operation: str) -> int | None:
        if operation == "sync":
            raise OSError(errno.EIO, "input/output error")
        return None

    disk.fault = fault
    with pytest.raises(ManifestError):
        await manifest.commit(sent("a"))
    assert calls == ["first", "second"]
    disk.fault = lambda _: None
    with pytest.raises(ManifestError):
        await manifest.close(0)


async def test_clones_in_flight_at_a_crash_are_taken_up_durably() -> None:
    """All keys are on the synced disk when taking up returns, however many lines that takes."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    keys = [f"key-{number}" for number in range(300)]
    for key in keys:
        manifest.note(sent(key))
    await manifest.take_up(keys)
    assert disk.files[PATH].synced.count(b'"key-') >= 2 * len(keys)
    await manifest.close(0)


def test_a_line_with_fields_of_a_plan_changes_no_plan() -> None:
    """A later version's line that has the fields of known kinds, but not first, changes no plan."""
    past = ManifestFold()
    past.add_all([encode_record(sent("a")), b'{"novel":1,"plan":"x","planned":["b"]', encode_record(cloned("a"))])
    past.finish()
    assert past.plan is None
    assert past.counts == {State.CLONED: 1}


def resealed(data: bytes, extra: bytes) -> bytes:
    """Return the same lines with ``extra`` after the header, all with valid checksums."""
    first, *rest = [line[:-SEAL] for line in data.splitlines()]
    crc, lines = 0, []
    for body in (first, extra, *rest):
        crc = zlib.crc32(body, crc)
        lines.append(b'%s,"crc":"%08x"}\n' % (body, crc))
    return b"".join(lines)


async def test_a_finished_run_with_a_line_of_a_later_version_is_finished(tmp_path: Path) -> None:
    """A line that only has the fields of a plan or a page of pins does not contradict the last line."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.write_plan(plan(["a"]), [("a", "a")])
    await manifest.commit(sent("a"))
    await manifest.commit(cloned("a"))
    await manifest.close(0)
    (tmp_path / "m").write_bytes(resealed(disk.data, b'{"novel":1,"plan":"x","planned":["a"],"batch":0'))
    found = read_finished(tmp_path / "m")
    assert found is not None
    assert found.counts == {State.CLONED: 1}


async def test_a_manifest_is_locked_while_its_run_lasts(tmp_path: Path) -> None:
    """Held while a process has it, free afterwards; a path that cannot be opened is reported."""
    manifest = open_manifest(tmp_path / "m", HEADER)
    assert is_locked(tmp_path / "m")
    await manifest.close(0)
    assert not is_locked(tmp_path / "m")
    with pytest.raises(UsageError, match="No such file"):
        is_locked(tmp_path / "none")


async def test_only_a_free_manifest_may_be_written_to(tmp_path: Path) -> None:
    """The lock of another process is reported; a path that cannot be opened is reported too."""
    manifest = open_manifest(tmp_path / "m", HEADER)
    with pytest.raises(ManifestLockedError, match="let it end first"), exclude_writers(tmp_path / "m"):
        pass
    await manifest.close(0)
    with exclude_writers(tmp_path / "m"):
        pass
    with pytest.raises(UsageError, match="No such file"), exclude_writers(tmp_path / "none"):
        pass


def test_without_locks_a_manifest_is_free_and_may_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock can be held, but the answer to whether a run lasts must not be no."""

    def refuse(_handle: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / "m").touch()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclude_writers(tmp_path / "m"):
        pass
    assert is_locked(tmp_path / "m")


@pytest.mark.parametrize("is_moved", [True, False])
async def test_a_moved_manifest_is_detected_between_two_writes(tmp_path: Path, *, is_moved: bool) -> None:
    """A check between writes fails if the file was moved, and says where the lines are."""
    path = tmp_path / "m"
    manifest = open_manifest(path, HEADER)
    await manifest.commit(sent("a"))
    assert manifest.check_file() is None
    failures: list[str] = []
    manifest.on_failure(lambda: failures.append("failed"))
    if is_moved:
        path.rename(tmp_path / "elsewhere")
    else:
        path.unlink()
    lost = manifest.check_file()
    assert lost is not None
    assert b'"key":"a"' in lost.read_bytes()
    assert failures == ["failed"]
    with pytest.raises(ManifestError, match="moved"):
        await manifest.commit(sent("b"))
    with contextlib.suppress(ManifestError):
        await manifest.close(0)


async def test_a_write_in_pieces_is_complete() -> None:
    """If the disk accepts a few bytes at a time, all lines are there in the end."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    disk.fault = lambda operation: 7 if operation == "append" else None
    await manifest.commit(sent("a"))
    await manifest.close(0)
    assert open_fake(disk).past.intents.keys() == {"a"}


async def test_each_made_clone_is_listed_with_its_line(tmp_path: Path) -> None:
    """Of all records only those of existing clones, by the number of their line."""
    manifest = open_manifest(tmp_path / "m", HEADER)
    for line in (sent("a"), sent("b"), cloned("a"), cloned("b")):
        await manifest.commit(line)
    await manifest.close(0)
    lines = (tmp_path / "m").read_text(encoding="utf-8").splitlines()
    found = list(clone_lines(tmp_path / "m"))
    assert [record.key for _, record in found] == ["a", "b"]
    assert all('"cloned"' in lines[number - 1] and f'"{record.key}"' in lines[number - 1] for number, record in found)


async def test_the_last_end_of_a_manifest_at_rest(tmp_path: Path) -> None:
    """None while the process runs, its code when it has ended."""
    manifest = open_manifest(tmp_path / "m", HEADER)
    await manifest.commit(sent("a"))
    assert last_end(tmp_path / "m") is None
    await manifest.close(4)
    ended = last_end(tmp_path / "m")
    assert ended is not None
    assert ended.exit_code == 4


async def test_a_torn_tail_is_kept_beside_earlier_ones(tmp_path: Path) -> None:
    """A second torn tail takes the next number and leaves the first one unchanged."""
    path = tmp_path / "m"
    for number in (1, 2):
        manifest = open_manifest(path, HEADER)
        await manifest.close(0)
        with path.open("ab") as file:
            file.write(b"torn %d" % number)
    await open_manifest(path, HEADER).close(0)
    assert [(tmp_path / f"m.torn-{number}").read_bytes() for number in (1, 2)] == [b"torn 1", b"torn 2"]
