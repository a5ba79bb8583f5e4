"""The api-job store: rows in the shared database and the node's own result cache (wire: sections 0, 4)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batch.simulator.resources import Resource


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: ``content`` is the body's bytes, or the clone whose inventory is written when asked for."""

    ok: bool
    content: bytes | Resource


@dataclass(slots=True)
class Row:
    """AsyncRestVO: ``outcome`` None means processing."""

    created: float
    outcome: Outcome | None = None


class JobStore:
    """Rows are purged by creation time once done; processing ones never are, so a lost job answers 202 for ever."""

    def __init__(self, *, retention: float, cache_size: int, duplicate_window: float) -> None:
        """Durations in seconds."""
        self.rows: dict[str, Row] = {}
        self._cache: OrderedDict[str, Outcome] = OrderedDict()
        self._retention = retention
        self._cache_size = cache_size
        self._window = duplicate_window

    def is_duplicate(self, job: str, now: float) -> bool:
        """Check, not atomically with ``insert``: a row younger than the window is not seen yet."""
        row = self.rows.get(job)
        return row is not None and now - row.created >= self._window

    def insert(self, job: str, now: float) -> None:
        """Write a processing row; a second insert of the same uuid fails silently."""
        self.rows.setdefault(job, Row(now))

    def complete(self, job: str, outcome: Outcome) -> None:
        """Keep the result in cache and row; a second execution overwrites the first. Without a row nothing stays."""
        row = self.rows.get(job)
        if row is None:
            return
        row.outcome = outcome
        self._cache[job] = outcome
        self._cache.move_to_end(job)
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    def find(self, job: str) -> Outcome | Row | None:
        """Ask the cache first, then the rows: a Row is a processing one, None is 404."""
        cached = self._cache.get(job)
        if cached is not None:
            self._cache.move_to_end(job)
            return cached
        row = self.rows.get(job)
        return row if row is None or row.outcome is None else row.outcome

    def purge(self, now: float) -> None:
        """Delete done rows created longer ago than the retention; their cached results stay."""
        old = [job for job, row in self.rows.items() if row.outcome is not None and now - row.created > self._retention]
        for job in old:
            del self.rows[job]

    def vanish(self, job: str) -> None:
        """Remove row and cached result of one job."""
        self.rows.pop(job, None)
        self._cache.pop(job, None)

    def restart(self) -> None:
        """Lose the cache with the node's memory; rows are in the database."""
        self._cache.clear()
