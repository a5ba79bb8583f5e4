"""Settles one Clone: takes a step, records it, and lets ``decisions`` choose the next.

Resumed and fresh Clones take one path: a fresh one starts at Send, a resumed one at Poll.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch.engine.attempts import DecisionContext
from batch.engine.clone_records import (
    NotHonouredError,
    new_ticket,
    record_accepted,
    record_end,
    record_ends,
    record_last,
    record_unexecuted,
    sent_record,
)
from batch.engine.decisions import (
    after_find,
    after_no_send,
    after_poll,
    after_renewal,
    after_review,
    after_submit,
    without_uuid,
)
from batch.engine.policy import retry_cost
from batch.engine.poll_schedule import PollWindow
from batch.engine.steps import (
    RESOURCE_UUID,
    Abort,
    ActiveStep,
    End,
    Look,
    Poll,
    Renew,
    Resend,
    Review,
    Send,
    Step,
    Ticket,
)
from batch.errors import EndReason, RunStoppedError
from batch.model import UNKNOWN_JOB
from batch.zstack.answers import Accepted, NoAnswer, NotSent, Unknown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from batch.clock import Clock
    from batch.engine.control import Stop
    from batch.engine.policy import Policy, Readiness, RetryBudget
    from batch.engine.ports import Journal, RunApi
    from batch.model import Clone
    from batch.zstack.answers import PollAnswer, SubmitAnswer


_DENIED = ("ID.1002", "SYS.1019", "LICENSE.")
"""Codes of refusals that neither another request nor another login changes."""
_RECORD_EVERY = 4
"""Tries in a row that never reached the server after which a POST is recorded again."""
_RECORD_AFTER = 15.0
"""Seconds after which it is recorded again too: less than what a later process adds to a job's time."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The dependencies of ``settle``: API, journal, clock, policy, and the limits shared by all Clones."""

    api: RunApi
    journal: Journal
    clock: Clock
    policy: Policy
    stop: Stop
    budget: RetryBudget
    readiness: Readiness
    is_honoured: Callable[[], bool]
    """Returns whether the server is known to honour resourceUuid."""
    api_timeout: Callable[[], float]
    """Returns the longest apiTimeout reported for any job of the run, in seconds: it holds for unanswered jobs too."""

    def context(self) -> DecisionContext:
        """Return the present context of decisions."""
        return DecisionContext(self.policy, self.clock.time(), self.is_honoured(), self.api_timeout())


async def settle(
    clone: Clone, step: Step, deps: Dependencies, *, pause_at: Callable[[Step], bool] | None = None
) -> Step:
    """Continue from ``step`` until End, or until a step that ``pause_at`` selects or that is forbidden; return it.

    Raises CallCutError where the Stop cut the wait of a poll or look, RunStoppedError where the whole run cannot
    continue, ManifestError where the journal failed.
    """
    while not isinstance(step, End):
        if pause_at is not None and pause_at(step):
            return step
        if isinstance(step, Send) and not clone.body:
            # Its target left the job file, or this shard of it: it settles by what is known of it.
            if step.fallback is None or record_ends(step, clone, deps):
                return step
            step = after_no_send(step)
            continue
        if _is_forbidden(step, deps) or step is (step := await _take(step, clone, deps)):
            if isinstance(step, Send) and deps.stop.requested:
                record_ends(step, clone, deps)
            return step
    record_end(clone, step, deps)
    return step


def _is_forbidden(step: Step, deps: Dependencies) -> bool:
    """Return whether the step would send after the Stop, or again without confirmation that this is safe."""
    return isinstance(step, Send) and (deps.stop.requested or (step.needs_confirmation and not deps.is_honoured()))


def _take(step: ActiveStep, clone: Clone, deps: Dependencies) -> Awaitable[Step]:
    match step:
        case Send():
            return _send(step, clone, deps)
        case Resend():
            return _resend(step, clone, deps)
        case Poll():
            return _poll(step, clone, deps)
        case Look():
            return _look(step, clone, deps)
        case Review():
            return _review(step, deps)
        case Renew():
            return _renew(step, clone, deps)
    return _abort(step, clone, deps)


