"""What delays a POST: the retry policy, the budget of retries in an outage, and a node that is not ready.

A retry is a POST that follows an unanswered or failed one of the same target; polls, looks, logins and the POST after a
dead session do not count. It takes tokens from a bucket of 500 (5, or 10 after an unanswered POST; 1 is added for each
clone made by its first POST), which are returned when it was answered. While no call at all is answered, retries are
also limited to a tenth of the last minute's first POSTs, at least ten a minute. A strict tenth at all times would
needlessly slow down a network that loses one POST in five: there the bucket, the breaker and the attempts of a target
are the limits. A retry waits until there are enough tokens; the wait does not count towards its target's timeout.

A node that is not ready accepts a POST and ends its job at once without executing it, so that only jobs show its state.
After a few such ends in a row no POST is sent for a while; then one POST at a time probes, and the first job that ends
otherwise lets all POSTs pass.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from batch.clock import backoff_pause
from batch.errors import EndReason, RunStoppedError
from batch.zstack.answers import Done, ErrorClass, NoAnswer, NotSent, Refused, Running

if TYPE_CHECKING:
    from batch.clock import Clock
    from batch.engine.control import Stop

FLOOR: Final = 10
"""Unanswered retries that are allowed in any minute, so that a small job can continue."""
SHARE: Final = 0.1
"""Share of the last minute's first POSTs that may be unanswered retries, where that is more."""
_FULL: Final = 500.0
_COST: Final = 5.0
_COST_AFTER_SILENCE: Final = 10.0
_MINUTE: Final = 60.0
_ASK_EVERY: Final = 1.0
"""Seconds between two tries of a Clone to take its tokens."""
_IN_A_ROW: Final = 3
"""Consecutive refusals for the node's state, with no other end of a job between them, after which POSTs wait."""
_FIRST: Final = 2.0
_CAP: Final = 60.0
_STEP: Final = 0.25
"""Seconds between two checks of a waiting POST."""
LONGEST: Final = 1800.0
"""Seconds for which the node may be unready before the run stops with exit code 4."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Policy:
    """Parameters of the retry policy. Durations in seconds."""

    attempts: int = 4
    """POSTs per target, over all resumes."""
    timeout: float | None = None
    """Per clone from its first POST; None: the server's apiTimeout plus ``grace``."""
    grace: float = 60.0
    """Added to the server's apiTimeout before an unfinished api job is given up."""
    api_timeout: float = 1800.0
    """The server's default, for answers that carry none."""
    at_most_once: bool = False
    """Never send again after an unanswered POST: for servers that do not honour resourceUuid."""
    settle_delay: float = 1.0
    """Before the next look at a uuid that was not visible; doubles each time."""
    looks: int = 3
    """Looks that must show nothing before a POST is taken as not executed."""
    misses: int = 4
    """Consecutive 404 answers of an accepted api job that are tolerated (another node may lag behind)."""
    max_failed_looks: int = 8
    """Consecutive looks that may fail before the clone is left uncertain."""
    job_memory: float = 3600.0
    """How long after its POST a job uuid may be sent again; later the server may have purged its row."""
    uncharged_sends: int = 16
    """Consecutive POSTs that charge no attempt: after a dead session, or from a node that is not ready."""
    backoff_base: float = 0.5
    backoff_cap: float = 20.0

    def backoff(self, failures: int, chance: float) -> float:
        """Return a wait with full jitter after that many failures; ``chance``: a random number in [0, 1)."""
        return chance * min(self.backoff_cap, self.backoff_base * 2.0 ** min(failures, 16))

    def window(self, api_timeout: float | None) -> float:
        """Return the seconds from the first POST after which an api job is no longer polled."""
        if self.timeout is not None:
            return self.timeout
        return (self.api_timeout if api_timeout is None else api_timeout) + self.grace

    def expires_at(self, sent_at: float, api_timeout: float | None) -> float:
        """Return when the server can no longer execute a POST of ``sent_at``, in seconds since the epoch."""
        longest = self.api_timeout if api_timeout is None else api_timeout
        return sent_at + max(self.timeout or 0.0, longest) + self.grace


