"""A withdrawn target: not final, counted separately, and open again once it is planned or sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batch.manifest import read_finished
from batch.model import Record, State
from tests.manifest.manifest_world import PATH, FakeDisk, cloned, open_fake, plan, sent

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ["a", "b"]
GONE = Record(State.WITHDRAWN, "b", 3.0)


async def withdrawn() -> FakeDisk:
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.write_plan(plan(KEYS), ((key, key) for key in KEYS))
    await manifest.commit(sent("a"))
    manifest.note(cloned("a"))
    await manifest.commit(GONE)
    await manifest.write_plan(plan(KEYS[:1], "bb"), ())
    await manifest.close(0)
    return disk


async def test_a_withdrawn_target_is_not_final() -> None:
    """It has no final state, counts as withdrawn, and a second time changes nothing."""
    manifest = open_fake(await withdrawn())
    past = manifest.past
    assert past.final("b") is None
    assert past.counts == {State.CLONED: 1, State.WITHDRAWN: 1}
    assert past.settled_counts == {State.CLONED: 1}
    manifest.note(GONE)
    assert past.counts == {State.CLONED: 1, State.WITHDRAWN: 1}


@pytest.mark.parametrize("is_planned_first", [True, False])
async def test_a_withdrawn_target_continues_like_any_other(is_planned_first: bool) -> None:  # noqa: FBT001 - a parameter
    """Planned again, or sent as after a repair, it settles; a later reader counts the same."""
    disk = await withdrawn()
    manifest = open_fake(disk)
    if is_planned_first:
        manifest.note(Record(State.PLANNED, "b", 4.0))
        assert manifest.past.counts == {State.CLONED: 1, State.PLANNED: 1}
    await manifest.commit(sent("b"))
    assert manifest.past.counts == {State.CLONED: 1, State.SENT: 1}
    manifest.note(cloned("b"))
    await manifest.close(0)
    assert manifest.past.counts == open_fake(disk).past.counts == {State.CLONED: 2}


async def test_a_clone_cannot_be_withdrawn() -> None:
    """A cloned target stays cloned."""
    manifest = open_fake(await withdrawn())
    manifest.note(GONE._replace(key="a"))
    assert manifest.past.counts == {State.CLONED: 1, State.WITHDRAWN: 1}


async def test_a_run_with_withdrawn_targets_is_finished(tmp_path: Path) -> None:
    """Its last line shows a rerun that nothing is left."""
    path = tmp_path / PATH.name
    path.write_bytes((await withdrawn()).data)
    path.chmod(0o600)
    found = read_finished(path)
    assert found is not None
    assert found.counts == {State.CLONED: 1, State.WITHDRAWN: 1}
