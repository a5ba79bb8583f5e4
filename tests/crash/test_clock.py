"""The machine's clock set forward or back while the real command runs: no wait, rate or promise depends on it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests import forkserver
from tests.crash.stage import NodeProcess, environment, finish, node, rows, write_job
from tests.crash.test_process import posts, wait_for_posts
from tests.crash.test_rate import check_never_passed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNT = 30
RATE = 40
DAY = 86_400
RUN = ["run", "job.yaml", "--progress", "none"]
MANIFEST = "job.manifest.jsonl"
NODE = "version: 1\nnode: {latency: [0.2, 0.8]}\n"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[NodeProcess]:
    (tmp_path / "node.yaml").write_text(NODE, encoding="utf-8")
    with node("node.yaml", cwd=tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    "jump",
    [
        pytest.param(DAY, id="a day on"),
        pytest.param(-DAY, id="a day back"),
        pytest.param(-60 * 365 * DAY, id="before 1970"),
    ],
)
def test_the_clock_is_set_during_a_run(jump: int, tmp_path: Path, served: NodeProcess) -> None:
    """Set a day ahead, back, or before 1970 with clones in flight: one clone each, no burst, exit 0, a rerun agrees."""
    write_job(tmp_path, COUNT, rate=f"{RATE}/s", concurrency=8)
    flag = tmp_path / "flag"
    env = environment(served.url) | {"CLOCK_JUMPS": str(jump), "CLOCK_FLAG": str(flag)}
    run = forkserver.start_text(RUN, cwd=tmp_path, env=env)
    wait_for_posts(served, 6)
    flag.touch()
    output = run.communicate(timeout=250)[1]
    assert run.returncode == 0, output
    recorded = (tmp_path / MANIFEST).read_text(encoding="utf-8")
    times = [float(at) for at in re.findall(r'"(?:started|at|ended)":(-?[\d.]+)', recorded)]
    assert max(times) - min(times) > DAY - 60, "the clock was not set"
    ledger = served.ledger()
    made = {clone["uuid"]: clone["source"] for clone in ledger["clones"]}
    assert sorted(made.values()) == [f"{number:032x}" for number in range(1, COUNT + 1)]
    assert len(posts(ledger)) == COUNT
    check_never_passed(sorted(ledger["call_times"]), RATE)
    assert {row["clone_uuid"]: row["source_uuid"] for row in rows(MANIFEST, cwd=tmp_path)} == made
    assert finish(RUN, cwd=tmp_path, url=served.url)[0] == 0
    assert len(posts(served.ledger())) == COUNT
