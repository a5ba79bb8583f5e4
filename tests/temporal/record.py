"""Record the histories of a small run: ``python -m tests.temporal.record FOLDER``, once for each released version.

The run has lost replies, a temporary failure, waves and a hand-over, so that its histories have every kind of call.
Recorded histories stay: running workflows of that version must resume under every later one.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Final

from batch import __version__
from batch.temporal.worker import open_connection
from tests.crash.stage import node
from tests.temporal.stage import Stage, faults, staged, temporal_server

_FAULTS: Final = """
version: 1
node: {latency: [0.1, 0.3], invent_accounts: true}
faults:
  - {fault: lost_reply, requests: 4}
  - {fault: fail, code: SYS.1006, cause: SYS.1015, requests: 6}
"""
_JOB: Final = """
version: 1
name: history
limits: {concurrency: 4, waves: [1, rest]}
defaults: {params: {requestCpu: 2}}
targets:
"""


def write_job(folder: Path) -> None:
    """Write a job of six targets, one of which is shared."""
    targets = "".join(f"  - {{uuid: '{number:032x}', id: t{number}}}\n" for number in range(1, 6))
    shared = f"  - {{uuid: '{6:032x}', id: t6, share_with: ['{7:032x}']}}\n"
    (folder / "job.yaml").write_text(_JOB + targets + shared, encoding="utf-8")


async def fetch(stage: Stage, folder: Path) -> None:
    """Write the history of every workflow of the run except the query that preceded it."""
    client = (await open_connection(stage.settings)).client
    number = 0
    async for found in client.list_workflows():
        if found.workflow_type != "zclone.greeting":
            history = await client.get_workflow_handle(found.id, run_id=found.run_id).fetch_history()
            number += 1
            kind = found.workflow_type.removeprefix("zclone.")
            plain = re.sub(r"\d+@[\w.-]+", "1@worker", history.to_json())
            text = json.dumps(json.loads(plain), indent=0, sort_keys=True)
            (folder / f"{__version__}-{kind}-{number}.json").write_text(text + "\n", encoding="utf-8")


def main(folder: Path) -> None:
    """Run and record."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_job(place)
        with (
            temporal_server(place) as server,
            node(faults(place, _FAULTS), cwd=place) as served,
            staged(place, served.url, server) as stage,
        ):
            stage.work()
            code, output = stage.run_job()
            assert code == 0, output
            asyncio.run(fetch(stage, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
