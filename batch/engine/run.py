"""One run of the engine: assembles the pool with everything it needs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from batch.engine.breaker import Breaker, GuardedApi
from batch.engine.clone_records import NotHonouredError
from batch.engine.comparison import UuidConfirmation
from batch.engine.control import GRACE, within_grace
from batch.engine.dispatch import ConcurrencyLimiter
from batch.engine.policy import Policy, Readiness, RetryBudget
from batch.engine.pool import Pool
from batch.engine.settle import Dependencies
from batch.errors import EndReason, RunStoppedError, UnreachableError, ZcloneError

if TYPE_CHECKING:
    from batch.clock import Clock
    from batch.engine.control import Controls, Stop
    from batch.engine.poll_schedule import PollSchedule
    from batch.engine.ports import Api, Journal
    from batch.engine.survey import RunHistory, Survey
    from batch.engine.webhooks import WebHooks
    from batch.model import Limits, Plan

_NOT_HONOURED = "the manifest shows that this server does not honour resourceUuid: look for clones, use --at-most-once"


async def clone_all(  # noqa: PLR0913 - the composition root names each part of the run once
    plan: Plan,
    found: Survey,
    *,
    api: Api,
    journal: Journal,
    past: RunHistory,
    clock: Clock,
    limits: Limits,
    stop: Stop,
    polls: PollSchedule,
    hooks: WebHooks | None = None,
    controls: Controls | None = None,
    at_most_once: bool = False,
    grace: float = GRACE,
) -> None:
    """Settle every Clone of the plan that is not final yet; ``found`` is the plan's ``survey`` against ``past``.

    Returns when all were tried or the Stop took effect; the journal has the results. Raises RunStoppedError where the
    run must be resumed later, UnreachableError where nothing was ever sent, NotHonouredError where the server does not
    honour resourceUuid, ManifestError where the journal failed: nothing was sent after that.
    """
    if past.was_uuid_ignored and not at_most_once:
        raise NotHonouredError(_NOT_HONOURED)
    policy = Policy(attempts=limits.attempts, timeout=limits.timeout, at_most_once=at_most_once)
    limiter, readiness = _starters(limits, clock, controls)
    budget, breaker = RetryBudget(clock), Breaker(clock, stop, returned=polls.skip_sampling)
    guarded = GuardedApi(api, breaker, polls, limiter.note, budget.note, hooks=hooks)
    confirmation = UuidConfirmation(guarded, clock, is_recorded=lambda: found.is_honoured or past.canary_passed)
    deps = Dependencies(
        guarded,
        journal,
        clock,
        policy,
        stop,
        budget,
        readiness,
        is_honoured=confirmation.is_confirmed,
        api_timeout=lambda: past.api_timeout,
    )
    journal.on_failure(lambda: stop.request("the manifest could not be written", EndReason.JOURNAL))
    pool = Pool(plan, past, limits, deps, limiter, polls, confirmation)
    _stop_at_deadline(limits, stop)
    await within_grace(pool.run(found), stop, grace)
    if pool.stopped_by is not None:
        raise _end_of(pool.stopped_by, past)


def _starters(limits: Limits, clock: Clock, controls: Controls | None) -> tuple[ConcurrencyLimiter, Readiness]:
    """Return what limits the start of a clone and its POST, connected to ``controls``."""
    limiter, readiness = ConcurrencyLimiter(limits.concurrency, clock), Readiness(clock)
    if controls is not None:
        controls.attach(limiter, readiness)
    return limiter, readiness


def _stop_at_deadline(limits: Limits, stop: Stop) -> None:
    if limits.deadline is not None:
        loop = asyncio.get_running_loop()
        loop.call_later(limits.deadline, stop.request, "the deadline has come", EndReason.DEADLINE)


def _end_of(error: RunStoppedError, past: RunHistory) -> ZcloneError:
    """Return the error that the run ends with: UnreachableError where nothing was ever sent."""
    is_begun = error.reason is EndReason.DENIED or past.was_sent
    return error if is_begun else UnreachableError(f"{error}; nothing was sent", error.reason)
