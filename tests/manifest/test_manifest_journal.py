"""The journal: nothing is confirmed before it is durable, and the first failure is final."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from batch.errors import ManifestError, ManifestLockedError
from batch.manifest import open_manifest
from batch.model import HandOver, HandOverRecord, State
from tests.manifest.manifest_world import (
    HEADER,
    PATH,
    FakeDisk,
    cloned,
    failed,
    held,
    hex_id,
    open_fake,
    plan,
    sent,
    write_run,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from batch.manifest import Manifest


async def test_commit_returns_after_the_fsync_of_its_record() -> None:
    """No commit returns before the bytes of its record are durable."""
    disk = FakeDisk()
    manifest = open_fake(disk)

    async def commit(number: int) -> None:
        await manifest.commit(sent(f"k{number}"))
        assert f'"key":"k{number}"'.encode() in disk.files[PATH].synced

    async with asyncio.TaskGroup() as group:
        for number in range(300):
            group.create_task(commit(number))
    await manifest.close(0)


async def test_commits_share_an_fsync_under_load() -> None:
    """Records that arrive while a write is under way are made durable by the next one together."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await asyncio.gather(*(manifest.commit(sent(f"k{number}")) for number in range(300)))
    assert disk.log.count("sync") <= 1 + 3
    await manifest.close(0)


async def test_a_record_during_a_write_joins_the_next_batch() -> None:
    """A record that arrives while a write is under way is durable after the next one, without another trigger."""
    disk, may_land = FakeDisk(), asyncio.Event()
    manifest = open_manifest(PATH, HEADER, files=disk, in_thread=held(may_land))
    first = asyncio.ensure_future(manifest.commit(sent("a")))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(manifest.commit(sent("b")))
    await asyncio.sleep(0)
    may_land.set()
    await asyncio.gather(first, second)
    assert b'"key":"b"' in disk.files[PATH].synced
    assert b'"batch":2' in disk.files[PATH].synced
    await manifest.close(0)


async def test_one_write_at_a_time() -> None:
    """A batch is written only after the fsync of the one before returned."""
    running = 0

    async def slow(work: Callable[[], None]) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        work()
        await asyncio.sleep(0)
        running -= 1

    manifest = open_manifest(PATH, HEADER, files=FakeDisk(), in_thread=slow)
    await asyncio.gather(*(manifest.commit(sent(f"k{number}")) for number in range(100)))
    await manifest.close(0)


async def test_thread_is_the_default(tmp_path: Path) -> None:
    """On the real disk a write runs in a separate thread and the file holds it afterwards."""
    path = tmp_path / "m.jsonl"
    manifest = open_manifest(path, HEADER)
    await asyncio.gather(*(manifest.commit(sent(f"k{number}")) for number in range(10)))
    await manifest.close(0)
    assert path.read_bytes().count(b'"state":"sent"') == 10


async def test_cancelled_waiter_does_not_lose_its_record() -> None:
    """A record whose waiter was cancelled is written all the same, and the other waiters are not affected."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    first = asyncio.ensure_future(manifest.commit(sent("a")))
    second = asyncio.ensure_future(manifest.commit(sent("b")))
    third = asyncio.ensure_future(manifest.commit(sent("c")))
    await asyncio.sleep(0)
    second.cancel()
    await first
    await third
    await manifest.close(0)
    assert second.cancelled()
    assert b'"key":"b"' in disk.files[PATH].synced


async def test_note_is_durable_at_close() -> None:
    """A note needs no waiter: closing makes it durable."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    manifest.note(cloned("a"))
    await manifest.close(3, "SIGTERM")
    disk.power_cut()
    assert open_fake(disk).past.counts == {State.CLONED: 1}
    assert b'"exit":3,"reason":"SIGTERM"' in disk.data


