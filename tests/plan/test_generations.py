"""The clones of later generations: another uuid, otherwise the same request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batch import jobfile
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


def test_a_later_generation_has_another_uuid_and_nothing_else(tmp_path: Path) -> None:
    """Uuid, body and digest follow the generation; a given uuid, other targets and the plan's digest stay."""
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    plan = Planning(jobfile.load(tmp_path / "job.yaml"), run="r", started_at=0.0).plan()
    again = regenerate(plan, lambda key: {"a": 2, "c": 1}.get(key, 0))
    first, second, third = again.clones()
    before = list(plan.clones())
    uuid = resource_uuid("job", "r", "a", generation=2)
    assert (first.resource_uuid, uuid == before[0].resource_uuid) == (uuid, False)
    assert json.loads(first.body) == json.loads(before[0].body) | {"params": {"name": "x", "resourceUuid": uuid}}
    assert first.digest == clone_digest(UUID, first.body)
    assert [second, third] == before[1:]
    assert again.digest == plan.digest
