"""Workflows that an earlier version started continue under this one: their recorded histories are replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from batch.temporal.payloads import data_converter
from batch.temporal.worker import WORKFLOWS

HISTORIES: Final = sorted((Path(__file__).parent / "histories").glob("*.json"))


def replayer() -> Replayer:
    return Replayer(workflows=WORKFLOWS, data_converter=data_converter())


def read(path: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json("zclone/http://127.0.0.1/zstack/history/default", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_recorded_workflow_continues(path: Path) -> None:
    """Every recorded history is replayed to the same calls, timers and signals in the same order."""
    await replayer().replay_workflow(read(path))


def test_every_kind_of_workflow_is_recorded() -> None:
    """There is a history of a run, and of a page with each kind of call."""
    assert any("-run-" in path.name for path in HISTORIES)
    names: set[str] = set()
    for path in HISTORIES:
        for event in json.loads(path.read_text(encoding="utf-8"))["events"]:
            names.add(event.get("activityTaskScheduledEventAttributes", {}).get("activityType", {}).get("name", ""))
    assert {"submit", "poll", "find", "share"} <= names


async def test_a_workflow_that_deviates_is_detected() -> None:
    """A change after which a running workflow could not continue fails here: its next call is another one."""
    path = next(path for path in HISTORIES if "-page-" in path.name)
    text = path.read_text(encoding="utf-8").replace('"name": "submit"', '"name": "find"')
    with pytest.raises(NondeterminismError):
        await replayer().replay_workflow(WorkflowHistory.from_json("other", text))
