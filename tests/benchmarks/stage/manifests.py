"""Finished manifests of any size, written by the product's own writer and much faster than by a run."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING

from batch.jobfile import load
from batch.manifest import Header, open_manifest
from batch.model import Record, State
from batch.plan import Planning
from tests.crash.stage import write_job

if TYPE_CHECKING:
    from pathlib import Path

    from batch.model import Clone

URL = "http://127.0.0.1:9/zstack"
"""The endpoint of these manifests: a port at which nothing listens."""
_FAILS_EACH = 50
_PER_COMMIT = 64
"""Clones whose records become durable together, as in a run with as many in flight."""


def write_finished(folder: Path, targets: int, *, failing: bool = False) -> Path:
    """Write a job of ``targets`` rows and the manifest of its finished run; ``failing``: every 50th failed."""
    job = load(write_job(folder, targets, rate="1000/s", concurrency=64))
    path = folder / "manifest.jsonl"
    began = time.time() - 3600
    plan = Planning(job, run=None, started_at=began).plan()

    async def write() -> None:
        header = Header("crash", plan.run, URL, simulated=False, tool="zclone", created_at=began, job_file="job.yaml")
        manifest = open_manifest(path, header)
        await manifest.write_plan(plan, ((clone.key, clone.source_uuid) for clone in plan.clones()))
        for number, clone in enumerate(plan.clones()):
            at = began + number / 10
            if number % _PER_COMMIT == 0:
                await manifest.commit(_sent(clone, at))
            else:
                manifest.note(_sent(clone, at))
            manifest.note(_failed(clone, at) if failing and number % _FAILS_EACH == 0 else _cloned(clone, at))
        await manifest.close(3 if failing else 0)

    asyncio.run(write())
    return path


def _sent(clone: Clone, at: float) -> Record:
    job = uuid.uuid4().hex
    deadline = at + 1860.0
    return Record(State.SENT, clone.key, at, 1, clone.source_uuid, clone.resource_uuid, job, clone.digest, deadline)


def _cloned(clone: Clone, at: float) -> Record:
    name = str(clone.params["name"])
    return Record(State.CLONED, clone.key, at + 3, 1, clone_uuid=clone.resource_uuid, name=name)


def _failed(clone: Clone, at: float) -> Record:
    return Record(State.FAILED, clone.key, at + 3, 1, error_code="SYS.1006", error="permission denied")
