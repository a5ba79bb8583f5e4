"""SIGKILL at random moments under faults, then the same command until it ends: exactly one clone per target."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from batch.model import QUARANTINED
from tests.crash.stage import NodeProcess, finish, kill_after, node, rows, write_job

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = 150
KILLS = 5
RUN = ["run", "job.yaml", "--progress", "none", "--log-file", "run.log"]


def seeds() -> list[object]:
    """Return one seed by default; the marker selects the other 19."""
    return [pytest.param(seed, marks=[] if seed == 1 else [pytest.mark.slow]) for seed in range(1, 21)]


def settle_by_rerunning(served: NodeProcess, folder: Path) -> None:
    """Rerun the command until it exits with 0; a target quarantined after five crashes needs a retry."""
    for _ in range(8):
        code, out, err = finish(RUN, cwd=folder, url=served.url)
        if code == 0:
            return
        open_rows = [row for row in rows("job.manifest.jsonl", cwd=folder) if row["state"] != "cloned"]
        assert code in {3, 4}, f"{out}{err}"
        if code == 3:
            assert {row["error_code"] for row in open_rows} == {QUARANTINED}, open_rows
            code, out, err = finish(["retry", "job.yaml", "--state", "uncertain"], cwd=folder, url=served.url)
            assert code in {0, 4}, f"{out}{err}"
    pytest.fail("the run never ended")


def check(served: NodeProcess, folder: Path) -> None:
    """Compare ledger and manifest: none duplicated, none lost, none made up."""
    made = served.ledger()["clones"]
    listed = rows("job.manifest.jsonl", cwd=folder)
    assert Counter(clone["source"] for clone in made) == Counter(f"{n:032x}" for n in range(1, TARGETS + 1))
    assert {row["state"] for row in listed} == {"cloned"}
    assert sorted(row["clone_uuid"] for row in listed) == sorted(clone["uuid"] for clone in made)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", seeds())
def test_five_kills_under_faults_leave_one_clone_per_target(seed: int, tmp_path: Path) -> None:
    """150 targets, flaky faults, five SIGKILLs, the same command until it ends: exit 0 and one clone each."""
    random_ = random.Random(seed)
    write_job(tmp_path, TARGETS, rate="400/s", concurrency=24, timeout="8s", attempts=6)
    with node("flaky", seed=seed, cwd=tmp_path) as served:
        for _ in range(KILLS):
            kill_after(RUN, random_.uniform(0.9, 3.0), cwd=tmp_path, url=served.url)
        settle_by_rerunning(served, tmp_path)
        check(served, tmp_path)
