"""How long to wait: for an api job to end, and before a retry the run can afford."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batch.engine.policy import Policy
    from batch.engine.ports import Clock

_LEARN = 0.1
"""Share by which an ended job moves the estimate up or down: a median, which an outage cannot spoil."""
_EARLY = 0.9
"""The first poll comes a little before a typical job ends."""
_JITTER = 0.1


class PollPace:
    """Learns how long api jobs take, so that most are polled once or twice."""

    def __init__(self, policy: Policy, clock: Clock) -> None:
        """Know nothing yet: begin with the policy's first delay."""
        self._policy = policy
        self._clock = clock
        self.typical: float | None = None
        """Seconds from POST to end, running median; None before the first end."""

    def learn(self, seconds: float) -> None:
        """Take in one ended job."""
        if self.typical is None:
            self.typical = seconds
        else:
            self.typical *= 1 + _LEARN if seconds > self.typical else 1 - _LEARN

    def delay(self, polls: int) -> float:
        """Seconds before poll number ``polls`` (from 0) of a job."""
        policy = self._policy
        first = policy.poll_first if self.typical is None else max(policy.poll_first, _EARLY * self.typical)
        wait = first if polls == 0 else max(policy.poll_first, first / 4) * policy.poll_growth ** min(polls, 32)
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
