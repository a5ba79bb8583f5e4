"""A finished run is recognised by its manifest's last line, if nothing contradicts it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from batch.manifest import read_finished
from batch.manifest.kinds import DeletingLine
from batch.model import Pins, State
from tests.manifest.manifest_world import PATH, FakeDisk, cloned, failed, hex_id, open_fake, plan, sent

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ["a", "b", "c"]


async def whole_run(*, leave_open: bool = False, planned: int = len(KEYS)) -> FakeDisk:
    """Write a run of KEYS with pins, the last one failed; ``planned``: what its plan says it has."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.write_pins(Pins({"source": {"size": 1}}))
    await manifest.write_plan(plan(KEYS[:planned]), ((key, key) for key in KEYS))
    for key in KEYS:
        await manifest.commit(sent(key))
        if not leave_open or key != KEYS[-1]:
            manifest.note(failed(key) if key == KEYS[-1] else cloned(key))
    await manifest.close(3)
    return disk


def on_disk(disk: FakeDisk, folder: Path) -> Path:
    path = folder / PATH.name
    path.write_bytes(disk.data)
    path.chmod(0o600)
    return path


async def test_a_finished_run_has_its_counts_plan_and_pins(tmp_path: Path) -> None:
    """They are those of the fold."""
    disk = await whole_run()
    found = read_finished(on_disk(disk, tmp_path))
    assert found is not None
    past = open_fake(disk).past
    assert found.counts == past.counts == Counter({State.CLONED: 2, State.FAILED: 1})
    assert (found.plan, found.pins) == (past.plan, past.pinned.pins)
    assert found.header.job == "job"


async def test_a_run_with_work_left_is_not_finished(tmp_path: Path) -> None:
    """One clone in flight is enough."""
    assert read_finished(on_disk(await whole_run(leave_open=True), tmp_path)) is None


async def test_targets_outside_the_plan_need_a_fold(tmp_path: Path) -> None:
    """If the record has more targets than the plan, the last line does not count the plan's own."""
    assert read_finished(on_disk(await whole_run(planned=2), tmp_path)) is None


async def test_a_run_with_a_delete_on_record_needs_a_fold(tmp_path: Path) -> None:
    """The last line does not show whether the clone is gone."""
    disk = await whole_run()
    manifest = open_fake(disk)
    manifest.note_operation(DeletingLine("a", 30.0, hex_id(1), hex_id(8)))
    await manifest.close(3)
    assert read_finished(on_disk(disk, tmp_path)) is None


async def test_a_resumed_process_cancels_the_end(tmp_path: Path) -> None:
    """Only the very last line counts."""
    disk = await whole_run()
    manifest = open_fake(disk)
    await manifest.write_pins(Pins({"source": {"size": 2}}))
    assert read_finished(on_disk(disk, tmp_path)) is None
    await manifest.close(3)
    assert read_finished(on_disk(disk, tmp_path)) is not None


async def test_damage_is_left_to_the_opening_of_the_manifest(tmp_path: Path) -> None:
    """Neither a flipped bit nor a cut leaves a finished run behind."""
    disk = await whole_run()
    path = on_disk(disk, tmp_path)
    data = path.read_bytes()
    for place in range(0, len(data), 5):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert read_finished(path) is None, place
        path.write_bytes(data[:place])
        assert read_finished(path) is None, place


async def test_a_file_that_others_could_have_written_is_not_believed(tmp_path: Path) -> None:
    """A link, a second name or a file that others may write to is left to the opening, which refuses it."""
    path = on_disk(await whole_run(), tmp_path)
    link, second = tmp_path / "link", tmp_path / "second"
    link.symlink_to(path)
    assert (read_finished(path) is None, read_finished(link) is None) == (False, True)
    second.hardlink_to(path)
    assert read_finished(path) is None
    second.unlink()
    path.chmod(0o622)
    assert read_finished(path) is None


@pytest.mark.parametrize("text", ["", "\n", "no manifest\n", '{"ended":1.0,"counts":{"cloned":1}}\n'])
def test_other_files_are_not_finished_runs(tmp_path: Path, text: str) -> None:
    """Nor is a missing file."""
    path = tmp_path / "file"
    assert read_finished(path) is None
    path.write_text(text)
    assert read_finished(path) is None
