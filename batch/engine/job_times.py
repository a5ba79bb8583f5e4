"""Estimates from polls how long api jobs take: a hazard for each age interval, so that each poll informs all jobs.

A poll that finds a job running shows that it outlives its age; one that finds it ended shows only that it ended after
the previous poll. Both are evidence about the intervals between (interval-censored survival, as in a Kaplan-Meier
estimate): long jobs are not underestimated because short ones end first. The wait for the rate limiter is not part of
it. Jobs that ran during an outage are not sampled.
"""

from __future__ import annotations

from bisect import bisect_left
from math import exp, expm1, log, log1p
from typing import Final

_FIRST: Final = 0.02
"""Seconds: the end of the first interval, and the earliest age at which a job is polled."""
_GROWTH: Final = 1.06
"""Factor by which each interval is longer than the one before."""
_SPANS: Final = 280
"""Number of intervals: up to almost 3 days."""
_PRIOR: Final = 0.02
"""Prior: share of jobs that end in an interval without samples."""
_PRIOR_WEIGHT: Final = 0.3
"""Weight of the prior, in jobs."""
_SURE: Final = 0.98
"""Largest share of jobs that may end in one interval."""
_REMEMBERED: Final = 512.0
"""Ends after which old samples count half: a server may get slower."""
_LOG_GROWTH: Final = log(_GROWTH)


class JobTimes:
    """The share of jobs that end in each age interval; ages are seconds since the POST was answered."""

    def __init__(self) -> None:
        """Start without samples."""
        self._ends = [0.0] * _SPANS
        self._seen = [0.0] * _SPANS
        self._total = 0.0
        self._hazard = [0.0] * (_SPANS + 1)
        """Cumulative: ``exp(-hazard[n])`` is the share of jobs that outlive n intervals."""
        self._is_stale = True
        self.refresh()

    @property
    def has_ends(self) -> bool:
        """Whether any job's end was observed."""
        return self._total > 0.0

    def note_running(self, before: float, age: float) -> None:
        """Add the sample that a job runs at ``age``; that it ran at ``before`` was added already."""
        for span in range(_span_of(before), _span_of(age)):
            self._seen[span] += 1.0
        self._is_stale = True

    def note_end(self, before: float, age: float) -> None:
        """Add the sample that a job ran at ``before`` and had ended at ``age``; spread the end over the intervals."""
        first, last = _span_of(before), _span_of(age)
        hazard = self._hazard
        shares = [exp(-hazard[span]) - exp(-hazard[span + 1]) for span in range(first, last + 1)]
        whole, left = sum(shares), 1.0
        for span, share in enumerate(shares, first):
            self._seen[span] += left
            self._ends[span] += share / whole
            left -= share / whole
        self._total += 1.0
        if self._total > _REMEMBERED:
            self._forget()
        self._is_stale = True

    def age_at(self, chance: float, *, running_at: float) -> float:
        """Return the age by which a job that ran at age ``running_at`` has ended with probability ``chance``."""
        hazard = self._hazard
        wanted = self._hazard_at(running_at) - log1p(-chance)
        span = bisect_left(hazard, wanted)
        if span > _SPANS:
            return _age_of(_SPANS)
        below, above = hazard[span - 1], hazard[span]
        return _age_of(span - 1 + (wanted - below) / (above - below))

    def chance(self, age: float, *, running_at: float) -> float:
        """Return the probability that a job that ran at age ``running_at`` has ended at ``age``."""
        return -expm1(self._hazard_at(running_at) - self._hazard_at(age))

    def refresh(self) -> None:
        """Recompute the hazards from the samples; ``age_at`` and ``chance`` use the last result."""
        if not self._is_stale:
            return
        self._is_stale, whole = False, 0.0
        for span, (ends, seen) in enumerate(zip(self._ends, self._seen, strict=True), 1):
            whole -= log1p(-min(_SURE, (ends + _PRIOR * _PRIOR_WEIGHT) / (seen + _PRIOR_WEIGHT)))
            self._hazard[span] = whole

    def quantile(self, share: float) -> float:
        """Return the age in seconds by which this share of jobs has ended; 0 while no end was observed."""
        self.refresh()
        return self.age_at(share, running_at=0.0) if self.has_ends else 0.0

    def _hazard_at(self, age: float) -> float:
        hazard = self._hazard
        place = min(max(0.0, log(age / _FIRST) / _LOG_GROWTH + 1.0), _SPANS - 1e-9) if age > 0.0 else 0.0
        span = int(place)
        return hazard[span] + (place - span) * (hazard[span + 1] - hazard[span])

    def _forget(self) -> None:
        self._total /= 2
        self._ends = [ends / 2 for ends in self._ends]
        self._seen = [seen / 2 for seen in self._seen]


def _span_of(age: float) -> int:
    """Return the index of the interval that contains ``age``."""
    return min(_SPANS - 1, int(log(age / _FIRST) / _LOG_GROWTH) + 1) if age >= _FIRST else 0


def _age_of(place: float) -> float:
    """Return the age at ``place`` intervals; the first interval begins at 0."""
    return _FIRST * _GROWTH ** (place - 1.0) if place >= 1.0 else place * _FIRST
