"""How long to wait: for an api job to end, and before a retry the run can afford."""

from __future__ import annotations

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
"""Share by which an end moves the running median: an outage cannot spoil it."""


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
        self.typical: float | None = None
        """Seconds from POST to end, running median; None before the first end."""

    def learn(self, seconds: float, polls: int) -> None:
        """Take in a job that was found ended ``seconds`` after its POST, by poll number ``polls`` (from 0)."""
        if polls == 0:
            self._first = max(_SOONEST, self._first * _EARLIER)
        elif seconds > self._first:
            self._first += _LATER * (min(seconds, self._policy.poll_cap) - self._first)
        if self.typical is None:
            self.typical = seconds
        else:
            self.typical *= 1 + _STEP if seconds > self.typical else 1 - _STEP

    def delay(self, polls: int) -> float:
        """Seconds before poll number ``polls`` (from 0) of a job."""
        policy = self._policy
        later = max(policy.poll_first, self._first / 4) * policy.poll_growth ** min(polls, 32)
        wait = self._first if polls == 0 else later
        return min(wait, policy.poll_cap) * (1 + _JITTER * (2 * self._clock.random() - 1))


class RetryBudget:
    """What the run may spend on second POSTs: a bucket that successes and time refill.

    Sized like the AWS SDKs' retry quota: 500 tokens, 5 a retry, 1 back for each clean success; and never less than
    ten retries a minute, so that a small job can go on.
    """

    def __init__(self, clock: Clock) -> None:
        """Start full."""
        self._clock = clock
        self._tokens = 500.0
        self._seen = clock.monotonic()

    def reward(self) -> None:
        """Give one token back for a clone that was made."""
        self._tokens = min(500.0, self._tokens + 1.0)

    def wait(self) -> float:
        """Take the price of one retry and return the seconds to wait until it is paid for."""
        now = self._clock.monotonic()
        self._tokens = min(500.0, self._tokens + (now - self._seen) * 50 / 60) - 5.0
        self._seen = now
        return max(0.0, -self._tokens * 60 / 50)
