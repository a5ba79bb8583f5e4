"""The api-job store: rows in the shared database and the node's own result cache (zstack/README.md 6)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch.simulator.api import LEGACY_ROW
from batch.simulator.api_errors import ErrorCode

if TYPE_CHECKING:
    from batch.simulator.resources import Resource


@dataclass(frozen=True, slots=True)
class JobResult:
    """The result of a job."""

    content: bytes | Resource | ErrorCode
    """The body, the model service whose inventory is rendered at the poll, or the error."""
    api: str
    """Name of the API."""

    @property
    def ok(self) -> bool:
        """Whether the job succeeded."""
        return not isinstance(self.content, ErrorCode)


@dataclass(slots=True)
class JobRow:
    """AsyncRestVO: ``result`` None means processing."""

    created: float
    result: JobResult | None = None


class JobStore:
    """The job rows; done ones are purged by creation time, processing ones never, so a lost job answers 202 forever."""

    def __init__(self, *, retention: float, cache_size: int, duplicate_window: float) -> None:
        """Durations in seconds."""
        self.rows: dict[str, JobRow] = {}
        self._cache: OrderedDict[str, JobResult] = OrderedDict()
        self._retention = retention
        self._cache_size = cache_size
        self._window = duplicate_window

    def is_duplicate(self, job: str, now: float) -> bool:
        """Return whether the job is known; not atomic with ``insert``, as a row younger than the window is not seen."""
        row = self.rows.get(job)
        return row is not None and now - row.created >= self._window

    def insert(self, job: str, now: float) -> None:
        """Write a processing row; a second insert of the same uuid fails silently."""
        self.rows.setdefault(job, JobRow(now))

    def complete(self, job: str, outcome: JobResult) -> None:
        """Store the result in cache and row; a second execution overwrites the first. Without a row neither is."""
        row = self.rows.get(job)
        if row is None:
            return
        row.result = outcome
        self._cache[job] = outcome
        self._cache.move_to_end(job)
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    def find(self, job: str) -> JobResult | JobRow | None:
        """Look in the cache, then in the rows; a JobRow means processing, None means 404."""
        cached = self._cache.get(job)
        if cached is not None:
            self._cache.move_to_end(job)
            return cached
        row = self.rows.get(job)
        return row if row is None or row.result is None else row.result

    def purge(self, now: float) -> None:
        """Delete done rows created longer ago than the retention; cached results and the legacy API's rows stay."""
        old = [
            job
            for job, row in self.rows.items()
            if row.result is not None and now - row.created > self._retention and not job.startswith(LEGACY_ROW)
        ]
        for job in old:
            del self.rows[job]

    def vanish(self, job: str) -> None:
        """Remove row and cached result of one job."""
        self.rows.pop(job, None)
        self._cache.pop(job, None)

    def restart(self) -> None:
        """Clear the cache, which is in the node's memory; rows are in the database."""
        self._cache.clear()