async def test_a_note_becomes_durable_soon() -> None:
    """A note becomes durable soon although nothing commits."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    disk.synced.clear()
    manifest.note(cloned("a"))
    async with asyncio.timeout(5):
        await disk.synced.wait()
    assert b'"key":"a"' in disk.files[PATH].synced
    await manifest.close(0)


async def test_close_without_records_leaves_the_file_alone() -> None:
    """A finished run started again leaves the manifest byte-identical."""
    disk = FakeDisk()
    await write_run(disk, 20)
    before = disk.data
    manifest = open_fake(disk)
    await manifest.write_plan(plan([]), ())
    await manifest.close(0)
    await manifest.close(0)
    assert disk.data == before


async def test_closed_journal_rejects_records() -> None:
    """A record after close is an error, not a loss."""
    manifest = open_fake(FakeDisk())
    await manifest.close(0)
    with pytest.raises(ManifestError, match="closed"):
        manifest.note(cloned("a"))


def fail_once(operation: str, number: int, code: int) -> Callable[[str], int | None]:
    """Fail the ``number``-th ``operation`` from now on, once."""
    left = [number]

    def fault(seen: str) -> int | None:
        if seen == operation:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(code, "injected")
        return None

    return fault


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("operation", ["append", "sync"])
@pytest.mark.parametrize("number", range(1, 8))
async def test_a_failure_of_the_journal_is_final(operation: str, number: int, code: int) -> None:
    """After a failed write or fsync every pending and later commit raises, and nothing more is written or synced."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    disk.fault = fail_once(operation, number, code)
    durable: list[int] = []

    async def commit(record: int) -> None:
        await manifest.commit(sent(f"k{record}"))
        durable.append(record)

    for start in range(0, 80, 10):
        await asyncio.gather(*(commit(record) for record in range(start, start + 10)), return_exceptions=True)
    log = list(disk.log)
    with pytest.raises(ManifestError, match="injected"):
        await manifest.commit(sent("later"))
    with pytest.raises(ManifestError, match="injected"):
        manifest.note(sent("later"))
    with pytest.raises(ManifestError, match="injected"):
        await manifest.close(1)
    assert disk.log == log
    assert log[-1] == "truncate"
    past = open_fake(disk).past
    assert set(past.intents) == {f"k{record}" for record in durable}


async def test_failed_fsync_is_not_retried() -> None:
    """A failed fsync is final: the pages may already be marked clean."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    disk.log.clear()
    disk.fault = fail_once("sync", 1, errno.EIO)
    with pytest.raises(ManifestError):
        await manifest.commit(sent("a"))
    with pytest.raises(ManifestError):
        await manifest.close(1)
    assert disk.log.count("sync") == 1


async def test_short_writes_are_continued() -> None:
    """A write that accepts fewer bytes than given is continued, not repeated."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    disk.fault = lambda operation: 7 if operation == "append" else None
    await manifest.commit(sent("a"))
    await manifest.close(0)
    disk.fault = lambda _operation: None
    assert set(open_fake(disk).past.intents) == {"a"}


async def test_short_write_before_no_space_is_cut_back() -> None:
    """What a full disk accepted of a batch is cut off again, so that the file ends with a whole record."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.commit(sent("a"))
    whole = disk.data
    taken = iter([92])

    def fault(operation: str) -> int | None:
        if operation != "append":
            return None
        size = next(taken, None)
        if size is None:
            raise OSError(errno.ENOSPC, "no space left")
        return size

    disk.fault = fault
    with pytest.raises(ManifestError, match="no space left"):
        await manifest.commit(sent("b"))
    assert disk.data == whole


async def test_a_failed_note_raises_at_close() -> None:
    """A note that could not be written is not swallowed: close raises."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    manifest.note(cloned("a"))
    disk.fault = fail_once("sync", 1, errno.EIO)
    with pytest.raises(ManifestError, match="injected"):
        await manifest.close(0)


