"""Thousands of clones while the node is killed repeatedly; ``pytest -m soak`` prints the figures."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.crash.stage import ZCLONE, NodeProcess, environment, rows, start, write_job

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = 5000
UPTIME = (5.0, 40.0)
"""Seconds the node lives between two kills."""
DOWNTIME = (0.5, 8.0)
RUN = ["run", "job.yaml", "--progress", "none", "--log-file", "run.log"]
_ACCOUNT = {"ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "password"}


@dataclass
class MortalNode:
    """A node on one port with one state file, across its kills."""

    folder: Path
    random: random.Random
    kills: int = 0
    serving: NodeProcess | None = None

    def __post_init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        """Start with the state of the killed one."""
        options = ["--port", str(self.port), "--faults", "flaky", "--state", "node.jsonl", "--seed", str(self.kills)]
        process = subprocess.Popen(
            [*ZCLONE, "simulate", *options], stdout=subprocess.PIPE, cwd=self.folder, env=environment()
        )
        assert process.stdout is not None
        self.serving = NodeProcess(json.loads(process.stdout.readline())["url"], process)

    def kill(self) -> dict[str, Any]:
        """Read the ledger, then SIGKILL."""
        assert self.serving is not None
        ledger = self.serving.ledger()
        self.serving.process.kill()
        self.serving.process.wait()
        assert self.serving.process.stdout is not None
        self.serving.process.stdout.close()
        self.kills += 1
        return ledger

    def kill_repeatedly(self, process: subprocess.Popen[str]) -> None:
        """Kill and start the node until ``process`` ends."""
        while True:
            try:
                process.wait(self.random.uniform(*UPTIME))
            except subprocess.TimeoutExpired:
                self.kill()
                time.sleep(self.random.uniform(*DOWNTIME))
                self.start()
            else:
                return


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_node_killed_repeatedly_costs_no_clone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """5,000 targets under faults, the node killed every 5 to 40 s: exit 0, one clone each, none twice, none lost."""
    write_job(tmp_path, TARGETS, rate="60/s", concurrency=64, timeout="90s", attempts=8)
    mortal = MortalNode(tmp_path, random.Random(5))
    assert mortal.serving is not None
    began, starts, code = time.monotonic(), 0, 4
    while code == 4:
        starts += 1
        process = start(RUN, cwd=tmp_path, url=mortal.serving.url, settings=_ACCOUNT)
        mortal.kill_repeatedly(process)
        code = process.returncode
        _, err = process.communicate()
        assert code in {0, 4}, err
    ledger = mortal.kill()
    clones, calls = ledger["clones"], {kind: ledger["calls"][kind] for kind in ("submit", "poll", "query")}
    listed = rows("job.manifest.jsonl", cwd=tmp_path)
    with capsys.disabled():
        print(f"\n{TARGETS} targets in {time.monotonic() - began:.0f} s, {mortal.kills - 1} kills of the node,")
        print(f"{starts} starts of the command, calls: {calls}")
    assert Counter(clone["source"] for clone in clones) == Counter(f"{n:032x}" for n in range(1, TARGETS + 1))
    assert {row["state"] for row in listed} == {"cloned"}
    assert sorted(row["clone_uuid"] for row in listed) == sorted(clone["uuid"] for clone in clones)
