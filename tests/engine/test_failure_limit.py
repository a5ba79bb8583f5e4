"""Which failures count against max_failures and hold a wave back."""

from __future__ import annotations

import pytest

from batch.engine.admission import FailureLimit, find_excess, find_wave_hold
from batch.model import Record, State
from tests.engine.scripted_api import MemoryJournal, MemoryPast
from tests.simulation.virtual import EPOCH


@pytest.mark.parametrize(("removed", "is_over"), [(frozenset(), True), (frozenset({"gone"}), False)])
def test_a_removed_target_counts_for_nothing(removed: frozenset[str], *, is_over: bool) -> None:
    """Its failure in this run is left out, and so is what it settled as."""
    journal = MemoryJournal()
    failures = FailureLimit(MemoryPast(journal), 2)
    failures.exclude(removed, settled={})
    ends = [("gone", State.FAILED), ("a", State.FAILED), ("b", State.FAILED)]
    ends += [(f"k{number}", State.CLONED) for number in range(10)]
    for key, state in ends:
        journal.records.append(Record(state, key, EPOCH, 1))
        failures.note_end(key, state)
    assert (failures.excess() is not None) is is_over


@pytest.mark.parametrize(
    ("counts", "most", "excess", "wave_hold"),
    [
        ({State.CLONED: 20}, None, False, False),
        ({State.CLONED: 9, State.FAILED: 1}, None, False, True),
        ({State.CLONED: 9, State.FAILED: 1}, 0.1, False, False),
        ({State.CLONED: 8, State.FAILED: 1, State.CONFLICT: 1}, 0.1, True, True),
        ({State.CLONED: 7, State.CONFLICT: 2}, 1, False, True),
        ({State.CLONED: 7, State.CONFLICT: 3}, 2, True, True),
        ({State.CLONED: 20, State.UNCERTAIN: 1}, 5, False, True),
    ],
)
def test_counts_alone_decide_the_end_of_a_run(
    counts: dict[State, int], most: float | None, *, excess: bool, wave_hold: bool
) -> None:
    """The sum over several parts of a run is judged like a run."""
    assert (find_excess(counts, most) is not None) is excess
    assert (find_wave_hold(counts, most) is not None) is wave_hold
