"""Random schedules of kills, power cuts, faults, clock jumps, rivals and edits over the real engine and manifest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT
from tests.simulation.hooks import run_hooks
from tests.simulation.ranges import DEFAULT_SCHEDULES, describe, put_on_record
from tests.simulation.schedule import run_schedule
from tests.simulation.wider import run_wider

if TYPE_CHECKING:
    from collections.abc import Iterable


def test_every_promise_is_kept(seeds: tuple[int, ...]) -> None:
    """Whatever fails: no clone is made twice, lost or invented, and a healed world is finished."""
    for seed in seeds:
        verdict = run_schedule(seed)
        if verdict.problems:
            put_on_record(verdict)
            pytest.fail(describe(verdict), pytrace=False)


def test_every_promise_is_kept_with_a_verdict_for_each_attempt(seeds: tuple[int, ...]) -> None:
    """With refused lookups and logins too, no clone is disowned or made twice."""
    for seed in seeds:
        verdict = run_wider(seed)
        if verdict.problems:
            pytest.fail(describe(verdict, kind="wider"), pytrace=False)


def test_every_promise_is_kept_with_unreliable_web_hooks(seeds: tuple[int, ...]) -> None:
    """Web hooks lost, duplicated, late, forged and replayed: nothing false is believed, and nothing is missed."""
    for seed in seeds:
        verdict = run_hooks(seed)
        if verdict.problems:
            pytest.fail(describe(verdict, kind="hooks"), pytrace=False)


@pytest.mark.parametrize("seed", [646, 1300, 6096])
def test_web_hook_schedules_that_once_broke_a_promise(seed: int) -> None:
    """A POST without an answer waited for a hook; a clone found after a repair was no proof; a clock was set back."""
    assert run_hooks(seed).problems == ()


def traces(seeds: Iterable[int]) -> str:
    """Return a digest of the whole trace of each seed."""
    digest = sha256()
    for seed in seeds:
        for run in (run_schedule, run_wider, run_hooks):
            digest.update("\n".join(run(seed).trace).encode())
    return digest.hexdigest()


def test_the_same_seed_gives_the_same_trace() -> None:
    """I16: byte for byte, also in another interpreter that hashes differently."""
    code = f"from tests.simulation.test_random_schedules import traces; print(traces({range(10)!r}))"
    ours = traces(range(10))
    for hashing in ("1", "271828"):
        env = os.environ | {"PYTHONHASHSEED": hashing, "PYTHONPATH": str(ROOT)}
        child = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
        )
        assert child.stdout.splitlines()[-1] == ours


def test_the_proof_continues_where_the_default_run_ends() -> None:
    """CI runs no schedule twice and leaves none out: the default run and the proof are the seeds from 0 to 999."""
    (given,) = re.findall(r"--seed (\d+) --schedules (\d+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert [int(number) for number in given] == [DEFAULT_SCHEDULES, 1000 - DEFAULT_SCHEDULES]


@pytest.mark.million
@pytest.mark.timeout(0)
def test_a_million_schedules() -> None:
    """Every promise is kept in a million schedules; this takes two or three hours on two cores."""
    subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--schedules", "1000000", "--processes", "2"],
        cwd=ROOT,
        check=True,
    )