async def test_failed_cut_back_leaves_a_torn_tail() -> None:
    """If even the cut fails, the next process finds a torn tail and no record of the failed batch."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.commit(sent("a"))

    def fault(operation: str) -> int | None:
        if operation in ("sync", "truncate"):
            raise OSError(errno.EIO, "injected")
        return 50 if operation == "append" else None

    disk.fault = fault
    with pytest.raises(ManifestError):
        await manifest.commit(sent("b"))
    with pytest.raises(ManifestError):
        await manifest.close(1)
    disk.fault = lambda _operation: None
    del disk.files[PATH].data[-10:]
    again = open_fake(disk)
    assert set(again.past.intents) == {"a"}
    assert "cut" in again.warnings[0]


async def test_power_cut_keeps_committed_records() -> None:
    """A power cut right after a commit returned keeps its record."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.commit(sent("a"))
    manifest.note(cloned("a"))
    disk.power_cut()
    assert open_fake(disk).past.intents["a"].job_uuid == sent("a").job_uuid
    manifest._stop_timer()


async def test_lock_is_released_at_close() -> None:
    """While one process has the manifest another is refused; after close it gets it."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    with pytest.raises(ManifestLockedError):
        open_fake(disk)
    await manifest.close(0)
    disk.files[PATH].is_locked = False
    open_fake(disk)


async def test_close_while_a_write_is_under_way() -> None:
    """A close that is cancelled leaves the file open for the write under way, which then closes it."""
    disk = FakeDisk()
    release = asyncio.Event()
    manifest = open_manifest(PATH, HEADER, files=disk, in_thread=held(release))
    commit = asyncio.ensure_future(manifest.commit(sent("a")))
    await asyncio.sleep(0)
    close = asyncio.create_task(manifest.close(0))
    await asyncio.sleep(0)
    close.cancel()
    await asyncio.wait([close])
    assert disk.files[PATH].is_locked
    release.set()
    await commit
    assert not disk.files[PATH].is_locked
    assert b'"key":"a"' in disk.files[PATH].synced


async def test_cancelled_write_counts_as_a_failure() -> None:
    """A write of unknown outcome fails the journal for good."""
    flights: asyncio.Queue[asyncio.Task[None]] = asyncio.Queue()

    async def stuck(_work: Callable[[], None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        flights.put_nowait(task)
        await asyncio.Event().wait()

    manifest = open_manifest(PATH, HEADER, files=FakeDisk(), in_thread=stuck)
    commit = asyncio.ensure_future(manifest.commit(sent("a")))
    (await flights.get()).cancel()
    with pytest.raises(ManifestError, match="CancelledError"):
        await commit


async def test_an_unavailable_thread_is_a_failure() -> None:
    """If the write cannot even be begun, every waiter gets the error, and nothing is sent."""

    def none(_work: Callable[[], None]) -> Awaitable[None]:
        raise RuntimeError("can't start new thread")

    manifest = open_manifest(PATH, HEADER, files=FakeDisk(), in_thread=none)
    calls = list[str]()
    manifest.on_failure(lambda: calls.append("failed"))
    for key in ("a", "b"):
        with pytest.raises(ManifestError, match="can't start new thread"):
            await manifest.commit(sent(key))
    assert calls == ["failed"]
    with pytest.raises(ManifestError):
        await manifest.close(4)


async def test_plan_is_recorded_once() -> None:
    """Targets are recorded when a plan first has them, and a plan only if it differs from the last."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    keys = [f"k{number}" for number in range(10_000)]
    await manifest.write_plan(plan(keys), ((key, key) for key in keys))
    size = len(disk.data)
    await manifest.write_plan(plan(keys), iter(()))
    assert len(disk.data) == size
    assert manifest.past.is_planned("k9999")
    assert not manifest.past.is_planned("k10000")
    await manifest.close(0)
    past = open_fake(disk).past
    assert past.counts == {State.PLANNED: 10_000}
    assert past.plan is not None
    assert past.plan.targets == 10_000


