"""What the journal does at moments a calm run never has: notes under a write, hooks at a failure, deaths taken up."""

from __future__ import annotations

import asyncio
import errno
import zlib
from typing import TYPE_CHECKING

import pytest

from batch.errors import ManifestError, UsageError
from batch.manifest import Past, finished, is_held, open_manifest
from batch.manifest.line import SEAL
from batch.manifest.records import encode_record
from batch.model import State
from tests.manifest.manifest_world import HEADER, PATH, FakeDisk, cloned, held, open_fake, plan, sent

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_note_during_a_write_becomes_durable_soon() -> None:
    """A note that comes while a batch is being written is durable a moment later, though nobody commits or closes."""
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


async def test_whoever_asked_is_told_of_a_failed_write_at_once() -> None:
    """Hooks hear of the failure before the waiters do, so that no POST slips out in between."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    told: list[str] = []
    manifest.on_failure(lambda: told.append("first"))
    manifest.on_failure(lambda: told.append("second"))

    def fault(operation: str) -> int | None:
        if operation == "sync":
            raise OSError(errno.EIO, "input/output error")
        return None

    disk.fault = fault
    with pytest.raises(ManifestError):
        await manifest.commit(sent("a"))
    assert told == ["first", "second"]
    disk.fault = lambda _: None
    with pytest.raises(ManifestError):
        await manifest.close(0)


async def test_what_was_in_flight_at_a_death_is_taken_up_durably() -> None:
    """All keys are on the synced disk when taking up returns, however many lines that takes."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    keys = [f"key-{number}" for number in range(300)]
    for key in keys:
        manifest.note(sent(key))
    await manifest.take_up(keys)
    assert disk.files[PATH].synced.count(b'"key-') >= 2 * len(keys)
    await manifest.close(0)


def test_a_line_that_only_begins_like_a_plan_is_none() -> None:
    """A later version's line that begins like a plan and says something else changes no plan."""
    past = Past()
    past.add_all([encode_record(sent("a")), b'{"plan":"x","planned":["b"]', encode_record(cloned("a"))])
    past.finish()
    assert past.plan is None
    assert past.counts == {State.CLONED: 1}


def resealed(data: bytes, extra: bytes) -> bytes:
    """The same lines with ``extra`` after the header, all under checksums that are right."""
    first, *rest = [line[:-SEAL] for line in data.splitlines()]
    crc, lines = 0, []
    for body in (first, extra, *rest):
        crc = zlib.crc32(body, crc)
        lines.append(b'%s,"crc":"%08x"}\n' % (body, crc))
    return b"".join(lines)


async def test_a_finished_run_with_a_line_of_a_later_version_is_finished(tmp_path: Path) -> None:
    """A line that only begins like a plan or a page of pins takes nothing away from what the last line says."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.write_plan(plan(["a"]), [("a", "a")])
    await manifest.commit(sent("a"))
    await manifest.commit(cloned("a"))
    await manifest.close(0)
    (tmp_path / "m").write_bytes(resealed(disk.data, b'{"plan":"x","planned":["a"],"batch":0'))
    found = finished(tmp_path / "m")
    assert found is not None
    assert found.counts == {State.CLONED: 1}


async def test_a_manifest_is_held_as_long_as_its_run_lasts(tmp_path: Path) -> None:
    """Held while a process has it, free afterwards; a path that cannot be opened is told."""
    manifest = open_manifest(tmp_path / "m", HEADER)
    assert is_held(tmp_path / "m")
    await manifest.close(0)
    assert not is_held(tmp_path / "m")
    with pytest.raises(UsageError, match="No such file"):
        is_held(tmp_path / "none")