async def _renew(step: Renew, clone: Clone, deps: Dependencies) -> Step:
    # The next process must not assume that this POST may have been executed, however the login ends.
    record_unexecuted(clone, step.ticket, deps, ended=None if step.is_unsent else step.ticket.job_uuid)
    await deps.api.renew()
    after = after_renewal(step, clone, context=deps.context())
    return after._replace(is_last_unexecuted=False) if isinstance(after, Send) else after


async def _abort(step: Abort, clone: Clone, deps: Dependencies) -> Step:
    if step.is_unsent:
        record_unexecuted(clone, step.ticket, deps)
    elif step.is_job_over:
        # Of a request that arrived twice only the last end is known: the job is polled again.
        record_unexecuted(clone, step.ticket, deps, ended=step.ticket.job_uuid)
    code, text = step.error.code, str(step.error)
    if code == RESOURCE_UUID:
        raise NotHonouredError(text)
    raise RunStoppedError(text, EndReason.DENIED if code.startswith(_DENIED) else EndReason.LOGIN)


async def _send(step: Send, clone: Clone, deps: Dependencies) -> Step:
    if step.is_last_unexecuted:
        # The next process must not take for its own what someone else made after an attempt that was not executed.
        record_last(step, clone, deps)
    failures = step.attempt - 1 if step.is_retry else step.uncharged
    if failures:
        await deps.stop.sleep(deps.policy.backoff(failures, deps.clock.random()))
    if step.is_retry and step.fallback is not None and _is_overdue(step, deps):
        return step.fallback
    waited = await _wait_to_send(step, deps)
    if deps.stop.requested:
        return step
    ticket = new_ticket(step, deps, waited=waited)
    await deps.journal.commit(sent_record(clone, ticket))
    if step.is_retry:
        return await _submit_again(ticket, clone, deps, cost=retry_cost(is_after_silence=step.is_after_silence))
    deps.budget.note_first()
    with _take_back_at_stop(ticket, clone, deps):
        answer = await deps.api.submit(clone, ticket.job_uuid)
    return await _decide(answer, ticket, clone, deps, failures=0)


@contextmanager
def _take_back_at_stop(ticket: Ticket, clone: Clone, deps: Dependencies) -> Iterator[None]:
    """Take back an attempt of which nothing has left where the run is stopped before."""
    try:
        yield
    except RunStoppedError:
        if not ticket.is_repeat:
            record_unexecuted(clone, ticket, deps)
        raise


async def _wait_to_send(step: Send, deps: Dependencies) -> float:
    """Wait for the retry budget and the node; return the seconds waited, which do not count for the Clone."""
    began = deps.clock.monotonic()
    if step.is_retry:
        await deps.budget.reserve(retry_cost(is_after_silence=step.is_after_silence), deps.stop)
    await deps.readiness.wait(deps.stop)
    return deps.clock.monotonic() - began


def _is_overdue(step: Send, deps: Dependencies) -> bool:
    timeout, first = deps.policy.timeout, step.first_sent_at
    return timeout is not None and first is not None and deps.clock.time() >= first + timeout


async def _submit_again(ticket: Ticket, clone: Clone, deps: Dependencies, *, cost: float, failures: int = 0) -> Step:
    """Submit a retry; where it had a ``cost``, report to the budget whether the server answered."""
    with _take_back_at_stop(ticket, clone, deps):
        answer = await deps.api.submit(clone, ticket.job_uuid)
    if cost:
        deps.budget.note_retry(cost, is_answered=not isinstance(answer, NotSent | NoAnswer))
    return await _decide(answer, ticket, clone, deps, failures=failures)


async def _decide(answer: SubmitAnswer, ticket: Ticket, clone: Clone, deps: Dependencies, *, failures: int) -> Step:
    now = deps.clock.time()
    if isinstance(answer, NoAnswer) and now - ticket.sent_at > _RECORD_AFTER and not deps.policy.at_most_once:
        # It waited for a slot or an answer since it was recorded: it may have reached the server only now.
        ticket = ticket._replace(sent_at=now)
        await deps.journal.commit(sent_record(clone, ticket))
    deps.readiness.note(answer, sent_at=ticket.sent_at)
    if isinstance(answer, Accepted):
        # It may have waited for a slot since it was recorded: the server's time for it began only now.
        ticket = ticket._replace(sent_at=now)
    step = after_submit(answer, ticket, policy=deps.policy, failures=failures)
    if isinstance(step, Poll) and step.ticket.is_answered:
        await record_accepted(clone, step.ticket, deps)
    return step


