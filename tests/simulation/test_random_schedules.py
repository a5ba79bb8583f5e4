"""Random schedules of kills, power cuts, faults, clock jumps, rivals and edits over the real engine and manifest."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT
from tests.simulation.ranges import put_on_record, told
from tests.simulation.schedule import run_schedule

if TYPE_CHECKING:
    from collections.abc import Iterable


def test_every_promise_is_kept(seeds: tuple[int, ...]) -> None:
    """Whatever fails whenever: no clone is made twice, lost or invented, and a healed world is finished."""
    for seed in seeds:
        verdict = run_schedule(seed)
        if verdict.problems:
            put_on_record(verdict)
            pytest.fail(told(verdict), pytrace=False)


def traces(seeds: Iterable[int]) -> str:
    """One digest of everything that happened."""
    told = sha256()
    for seed in seeds:
        told.update("\n".join(run_schedule(seed).trace).encode())
    return told.hexdigest()


def test_the_same_seed_gives_the_same_trace() -> None:
    """I16: byte for byte, also in another interpreter that hashes differently."""
    code = f"from tests.simulation.test_random_schedules import traces; print(traces({range(20)!r}))"
    ours = traces(range(20))
    for hashing in ("1", "271828"):
        env = os.environ | {"PYTHONHASHSEED": hashing, "PYTHONPATH": str(ROOT)}
        child = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
        )
        assert child.stdout.splitlines()[-1] == ours


@pytest.mark.million
@pytest.mark.timeout(0)
def test_a_million_schedules() -> None:
    """Every promise is kept in a million schedules; this takes two or three hours on two cores."""
    subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--schedules", "1000000", "--processes", "2"],
        cwd=ROOT,
        check=True,
    )
