"""A million targets (by marker): flat memory at the first start and at a resume, and a manifest read back in time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.benchmarks.targets import _peak_mib
from tests.crash.stage import NodeProcess, node, start, write_job

if TYPE_CHECKING:
    from pathlib import Path

MILLION: Final = 1_000_000
MOST_MIB: Final = 300


def run_until_posts(folder: Path, served: NodeProcess, count: int) -> tuple[float, float]:
    """Start the command and kill it after ``count`` POSTs; return the seconds until then and its peak in MiB."""
    began = time.monotonic()
    process = start(["run", "job.yaml", "--progress", "none", "--log-file", "log"], cwd=folder, url=served.url)
    while served.ledger()["calls"].get("submit", 0) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)
    seconds, peak = time.monotonic() - began, _peak_mib(process)
    process.kill()
    process.communicate()
    return seconds, peak


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_targets_stay_below_300_mib(tmp_path: Path) -> None:
    """The first start and the resume after SIGKILL both stay below 300 MiB, and no source is sent twice."""
    write_job(tmp_path, MILLION, rate="500/s", concurrency=32)
    with node("calm", cwd=tmp_path) as served:
        found = [run_until_posts(tmp_path, served, count) for count in (500, 1500)]
        print(*(f"{seconds:.0f} s, {peak:.0f} MiB" for seconds, peak in found), sep="; ")
        made = [clone["source"] for clone in served.ledger()["clones"]]
    assert max(peak for _, peak in found) < MOST_MIB
    assert len(made) == len(set(made)) > 500