async def _resend(step: Resend, clone: Clone, deps: Dependencies) -> Step:
    cost = 0.0 if step.is_limited else retry_cost(is_after_silence=False)
    if not step.is_limited:
        await deps.stop.sleep(deps.policy.backoff(step.failures, deps.clock.random()))
    with _take_back_at_stop(step.ticket, clone, deps):
        await deps.readiness.wait(deps.stop)
    if cost:
        await deps.budget.reserve(cost, deps.stop)
    if deps.stop.requested:
        if step.ticket.is_repeat:
            return step
        record_unexecuted(clone, step.ticket, deps)
        return Send(step.ticket.attempt, open_jobs=step.ticket.open_jobs, has_predecessor=step.ticket.has_predecessor)
    now = deps.clock.time()  # No byte of it was sent until now: its time starts again.
    waited = max(0.0, now - step.ticket.sent_at)
    first, deadline = step.ticket.first_sent_at + waited, step.ticket.deadline + waited
    ticket = step.ticket._replace(sent_at=now, first_sent_at=first, deadline=deadline)
    # After the first few, the pauses for the server's rate limiter are long.
    is_late = now - step.ticket.sent_at > _RECORD_AFTER
    is_due = step.failures % _RECORD_EVERY == 0 or (step.is_limited and step.failures > _RECORD_EVERY) or is_late
    if is_due and not deps.policy.at_most_once:
        # The next process computes from the last POST when the server can no longer execute it.
        await deps.journal.commit(sent_record(clone, ticket))
    return await _submit_again(ticket, clone, deps, cost=cost, failures=step.failures)


async def _poll(step: Poll, clone: Clone, deps: Dependencies) -> Step:
    window = None if step.at_once else _window(step, deps)
    answer = await _ask_job(step.ticket.job_uuid, deps, window)
    now = deps.clock.time()
    deps.readiness.note(answer, sent_at=step.ticket.sent_at)
    after = after_poll(answer, step, now=now, policy=deps.policy)
    if isinstance(after, Poll):
        after = after._replace(at_once=False)
        if after.ticket.is_answered and not step.ticket.is_answered:
            await record_accepted(clone, after.ticket, deps)
    return after


def _window(step: Poll, deps: Dependencies) -> PollWindow:
    """Return how long a poll may wait: after a 404 the delay depends on the misses, not on the job's age."""
    deadline = step.ticket.deadline
    if step.misses:
        due = deps.clock.time() + deps.policy.settle_delay * 2.0 ** (step.misses - 1)
        deadline = due if step.was_visible else min(deadline, due)
    return PollWindow(step.ticket.sent_at, deadline)


async def _review(step: Review, deps: Dependencies) -> Step:
    if step.misses:
        await deps.stop.sleep(deps.policy.settle_delay * 2.0 ** (step.misses - 1))
        if deps.stop.requested:
            return step
    return after_review(await _ask_job(step.pending[0], deps), step, context=deps.context())


async def _ask_job(job_uuid: str, deps: Dependencies, window: PollWindow | None = None) -> PollAnswer:
    return Unknown() if job_uuid == UNKNOWN_JOB else await deps.api.poll(job_uuid, window)


async def _look(step: Look, clone: Clone, deps: Dependencies) -> Step:
    policy = deps.policy
    if not clone.resource_uuid:
        return without_uuid(step, context=deps.context())
    if step.failed_looks:
        await asyncio.sleep(policy.backoff(step.failed_looks, deps.clock.random()))
    elif step.looks:
        await asyncio.sleep(policy.settle_delay * 2.0 ** (step.looks - 1))
    return after_find(await deps.api.find(clone.resource_uuid), step, clone, context=deps.context())
