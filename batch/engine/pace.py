"""How long to wait for an api job to end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batch.engine.policy import Policy
    from batch.engine.ports import Clock

_JITTER = 0.1
_SOONEST = 0.1
"""Seconds before the first poll, at least."""
_EARLIER = 0.95
"""A job that had ended at its first poll may have ended long before: try a little earlier next time."""
_LATER = 0.25
"""Share of the way from the first poll to the end, where the first poll came too early."""
_STEP = 0.1
_SLOW = 0.95
"""Which quantile of the job times a deadline must leave room for."""


class PollPace:
    """Learns when to ask for an api job, so that most are polled once or twice.

    Only whether the first poll came too early is learned from, and not how long the answer took: the wait at the Gate
    is part of that, and would make the next wait longer.
    """

    def __init__(self, policy: Policy, clock: Clock) -> None:
        """Know nothing yet: begin with the policy's first delay."""
        self._policy = policy
        self._clock = clock
        self._first = policy.poll_first
        self._spoilt_at = -math.inf
        self.slow = 0.0
        """Seconds from POST to end that 95 of 100 jobs keep to: a running quantile."""

    def spoil(self) -> None:
        """Learn nothing from the jobs that are under way: an outage made all of them look slow at once."""
        self._spoilt_at = self._clock.monotonic()

    def learn(self, seconds: float, polls: int) -> None:
        """Take in a job that was found ended ``seconds`` after its POST, by poll number ``polls`` (from 0)."""
        if self._clock.monotonic() - seconds <= self._spoilt_at:
            return
        if polls == 0:
            self._first = max(_SOONEST, self._first * _EARLIER)
        elif seconds > self._first:
            self._first += _LATER * (min(seconds, self._policy.poll_cap) - self._first)
        if not self.slow:
            self.slow = seconds
        else:
            self.slow *= 1 + _STEP * _SLOW if seconds > self.slow else 1 - _STEP * (1 - _SLOW)

    def delay(self, polls: int) -> float:
        """Seconds before poll number ``polls`` (from 0) of a job."""
        policy = self._policy
        later = max(policy.poll_first, self._first / 4) * policy.poll_growth ** min(polls, 32)
        wait = self._first if polls == 0 else later
        return min(wait, policy.poll_cap) * (1 + _JITTER * (2 * self._clock.random() - 1))
