"""Repair: every verifiable record is kept, and what cannot be known is uncertain."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING

import pytest

from batch.errors import REPAIRED, ManifestError, UsageError
from batch.manifest import open_manifest
from batch.manifest.files import Disk
from batch.manifest.repair import repair_manifest
from batch.manifest.summaries import was_at_most_once
from batch.model import Record, State
from tests.manifest.manifest_world import HEADER, FakeDisk, cloned, failed, open_fake, plan, sent

if TYPE_CHECKING:
    from pathlib import Path


async def write_damaged(tmp_path: Path, *needles: str) -> Path:
    """Write a run of a (cloned), b (failed), c (sent), d (planned), with a byte changed in each needle's line."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.write_plan(plan(list("abcd")), [(key, f"source of {key}") for key in "abcd"])
    for record in (sent("a"), sent("b"), cloned("a"), sent("c"), failed("b")):
        await manifest.commit(record)
    await manifest.close(4)
    data = bytearray(disk.data)
    for needle in needles:
        data[data.index(needle.encode()) + len(needle) + 2] ^= 1
    path = tmp_path / "run.manifest.jsonl"
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def contents(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_whole_manifest_stays_as_it_is(tmp_path: Path) -> None:
    """Without damage nothing is uncertain."""
    path = await write_damaged(tmp_path)
    report = repair_manifest(path, tmp_path / "new", clock=lambda: 99.0)
    assert (report.damaged, report.uncertain) == (0, 0)
    assert report.kept == path.read_bytes().count(b"\n")
    old, new = open_manifest(path, HEADER), open_manifest(tmp_path / "new", HEADER)
    assert new.past.counts == old.past.counts == {State.CLONED: 1, State.FAILED: 1, State.SENT: 1, State.PLANNED: 1}
    assert new.past.intents == old.past.intents
    await old.close(0)
    await new.close(0)


async def test_lost_record_leaves_its_clone_uncertain(tmp_path: Path) -> None:
    """A clone whose end was damaged is uncertain with both its uuids, the settled ones stay, and the original too."""
    path = await write_damaged(tmp_path, '"state":"cloned","key":"a"')
    before = path.read_bytes()
    report = repair_manifest(path, tmp_path / "new", clock=lambda: 99.0)
    assert path.read_bytes() == before
    assert report.damaged == 1
    manifest = open_manifest(tmp_path / "new", HEADER)
    past = manifest.past
    assert past.counts == {State.FAILED: 1, State.UNCERTAIN: 3}
    assert past.intents["a"].job_uuid == sent("a").job_uuid
    assert past.intents["a"].resource_uuid == sent("a").resource_uuid
    assert past.intents["d"].error_code == REPAIRED
    assert past.intents["d"].source_uuid == "source of d"
    await manifest.close(0)


async def test_settled_clone_named_by_later_damage_is_uncertain(tmp_path: Path) -> None:
    """A damaged line after a clone's end may have undone it; targets it does not name are not affected."""
    for key, other in (("a", "d"), ("d", "a")):
        path = await write_damaged(tmp_path)
        lines = path.read_bytes().splitlines(keepends=True)
        line = f'{{"state":"undone","key":"{key}","at":30.0,"attempt":1,"batch":9,"crc":"00000000"}}\n'
        path.write_bytes(b"".join([*lines[:-1], line.encode(), lines[-1]]))
        repair_manifest(path, tmp_path / key)
        manifest = open_manifest(tmp_path / key, HEADER)
        assert manifest.past.intents[key].state is State.UNCERTAIN
        assert (manifest.past.final(other) is not None) == (other == "a")
        await manifest.close(0)


async def test_a_lost_retry_is_not_reported_as_a_failure(tmp_path: Path) -> None:
    """A target that had failed before the damage is uncertain: the lost lines may have retried and cloned it."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.write_plan(plan(list("ab")), [(key, key) for key in "ab"])
    for record in (sent("a"), cloned("a"), sent("b"), failed("b")):
        await manifest.commit(record)
    await manifest.close(3)
    first, manifest = len(disk.data), open_fake(disk)
    for record in (Record(State.PLANNED, "b", 30.0, 0, retried=True), sent("b", at=31.0), cloned("b")):
        await manifest.commit(record)
    last = len(disk.data)
    await manifest.close(0)
    path = tmp_path / "run.manifest.jsonl"
    path.write_bytes(disk.data[:first] + bytes(last - first) + disk.data[last:])
    assert repair_manifest(path, tmp_path / "new").uncertain == 1
    manifest = open_manifest(tmp_path / "new", HEADER)
    assert manifest.past.counts == {State.CLONED: 1, State.UNCERTAIN: 1}
    await manifest.close(0)


async def test_lost_page_loses_no_target_that_was_sent(tmp_path: Path) -> None:
    """Targets of a damaged planned line are known from their own records, if any."""
    path = await write_damaged(tmp_path, '{"planned":[["a"')
    repair_manifest(path, tmp_path / "new")
    manifest = open_manifest(tmp_path / "new", HEADER)
    assert manifest.past.counts == {State.CLONED: 1, State.FAILED: 1, State.UNCERTAIN: 1}
    assert not manifest.past.is_planned("d")
    await manifest.close(0)


async def test_lost_header_cannot_be_repaired(tmp_path: Path) -> None:
    """Without its header the manifest cannot be identified; the message says what to do."""
    path = await write_damaged(tmp_path, '{"format":"zclone')
    with pytest.raises(ManifestError, match="header is damaged: move the file away"):
        repair_manifest(path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


async def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    """Repair writes a new file only, 0600."""
    path = await write_damaged(tmp_path)
    with pytest.raises(UsageError, match="exists"):
        repair_manifest(path, path)
    repair_manifest(path, tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("full_at", [1, 2])
async def test_a_full_disk_leaves_no_file(full_at: int, tmp_path: Path) -> None:
    """A repair that cannot write all of its file says so, and no part of it has a manifest's name at any time."""
    path = await write_damaged(tmp_path)
    out = tmp_path / "new.manifest.jsonl"

    class Full(Disk):
        syncs = 0

        def sync(self, handle: int) -> None:
            self.syncs += 1
            assert [one for one in contents(tmp_path) if one.suffix == ".jsonl"] == [path]
            if self.syncs == full_at:
                raise OSError(errno.ENOSPC, "no space left")
            super().sync(handle)

    with pytest.raises(ManifestError, match="new.manifest.jsonl: no space left"):
        repair_manifest(path, out, disk=Full())
    assert contents(tmp_path) == [path]


def test_missing_manifest_is_a_usage_error(tmp_path: Path) -> None:
    """A path without a manifest ends the command before anything is written."""
    with pytest.raises(UsageError, match="No such file"):
        repair_manifest(tmp_path / "none", tmp_path / "new")


async def test_targets_planned_only_on_a_lost_line_are_planned_again(tmp_path: Path) -> None:
    """The recorded plan is the same, but some of its targets are missing: the next run writes them, once."""
    path = await write_damaged(tmp_path, '"planned":')
    repair_manifest(path, tmp_path / "new")
    whole = plan(list("abcd"))
    for _ in range(2):
        manifest = open_manifest(tmp_path / "new", HEADER)
        past = manifest.past
        await manifest.write_plan(whole, [(key, f"source of {key}") for key in "abcd" if not past.is_planned(key)])
        assert past.counts.total() == 4
        await manifest.close(4)
    assert (tmp_path / "new").read_bytes().count(b'{"planned":') == 1


@pytest.mark.parametrize("spoilt", [(), ('"at_most_once":true',)], ids=["intact", "damaged"])
async def test_the_flag_of_a_lost_line_stays(spoilt: tuple[str, ...], tmp_path: Path) -> None:
    """It was given to a rerun, and only its start line has it: the new header has it too."""
    path = await write_damaged(tmp_path)
    manifest = open_manifest(path, HEADER)
    manifest.past.is_at_most_once = True
    manifest.begin()
    await manifest.commit(sent("d"))
    await manifest.close(4)
    assert was_at_most_once(path)
    data = bytearray(path.read_bytes())
    for needle in (*spoilt, '"state":"sent","key":"c"'):
        data[data.index(needle.encode()) + len(needle) + 2] ^= 1
    path.write_bytes(data)
    repair_manifest(path, tmp_path / "new")
    header, *_ = (tmp_path / "new").read_bytes().splitlines()
    assert json.loads(header)["at_most_once"] is True
