"""SIGKILL at random moments under faults, then the same command until it ends: exactly one clone per target."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.crash.stage import NodeProcess, finish, kill_after, node, rows, write_job

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = 150
KILLS = 5
RUN = ["run", "job.yaml", "--progress", "none", "--log-file", "run.log"]


def seeds() -> list[object]:
    """One seed by default; the other 19 are asked for by their marker."""
    return [pytest.param(seed, marks=[] if seed == 1 else [pytest.mark.slow]) for seed in range(1, 21)]


def settle_by_rerunning(served: NodeProcess, folder: Path) -> int:
    """Repeat the command until it says 0 or 3."""
    for _ in range(8):
        code, _, err = finish(RUN, cwd=folder, url=served.url)
        if code in {0, 3}:
            return code
        assert code == 4, err
    pytest.fail("the run never ended")


def check(served: NodeProcess, folder: Path) -> None:
    """Ledger against manifest: none duplicated, none lost, none made up."""
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
        assert settle_by_rerunning(served, tmp_path) == 0
        check(served, tmp_path)