class RetryBudget:
    """A token bucket against lost answers, and a ratio during an outage.

    The bucket is the AWS SDKs' retry quota: 500 tokens, 5 a retry, 10 where the last POST went unanswered; the tokens
    of a retry that was answered are returned, and each clone made by its first POST adds 1. An empty bucket still
    allows ten unanswered retries a minute. The ratio: while no call at all is answered, the retries in flight and those
    of the last minute are at most ten, or a tenth of that minute's first POSTs.
    """

    def __init__(self, clock: Clock) -> None:
        """Start with a full bucket."""
        self._clock = clock
        self._tokens = _FULL
        self._firsts: deque[list[int]] = deque()
        """Seconds and the number of first POSTs in each; a second that begins outside the window does not count."""
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
        """Reset the ratio at any answered call: the outage is over."""
        if self._fruitless and not isinstance(answer, NotSent | NoAnswer):
            self._answered_at = self._clock.monotonic()

    def reward(self) -> None:
        """Add one token for a clone that was made by its first POST."""
        self._tokens = min(_FULL, self._tokens + 1.0)

    async def reserve(self, cost: float, stop: Stop) -> None:
        """Wait until the tokens of a retry are taken, or until the Stop: then none are."""
        while not stop.requested and not self._take(cost):
            await stop.sleep(_ASK_EVERY)

    def note_retry(self, cost: float, *, is_answered: bool) -> None:
        """Record the result of a retry whose tokens were taken."""
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
    """Return the number of tokens that a retry costs."""
    return _COST_AFTER_SILENCE if is_after_silence else _COST


class Readiness:
    """State of the management node; ready at first."""

    def __init__(self, clock: Clock, *, longest: float = LONGEST) -> None:
        """Start ready; the run stops after ``longest`` seconds without a ready node."""
        self._clock = clock
        self._longest = longest
        self._since: float | None = None
        self._next_at = 0.0
        self._in_a_row = 0
        self._tries = 0
        self._counted_from = 0.0
        """Ends of POSTs sent before this belong to an earlier probe. Seconds since the epoch."""
        self._suspended_at: float | None = None
        self._resumed = asyncio.Event()

    def suspend(self) -> None:
        """Let no POST pass until ``resume``, whatever the node's state."""
        self._suspended_at = self._clock.monotonic() if self._suspended_at is None else self._suspended_at
        self._resumed.clear()

    def resume(self) -> None:
        """Let POSTs pass again; the suspended time does not count as unready."""
        if self._suspended_at is not None and self._since is not None:
            self._since += self._clock.monotonic() - self._suspended_at
        self._suspended_at = None
        self._resumed.set()

    async def wait(self, stop: Stop) -> float:
        """Wait until a POST may be sent, or until the Stop; return the seconds waited.

        Raises RunStoppedError when the node stays unready too long.
        """
        began = self._clock.monotonic()
        while not stop.requested:
            if self._suspended_at is not None:
                await stop.sleep_until(self._resumed)
                continue
            if self._since is None:
                break
            now = self._clock.monotonic()
            if now - self._since >= self._longest:
                text = f"the management node has not been ready for {self._longest:.0f} s"
                raise RunStoppedError(text, EndReason.OUTAGE)
            if now >= self._next_at:
                self._try_now(now)
                break
            await stop.sleep(min(_STEP, self._next_at - now))
        return self._clock.monotonic() - began

    def _try_now(self, now: float) -> None:
        """Let one POST pass; the next one only after a pause, as its answer may be lost."""
        self._tries += 1
        self._counted_from = self._clock.time()
        self._next_at = now + backoff_pause(self._tries, self._clock.random(), first=_FIRST, cap=_CAP)

    def note(self, answer: object, *, sent_at: float) -> None:
        """Evaluate the answer to a POST of ``sent_at``, or to a poll of its job."""
        if _is_unready(answer):
            self._in_a_row += 1
            if self._since is None and self._in_a_row >= _IN_A_ROW:
                self._since = self._clock.monotonic()
                self._tries = 0
                self._next_at = self._since + backoff_pause(self._tries, self._clock.random(), first=_FIRST, cap=_CAP)
                self._counted_from = self._clock.time()
                _log.warning("server.unready", reason=_reason(answer))
        elif sent_at >= self._counted_from and self._was_taken(answer, sent_at):
            self._in_a_row = 0
            if self._since is not None:
                _log.info("server.returned", seconds=round(self._clock.monotonic() - self._since, 1))
                self._since = None

    def _was_taken(self, answer: object, sent_at: float) -> bool:
        """Return whether the answer shows that the node executes requests."""
        if isinstance(answer, Running):
            return self._clock.time() - sent_at >= _FIRST
        return isinstance(answer, Done | Refused)


def _is_unready(answer: object) -> bool:
    return isinstance(answer, Refused) and answer.error.error_class is ErrorClass.NODE


def _reason(answer: object) -> str:
    return str(answer.error) if isinstance(answer, Refused) else getattr(answer, "reason", "")
