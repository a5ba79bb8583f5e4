"""The cost of ``verify`` for 10,000 clones: calls and memory."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from batch import jobfile
from batch.manifest import Header, open_manifest
from batch.manifest.kinds import ConnectedLine
from batch.model import Record, State
from batch.plan import Planning
from tests import nodes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLONES: Final = 10_000
SOURCE: Final = "d76744cb53f9378abf42b907df3efb6e"
SESSION: Final = "b86c9016b4f24953a9edefb53ca0678c"
MOST_MEMORY: Final = 150 * 1024
"""KiB."""


async def write_run(folder: Path, url: str, *, tag: bool) -> list[dict[str, object]]:
    """Write job file and manifest of a finished run; return its clones as the node has to make them."""
    tags = "userTags: ['team::search']" if tag else ""
    (folder / "job.yaml").write_text(
        f"version: 1\nname: j\nlimits: {{rate: 1000/s}}\ndefaults: {{{tags}}}\ntargets:\n  - {{from: rows.csv}}\n",
        encoding="utf-8",
    )
    rows = "".join(f"{SOURCE},t{number},n{number}\n" for number in range(CLONES))
    (folder / "rows.csv").write_text("uuid,id,params.name\n" + rows, encoding="utf-8")
    header = Header("j", "default", url, simulated=False, created_at=1.0, job_file="job.yaml", tag=tag)
    plan = Planning(jobfile.load(folder / "job.yaml"), run="default", started_at=1.0).plan()
    manifest = open_manifest(folder / "job.manifest.jsonl", header)
    manifest.note_operation(ConnectedLine(1.0, None, 1.0))
    await manifest.write_plan(plan, plan.listing())
    made: list[dict[str, object]] = []
    for clone in plan.clones():
        uuid, name = clone.resource_uuid, str(clone.params["name"])
        sent = Record(State.SENT, clone.key, 1.0, 1, SOURCE, uuid, "1" * 32, clone.digest, open_jobs=())
        manifest.note(sent)
        manifest.note(Record(State.CLONED, clone.key, 2.0, 1, clone_uuid=uuid, name=name))
        own = ["team::search", f"zclone::j::default::{clone.key}"] if tag else []
        made.append({"uuid": uuid, "name": name, "source": SOURCE, "userTags": own})
    await manifest.close(0)
    return made


@pytest.mark.bench
@pytest.mark.parametrize(("tag", "most_calls"), [(False, 60), (True, 130)])
def test_verify_queries_in_pages(
    tmp_path: Path, serve_node: Callable[..., str], child_env: dict[str, str], *, tag: bool, most_calls: int
) -> None:
    """Of 10,000 clones all are in sync after at most 60 calls, 130 with user tags, in at most 150 MiB."""
    url = serve_node()
    made = asyncio.run(write_run(tmp_path, url, tag=tag))
    nodes.tamper(url, {"make": made})
    process = subprocess.Popen(
        [sys.executable, "-m", "batch", "verify", "job.yaml", "-o", "json"],
        cwd=tmp_path,
        env=child_env | {"ZSTACK_API_URL": url, "ZSTACK_SESSION_ID": SESSION},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout as stream:
        text = stream.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    found = json.loads(text)
    assert (process.returncode, found["counts"]["in-sync"], found["findings"]) == (0, CLONES, [])
    assert found["calls"] <= most_calls
    assert usage.ru_maxrss <= MOST_MEMORY
    print(f"{found['calls']} calls, {usage.ru_maxrss // 1024} MiB")
