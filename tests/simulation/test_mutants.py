"""Mistakes planted in the real code are found, and without them nothing is."""

from __future__ import annotations

import pytest

from batch.errors import ZcloneError
from tests.conftest import ROOT
from tests.simulation.directed import KINDS
from tests.simulation.hooks import HOOK_MISTAKES
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.ranges import DEFAULT_SCHEDULES
from tests.simulation.reading_mistakes import MISREADINGS
from tests.simulation.state_mistakes import HOLES

ALL = (*MUTANTS, *MISREADINGS, *HOLES, *HOOK_MISTAKES)

MODELS = ("random", "wider", "hooks")
"""Kinds whose first seeds test_random_schedules.py runs without a mistake."""


def most_seeds(kind: str) -> int:
    """Return in how many schedules of this kind each of its mistakes is found."""
    return max((mutant.within for mutant in ALL if mutant.schedule == kind), default=0)


def found_by(kind: str, seed: int) -> str | None:
    """Return what a schedule finds: a broken promise, or an unexpected error."""
    try:
        problems = KINDS[kind](seed).problems
    except ZcloneError as error:
        return repr(error)
    return problems[0] if problems else None


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_a_planted_mistake_is_found(mutant: Mutant) -> None:
    """Each mistake breaks a promise within its number of schedules."""
    with pytest.MonkeyPatch.context() as patch:
        mutant.plant(patch)
        assert any(found_by(mutant.schedule, seed) for seed in range(mutant.within)), f"{mutant.name} survives"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in MODELS])
def test_without_a_mistake_nothing_is_found(kind: str) -> None:
    """The unchanged code keeps every promise in the very schedules that find the mistakes."""
    assert [(seed, found) for seed in range(most_seeds(kind)) if (found := found_by(kind, seed))] == []


@pytest.mark.parametrize("kind", MODELS)
def test_the_random_schedules_without_a_mistake_include_those_that_find_one(kind: str) -> None:
    """What test_random_schedules.py runs by default begins with the very schedules that find the mistakes."""
    assert 0 < most_seeds(kind) <= DEFAULT_SCHEDULES


def test_the_readme_says_how_soon_each_mistake_is_found() -> None:
    """tests/README.md has every mistake, its kind of schedule and the number of schedules it may take."""
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    for mutant in ALL:
        assert f"| {mutant.name} | {mutant.within} | {mutant.schedule} |\n" in text
