"""Polls one api job outside a run's pool: for side jobs, single actions and server checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.zstack.answers import Done, NoAnswer, PollAnswer, Refused, Unknown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batch.clock import Clock

MISSES: Final = 3
"""Consecutive 404 answers that end the wait: another node of the server may lag behind."""
_GROWTH: Final = 1.5


async def poll_to_end(
    poll: Callable[[], Awaitable[PollAnswer]],
    clock: Clock,
    *,
    seconds: float,
    first: float = 1.0,
    last: float = 15.0,
    misses: int = MISSES,
) -> PollAnswer:
    """Poll at intervals that grow from ``first`` to ``last`` seconds until the job ended; return the last answer.

    It is not an end where ``seconds`` have passed or the job was unknown ``misses`` times.
    """
    ends, pause, missed = clock.monotonic() + seconds, first, 0
    answer: PollAnswer = NoAnswer("its job did not end in time")
    while clock.monotonic() < ends and missed < misses:
        await clock.sleep(pause)
        pause = min(pause * _GROWTH, last)
        answer = await poll()
        if isinstance(answer, Done | Refused):
            break
        missed += isinstance(answer, Unknown)
    return answer