async def test_unchanged_targets_are_not_walked() -> None:
    """When only the inputs' bytes changed, a new plan line is written without reading the targets."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.write_plan(plan(["a"]), [("a", "a")])
    other = plan(["a"])
    object.__setattr__(other, "inputs", "other")

    def explode() -> tuple[str, str]:
        raise AssertionError

    await manifest.write_plan(other, (explode() for _ in range(1)))
    assert manifest.past.plan is not None
    assert manifest.past.plan.inputs == "other"
    await manifest.close(0)


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
async def test_number_that_json_cannot_hold_is_refused_before_it_is_queued(number: float) -> None:
    """A record with an invalid time raises at once and does not fail the journal."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    for record in (sent("a", at=number), sent("a")._replace(deadline=number)):
        with pytest.raises(ValueError, match="cannot hold"):
            manifest.note(record)
    await manifest.commit(failed("b"))
    await manifest.close(0)
    assert open_fake(disk).past.counts == {State.FAILED: 1}


async def test_a_refused_record_leaves_no_trace() -> None:
    """A process that could record nothing wrote nothing."""
    disk = FakeDisk()
    await write_run(disk, 3)
    disk.files[PATH].is_locked = False
    before = disk.data
    manifest = open_fake(disk)
    settled = next(key for key in ("target-0", "target-1") if manifest.past.final(key))
    with pytest.raises(ManifestError, match="settled"):
        manifest.note(sent(settled))
    with pytest.raises(ValueError, match="cannot hold"):
        await manifest.commit(sent("new", at=float("nan")))
    await manifest.close(0)
    assert disk.data == before


async def test_a_process_records_its_start_once() -> None:
    """The line with the process comes before its first other line, and only there."""
    disk = FakeDisk()
    for number in range(2):
        manifest = open_fake(disk)
        await manifest.write_plan(replace(plan([f"a{number}"]), digest=f"{number:032x}"), [(f"a{number}", "source")])
        await manifest.take_up([f"a{number}"])
        await manifest.commit(sent(f"a{number}"))
        manifest.note(cloned(f"a{number}"))
        await manifest.close(0)
    kinds = [line.partition(b'":')[0][2:] for line in disk.data.splitlines()[1:]]
    assert kinds == [b"started", b"planned", b"plan", b"taken_up", b"state", b"state", b"ended"] * 2


async def test_a_process_folds_what_it_wrote() -> None:
    """Crashes and hand-overs count in the process that records them as in the next one."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.commit(sent("a"))
    await manifest.take_up(["a"])
    manifest.note_hand_over(HandOverRecord("b", 1.0, HandOver("owner"), hex_id(1)))
    await manifest.flush()
    disk.power_cut()
    for past in (manifest.past, open_fake(disk).past):
        assert past.intents["a"].deaths == 1
        assert past.hand_overs.is_done("b", HandOver("owner"))


async def test_refused_records_are_not_counted() -> None:
    """A journal that failed or is being closed accepts no more records."""
    for spoil in (_fail, _begin_to_close):
        manifest, ending = await spoil()
        before = manifest.past.counts, manifest.past.intents
        with pytest.raises(ManifestError):
            manifest.note(cloned("a"))
        with pytest.raises(ManifestError):
            await manifest.commit(sent("b"))
        with pytest.raises(ManifestError):
            await manifest.take_up(["a"])
        with pytest.raises(ManifestError):
            await manifest.write_plan(plan(["a"]), [("a", "source")])
        with pytest.raises(ManifestError):
            manifest.note_hand_over(HandOverRecord("a", 1.0, HandOver("owner"), hex_id(1)))
        assert (manifest.past.counts, manifest.past.intents) == before
        assert not manifest.past.hand_overs.is_done("a", HandOver("owner"))
        await ending


async def _fail() -> tuple[Manifest, Awaitable[None]]:
    disk = FakeDisk()
    manifest = open_fake(disk)
    disk.fault = fail_once("sync", 1, errno.EIO)
    with pytest.raises(ManifestError):
        await manifest.commit(sent("a"))
    return manifest, asyncio.sleep(0)


async def _begin_to_close() -> tuple[Manifest, Awaitable[None]]:
    manifest = open_fake(FakeDisk())
    manifest.note(sent("a"))
    closing = asyncio.create_task(manifest.close(0))
    await asyncio.sleep(0)
    assert not closing.done()
    return manifest, closing
