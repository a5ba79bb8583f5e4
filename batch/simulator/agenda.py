"""What the node has still to do: actions ordered by due time, run by whoever moves the clock."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Agenda:
    """A heap of (due time, action); actions of equal time run in the order they were added."""

    def __init__(self) -> None:
        """Start empty."""
        self._heap: list[tuple[float, int, bool, Callable[[float], None]]] = []
        self._count = 0

    def add(self, due: float, action: Callable[[float], None], *, survives_restart: bool = False) -> None:
        """Run ``action(due)`` once the clock reaches ``due``."""
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, survives_restart, action))

    @property
    def next_due(self) -> float | None:
        """When the next action is due; None when there is none."""
        return self._heap[0][0] if self._heap else None

    def run_until(self, now: float) -> None:
        """Run everything due by ``now``, including what those actions add."""
        while self._heap and self._heap[0][0] <= now:
            due, _, _, action = heapq.heappop(self._heap)
            action(due)

    def forget(self) -> None:
        """Drop what lives in the node's memory, as its death does; requests still on the network stay."""
        self._heap = [entry for entry in self._heap if entry[2]]
        heapq.heapify(self._heap)


class Pool:
    """The check stage's threads: each message holds one for ``seconds``."""

    def __init__(self, workers: int, seconds: float) -> None:
        """Start with every thread free."""
        self._free = [-math.inf] * workers
        self._seconds = seconds

    def pass_(self, now: float) -> float:
        """Take the first free thread; say when the message leaves it."""
        done = max(now, self._free[0]) + self._seconds
        heapq.heapreplace(self._free, done)
        return done
