"""The ledger of clones made and calls received, to verify a client's records."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batch.simulator.resources import Resource
    from batch.simulator.wire import Json


class Ledger:
    """Counts and times of calls, with nine bytes per call and one reference per clone."""

    def __init__(self) -> None:
        """Start empty."""
        self.clones: list[Resource] = []
        self.calls: Counter[str] = Counter()
        self.posts: Counter[str] = Counter()
        """POSTs received per source, repeated and refused ones included."""
        self.faults: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        """duplicate_jobs, logins, http_sessions, refused, restarts, deleted, ..."""
        self.updates: list[tuple[str, tuple[str, ...]]] = []
        """Each executed UpdateModelService: the service, and the fields that it set."""
        self.owners: Counter[str] = Counter()
        """How often each resource was given to another account."""
        self.in_flight = 0
        self.max_in_flight = 0
        self._times = array("d")
        self._kinds = array("B")
        self._names: list[str] = []

    def call(self, kind: str, now: float, source: str | None) -> int:
        """Record a received call and return its number among its kind, from 1."""
        self.calls[kind] += 1
        if kind == "submit" and source is not None:
            self.posts[source] += 1
        if kind not in self._names:
            self._names.append(kind)
        self._times.append(now)
        self._kinds.append(self._names.index(kind))
        return self.calls[kind]

    def clone(self, row: Resource) -> None:
        """Record a clone that was made."""
        self.clones.append(row)

    def job_started(self) -> None:
        """Record an accepted job."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def job_ended(self) -> None:
        """Record the end of an accepted job."""
        self.in_flight -= 1

    def duplicates(self) -> list[Json]:
        """Return the clones made more than once with the same source, name and parameters."""
        return [
            {"source": source, "name": name, "count": count}
            for (source, name, _), count in Counter(map(_identity, self.clones)).items()
            if count > 1
        ]

    def peak(self) -> int:
        """Return the maximum number of calls in any one second, excluding its end."""
        times = sorted(self._times)
        first = best = 0
        for last, at in enumerate(times):
            while at - times[first] >= 1.0:
                first += 1
            best = max(best, last - first + 1)
        return best

    def json(self, *, clones: bool = True, times: bool = True) -> Json:
        """Write the ledger as JSON; ``clones`` and ``times`` are the two parts that grow."""
        answer: Json = {
            "clones_made": len(self.clones),
            "clones_per_source": dict(Counter(row.source for row in self.clones)),
            "duplicates": self.duplicates(),
            "calls": dict(self.calls),
            "calls_total": len(self._times),
            "calls_peak_1s": self.peak(),
            "posts_per_source": dict(self.posts),
            "faults": dict(self.faults),
            "max_concurrent": self.max_in_flight,
            "updates": [{"uuid": uuid, "fields": list(fields)} for uuid, fields in self.updates],
            **self.counts,
        }
        if clones:
            answer["clones"] = [{**_clone_json(row), "given": self.owners[row.uuid]} for row in self.clones]
        if times:
            answer["call_times"] = list(self._times)
            answer["call_kinds"] = [self._names[kind] for kind in self._kinds]
        return answer


def _identity(row: Resource) -> tuple[str, str, int]:
    return row.source or "", row.name or "", row.digest


def _clone_json(row: Resource) -> Json:
    return {
        "uuid": row.uuid,
        "source": row.source,
        "name": row.name,
        "params": dict(row.params),
        "user_tags": list(row.tags),
        "owner": row.owner,
        "shared": list(row.shared),
        "made_at": row.made_at,
        "job": row.job,
        "deleted": row.deleted,
    }
