"""What the run may spend on second POSTs, so that a server in trouble is not beaten by those who wait for it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from batch.zstack.answers import NoAnswer, NotSent

if TYPE_CHECKING:
    from batch.engine.ports import Clock
    from batch.engine.stop import Stop

FLOOR: Final = 10
"""Fruitless retries that are allowed in any minute, so that a small job can go on."""
SHARE: Final = 0.1
"""Of the last minute's first POSTs: how many may be fruitless retries, where that is more."""
_FULL: Final = 500.0
_PRICE: Final = 5.0
_PRICE_OF_SILENCE: Final = 10.0
_MINUTE: Final = 60.0
_PARKED: Final = 1.0
"""Seconds after which a Clone that could not pay asks again."""


class RetryBudget:
    """A bucket for a server that loses some answers, and a ratio for one that gives none.

    The bucket is the AWS SDKs' retry quota: 500 tokens, 5 a retry, 10 where the last POST went unanswered; back come
    the price of a retry that was answered, and 1 for each clone made by its first POST. Empty, it leaves ten fruitless
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

    async def afford(self, price: float, stop: Stop) -> None:
        """Return when a retry is paid for, or at the Stop: then nothing is."""
        while not stop.requested and not self._take(price):
            await stop.sleep(_PARKED)

    def close(self, price: float, *, is_answered: bool) -> None:
        """Take in how a retry that was paid for went."""
        self._under_way -= 1
        if is_answered:
            self._tokens = min(_FULL, self._tokens + price)
        else:
            self._fruitless.append(self._clock.monotonic())

    def _take(self, price: float) -> bool:
        now = self._clock.monotonic()
        while self._fruitless and self._fruitless[0] <= now - _MINUTE:
            self._fruitless.popleft()
        firsts = sum(count for second, count in self._firsts if second > now - _MINUTE)
        in_outage = self._under_way + sum(at > self._answered_at for at in self._fruitless)
        if in_outage >= max(FLOOR, SHARE * firsts):
            return False
        if self._tokens < price and self._under_way + len(self._fruitless) >= FLOOR:
            return False
        self._tokens = max(0.0, self._tokens - price)
        self._under_way += 1
        return True


def price_of(*, is_after_silence: bool) -> float:
    """Tell what a retry costs."""
    return _PRICE_OF_SILENCE if is_after_silence else _PRICE
