"""Which targets may start: waves, the limit of failures, and the quarantine.

Waves cut the queue into parts that follow each other; waiting targets stay in the one shared iterator. Whether a wave
may start depends on all targets that settled so far, so that a resumed run need not know which target was in which
wave. Targets that left the job file do not count against ``max_failures``.

A kill affects every Clone in flight, so one kill does not identify the cause. A start without an end counts as a
crash; the next process records which targets it continues (``taken_up``). After more than three crashes a target runs
alone and last; after one more it is uncertain with ZCLONE.QUARANTINED until ``zclone retry --state uncertain``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Final, TypeVar

from batch.model import QUARANTINED, Record, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from batch.clock import Clock
    from batch.engine.ports import Journal
    from batch.engine.survey import RunHistory
    from batch.model import Clone, Intent, Wave

_Item = TypeVar("_Item")


def wave_sizes(waves: Sequence[Wave], targets: int) -> tuple[int, ...]:
    """Return how many of the plan's ``targets`` each wave has; the rest forms the last one.

    Shares are rounded up. Waves beyond the last target are omitted; at least one is returned, however small the plan.
    """
    found, left = [], targets
    for wave in waves:
        size = min(left, wave.count or ceil(wave.share * targets))
        if size:
            found.append(size)
        left -= size
    return (*found, left) if left or not found else tuple(found)


def take_first(queue: Iterator[_Item | None], count: int) -> Iterator[_Item | None]:
    """Yield the next ``count`` items of ``queue`` and the None placeholders between them, and take no more from it."""
    while count:
        try:
            item = next(queue)
        except StopIteration:
            return
        count -= item is not None
        yield item


_ENOUGH_SETTLED: Final = 10
"""``max_failures`` applies from this many settled clones on."""


class FailureLimit:
    """The manifest's counts of failures, without targets outside the plan."""

    def __init__(self, past: RunHistory, limit: float | None) -> None:
        """Set the ``limit``: a count from 1 on, a share of the settled ones below 1; None: no limit."""
        self._past = past
        self._limit = limit
        self._outside_plan: Counter[State] = Counter()
        self._removed: frozenset[str] = frozenset()
        self._pending: set[str] = set()

    def expect(self, pending: Iterable[str]) -> None:
        """Ignore the earlier records of the open Clones that this run continues, so that they hold back no wave."""
        self._pending = set(pending)

    def exclude(self, removed: frozenset[str], *, settled: Mapping[State, int]) -> None:
        """Count only the plan: ``settled`` of its targets were settled at the start, ``removed`` are open outside."""
        self._outside_plan = Counter(self._past.settled_counts)
        self._outside_plan.subtract(settled)
        self._removed = removed

    def note_end(self, key: str, state: State) -> None:
        """Count a settled Clone."""
        self._pending.discard(key)
        if key in self._removed and state.is_final:
            self._outside_plan[state] += 1

    def excess(self) -> str | None:
        """Return a message where more failed than the limit allows, else None."""
        failed, settled = self._counts()
        return _excess(failed, settled, self._limit)

    def wave_hold(self) -> str | None:
        """Return why the next wave is held back, else None; without ``max_failures`` any failure holds it back."""
        open_ = self._past.intents.items()
        left_out = self._removed | self._pending
        uncertain = sum(intent.state is State.UNCERTAIN and key not in left_out for key, intent in open_)
        return _wave_problem(uncertain, *self._counts(), self._limit)

    def _counts(self) -> tuple[int, int]:
        """Return the numbers of the plan's failed and of its settled targets."""
        counts = Counter(self._past.settled_counts)
        counts.subtract(self._outside_plan)
        return _failed_of(counts)


def find_excess(counts: Mapping[State, int], limit: float | None) -> str | None:
    """Return a message where more targets failed than ``max_failures`` allows, else None."""
    return _excess(*_failed_of(counts), limit)


def find_wave_hold(counts: Mapping[State, int], limit: float | None) -> str | None:
    """Return why targets in these states hold the next wave back; None where they do not."""
    return _wave_problem(counts.get(State.UNCERTAIN, 0), *_failed_of(counts), limit)


def _failed_of(counts: Mapping[State, int]) -> tuple[int, int]:
    failed = counts.get(State.FAILED, 0) + counts.get(State.CONFLICT, 0)
    return failed, failed + counts.get(State.CLONED, 0)


def _excess(failed: int, settled: int, limit: float | None) -> str | None:
    if limit is None or settled < _ENOUGH_SETTLED or failed <= _max_failed(limit, settled):
        return None
    return f"{failed} of {settled} settled clones failed, more than max_failures allows"


def _wave_problem(uncertain: int, failed: int, settled: int, limit: float | None) -> str | None:
    if uncertain:
        return f"{uncertain} clones are uncertain"
    if failed > _max_failed(limit or 0.0, settled):
        return f"{failed} of {settled} settled clones failed: fix them, then zclone retry"
    return None


def _max_failed(limit: float, settled: int) -> float:
    """Return how many clones may fail: ``limit`` itself, or below 1 that share of the settled ones."""
    return limit if limit >= 1 else limit * settled


_MAX_CRASHES: Final = 3
"""Crashes above which a Clone runs alone; with one more than that it was alone in the last one."""


@dataclass(frozen=True, slots=True)
class OpenClones:
    """The open Clones of a run, by the number of processes that were killed with them in flight."""

    ordinary: tuple[Clone, ...]
    isolated: tuple[Clone, ...]
    """Run alone, after everything else."""
    quarantined: tuple[tuple[Clone, Intent], ...]
    """To be set aside."""


def sort_by_crashes(opened: tuple[Clone, ...], past: RunHistory) -> OpenClones:
    """Group the open Clones by crashes; those that were set aside before are left out."""
    intents = past.intents
    ordinary, isolated, quarantined = [], [], []
    for clone in opened:
        intent = intents[clone.key]
        # Planned again: a running process withdrew the attempt.
        crashes = 0 if intent.state is State.PLANNED else intent.deaths + past.is_cut_off
        if crashes > _MAX_CRASHES + 1:
            quarantined.append((clone, intent))
        elif crashes > _MAX_CRASHES:
            isolated.append(clone)
        elif intent.error_code != QUARANTINED:
            ordinary.append(clone)
    return OpenClones(tuple(ordinary), tuple(isolated), tuple(quarantined))


def quarantine(found: OpenClones, journal: Journal, clock: Clock) -> None:
    """Record the quarantined Clones as uncertain, with the next step for the operator."""
    for clone, intent in found.quarantined:
        text = (
            f"{_MAX_CRASHES + 2} processes were killed while it was in flight, "
            "the last one with nothing else in flight: set aside; "
            f"look for {clone.resource_uuid} on the server, then: zclone retry --state uncertain"
        )
        journal.note(
            Record(State.UNCERTAIN, clone.key, clock.time(), intent.attempt, error_code=QUARANTINED, error=text)
        )
