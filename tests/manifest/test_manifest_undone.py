"""Undone clones: counted once each, planned again by a record, and from then on like new."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batch.manifest import open_manifest, read_finished, rows, summary
from batch.manifest.fold import ManifestFold
from batch.manifest.repair import repair_manifest
from batch.model import HandOver, HandOverRecord, Plan, Record, State
from tests.manifest.manifest_world import HEADER, cloned, inline, scan, sent

if TYPE_CHECKING:
    from pathlib import Path

UUID = f"{1:032x}"


def undone(key: str, attempt: int = 1) -> Record:
    return Record(State.UNDONE, key, 30.0, attempt, resource_uuid=UUID, clone_uuid=UUID)


def planned(key: str) -> Record:
    return Record(State.PLANNED, key, 40.0)


async def write(path: Path, *records: Record) -> None:
    manifest = open_manifest(path, HEADER, in_thread=inline, clock=lambda: 1_000.0)
    await manifest.write_plan(Plan("job", "run", "aa", 1, lambda: iter(()), inputs="in"), [("a", "s")])
    for record in records:
        manifest.note(record)
    await manifest.close(4)


async def test_an_undone_clone_is_final_until_it_is_planned_again(tmp_path: Path) -> None:
    """Undone it has an end and a used-up uuid; planned it is open again, in its second generation."""
    path = tmp_path / "m"
    await write(path, sent("a"), cloned("a"), undone("a"))
    manifest = open_manifest(path, HEADER, in_thread=inline)
    past = manifest.past
    assert past.counts == {State.UNDONE: 1}
    assert past.undone
    assert (past.undone.generation("a"), past.undone.generation("b")) == (1, 0)
    assert past.undone.has_uuid(UUID)
    assert not past.undone.has_uuid("2" * 32)
    final = past.final("a")
    assert final is not None
    assert final[0] is State.UNDONE
    manifest.note(planned("a"))
    assert (past.counts, past.final("a")) == ({State.PLANNED: 1}, None)
    manifest.note(sent("a"))
    manifest.note(cloned("a"))
    assert past.counts == {State.CLONED: 1}
    await manifest.close(0)
    again = ManifestFold()
    for line in scan(path):
        again.add(line)
    again.finish()
    assert (again.counts, again.undone.generation("a")) == ({State.CLONED: 1}, 1)
    assert [row.state for row in rows(path)] == [State.CLONED]
    assert summary(path).counts == {State.CLONED: 1}


async def test_each_undone_clone_counts_once(tmp_path: Path) -> None:
    """The same record twice is one generation, another clone undone is the next one."""
    path = tmp_path / "m"
    await write(path, sent("a"), cloned("a"), undone("a"), undone("a"), planned("a"), sent("a"), cloned("a"))
    manifest = open_manifest(path, HEADER, in_thread=inline)
    assert manifest.past.undone.generation("a") == 1
    manifest.note(undone("a")._replace(clone_uuid="c" * 32, resource_uuid="c" * 32))
    assert manifest.past.undone.generation("a") == 2
    await manifest.close(4)


async def test_a_run_with_undone_clones_is_not_finished(tmp_path: Path) -> None:
    """A rerun has something to do, whatever the last line says."""
    path = tmp_path / "m"
    await write(path, sent("a"), cloned("a"))
    assert read_finished(path) is not None
    await write(path, undone("a"))
    assert read_finished(path) is None


@pytest.mark.parametrize("error_code", [None, "ID.1003"])
async def test_an_undone_clone_is_not_handed_over(tmp_path: Path, error_code: str | None) -> None:
    """Neither done nor refused counts for the next clone of the target."""
    path = tmp_path / "m"
    wanted = HandOver("5" * 32)
    await write(path, sent("a"), cloned("a"))
    manifest = open_manifest(path, HEADER, in_thread=inline)
    manifest.note_hand_over(HandOverRecord("a", 25.0, wanted, UUID, error_code))
    overs = manifest.past.hand_overs
    assert overs.done + overs.refused == 1
    manifest.note(undone("a"))
    assert (overs.done, overs.refused, overs.is_done("a", wanted), overs.is_refused("a", wanted)) == (
        0,
        0,
        False,
        False,
    )
    manifest.note_hand_over(HandOverRecord("a", 50.0, wanted, UUID))
    assert (overs.done, overs.is_done("a", wanted)) == (1, True)
    await manifest.close(4)
    assert summary(path).clusters == ()


@pytest.mark.parametrize("lost", [b'"state":"undone"', b'"state":"planned"'])
async def test_a_lost_line_between_two_generations_leaves_the_target_in_doubt(tmp_path: Path, lost: bytes) -> None:
    """A repaired manifest can be resumed, and does not take the first clone for the current one."""
    path = tmp_path / "m"
    again = [sent("a"), sent("a", 2), cloned("a", 2)]
    await write(path, sent("a"), cloned("a"))
    await write(path, undone("a"))
    await write(path, planned("a"))
    await write(path, *again)
    data = bytearray(path.read_bytes())
    data[data.index(lost) + len(lost) - 2] ^= 1
    path.write_bytes(data)
    assert repair_manifest(path, tmp_path / "repaired").damaged == 1
    manifest = open_manifest(tmp_path / "repaired", HEADER, in_thread=inline)
    assert manifest.past.counts[State.CLONED] == 0
    assert manifest.past.is_repaired
    await manifest.close(4)
