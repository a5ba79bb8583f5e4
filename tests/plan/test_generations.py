"""The clones of later generations: another uuid, otherwise the same request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batch import jobfile
from batch.manifest.operations import UndoneFold
from batch.model import Record, State
from batch.plan import Planning, regenerate, resource_uuid
from batch.plan.identity import clone_digest

if TYPE_CHECKING:
    from pathlib import Path

UUID = "d76744cb53f9378abf42b907df3efb6e"
GIVEN = "90d425a802ff44eeb530f21587633700"
JOB = f"""\
version: 1
name: job
targets:
  - {{uuid: {UUID}, id: a, params: {{name: x}}, userTags: [team::search], systemTags: [s::t]}}
  - {{uuid: {UUID}, id: b}}
  - {{uuid: {UUID}, id: c, params: {{resourceUuid: {GIVEN}}}}}
"""


def undone_of(uuids: dict[str, list[str]]) -> UndoneFold:
    """Return the fold of some records that clones were undone; ``uuids``: by key those they had."""
    undone = UndoneFold()
    for key, gone in uuids.items():
        for uuid in gone:
            undone.add(Record(State.UNDONE, key, 0.0, clone_uuid=uuid))
    return undone


def test_a_uuid_that_was_used_up_is_skipped(tmp_path: Path) -> None:
    """Of two records that a clone was undone one may be lost; a record that is repeated does not count twice."""
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    plan = Planning(jobfile.load(tmp_path / "job.yaml"), run="r", started_at=0.0).plan()
    first, second = (resource_uuid("job", "r", "a", generation=number) for number in (1, 2))
    for gone in ([first], [first, first]):
        assert next(iter(regenerate(plan, undone_of({"a": gone})).clones())).resource_uuid == second


def test_a_later_generation_has_another_uuid_and_nothing_else(tmp_path: Path) -> None:
    """Uuid, body and digest follow the generation; a given uuid, other targets and the plan's digest stay."""
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    plan = Planning(jobfile.load(tmp_path / "job.yaml"), run="r", started_at=0.0).plan()
    again = regenerate(plan, undone_of({"a": ["0" * 32, "1" * 32], "c": [GIVEN]}))
    first, second, third = again.clones()
    before = list(plan.clones())
    uuid = resource_uuid("job", "r", "a", generation=2)
    assert (first.resource_uuid, uuid == before[0].resource_uuid) == (uuid, False)
    assert json.loads(first.body) == json.loads(before[0].body) | {"params": {"name": "x", "resourceUuid": uuid}}
    assert first.digest == clone_digest(UUID, first.body)
    assert [second, third] == before[1:]
    assert again.digest == plan.digest
