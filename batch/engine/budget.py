"""The retry budget: how many second POSTs a run may send while the server is in trouble.

A retry is a POST that follows an unanswered or failed one of the same target: no poll, look or login, nor the POST
after a dead session. It is paid from a bucket of 500 (5 each, 10 after silence, 1 added for each clone made at first),
and what was answered is refunded. While no call at all is answered, retries also keep to a tenth of the last minute's
first POSTs, at least ten a minute. A strict tenth at all times would slow a network that loses one POST in five without
need: there bucket, breaker and the attempts of a target are the bounds. Who cannot pay waits and is not charged for it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from batch.zstack.answers import NoAnswer, NotSent

if TYPE_CHECKING:
    from batch.clock import Clock
    from batch.engine.stop import Stop

FLOOR: Final = 10
"""Fruitless retries that are allowed in any minute, so that a small job can go on."""
SHARE: Final = 0.1
"""Of the last minute's first POSTs: how many may be fruitless retries, where that is more."""
_FULL: Final = 500.0
_COST: Final = 5.0
_COST_AFTER_SILENCE: Final = 10.0
_MINUTE: Final = 60.0
_ASK_EVERY: Final = 1.0
"""Seconds after which a Clone without a token tries again."""


class RetryBudget:
    """A token bucket for a server that loses some answers, and a ratio for one that gives none.

    The bucket is the AWS SDKs' retry quota: 500 tokens, 5 a retry, 10 where the last POST went unanswered; back come
    the cost of a retry that was answered, and 1 for each clone made by its first POST. Empty, it leaves ten fruitless
    retries a minute. The ratio: while no call at all is answered, the retries under way and those of the last minute
    are at most ten, or a tenth of that minute's first POSTs.
    """

    def __init__(self, clock: Clock) -> None:
        """Start full."""
        self._clock = clock
        self._tokens = _FULL
        self._firsts: deque[list[int]] = deque()
        """A second and how many first POSTs left in it: a bucket that begins outside of the window does not count."""
        self._fruitless: deque[float] = deque()
        self._under_way = 0
        self._answered_at = float("-inf")

    def note_first(self) -> None:
        """Count a first POST."""
        second = int(self._clock.monotonic())
        if not self._firsts or self._firsts[-1][0] != second:
            self._firsts.append([second, 0])
            while self._firsts[0][0] <= second - _MINUTE:
                self._firsts.popleft()
        self._firsts[-1][1] += 1

    def note(self, answer: object) -> None:
        """Learn from any call: an answer ends an outage, for the fruitless retries before it."""
        if self._fruitless and not isinstance(answer, NotSent | NoAnswer):
            self._answered_at = self._clock.monotonic()

    def reward(self) -> None:
        """Give one token back for a clone that was made by its first POST."""
        self._tokens = min(_FULL, self._tokens + 1.0)

    async def reserve(self, cost: float, stop: Stop) -> None:
        """Return when the tokens of a retry are taken, or at the Stop: then none are."""
        while not stop.requested and not self._take(cost):
            await stop.sleep(_ASK_EVERY)

    def note_retry(self, cost: float, *, is_answered: bool) -> None:
        """Take in how a retry whose tokens were taken went."""
        self._under_way -= 1
        if is_answered:
            self._tokens = min(_FULL, self._tokens + cost)
        else:
            self._fruitless.append(self._clock.monotonic())

    def _take(self, cost: float) -> bool:
        now = self._clock.monotonic()
        while self._fruitless and self._fruitless[0] <= now - _MINUTE:
            self._fruitless.popleft()
        firsts = sum(count for second, count in self._firsts if second > now - _MINUTE)
        in_outage = self._under_way + sum(at > self._answered_at for at in self._fruitless)
        if in_outage >= max(FLOOR, SHARE * firsts):
            return False
        if self._tokens < cost and self._under_way + len(self._fruitless) >= FLOOR:
            return False
        self._tokens = max(0.0, self._tokens - cost)
        self._under_way += 1
        return True


def retry_cost(*, is_after_silence: bool) -> float:
    """Return how many tokens a retry costs."""
    return _COST_AFTER_SILENCE if is_after_silence else _COST
