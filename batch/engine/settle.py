"""Bring one Clone to its end: do what each step says, record it, decide on the answer, again.

Resumed and fresh Clones take the same road: a fresh one starts at Send, a resumed one at Poll.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch.engine.budget import price_of
from batch.engine.decisions import after_find, after_poll, after_submit, window_start
from batch.engine.steps import Abort, Doing, End, Look, Poll, Renew, Resend, Send, Step, Ticket, Why
from batch.errors import ExitCode, RunStoppedError
from batch.model import Record, State
from batch.zstack.answers import NoAnswer, NotSent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batch.engine.budget import RetryBudget
    from batch.engine.pace import PollPace
    from batch.engine.policy import Policy
    from batch.engine.ports import Api, Clock, Journal
    from batch.engine.stop import Stop
    from batch.model import Clone, Intent
    from batch.zstack.answers import SubmitAnswer


class NotHonouredError(RunStoppedError):
    """The server gave the clone another uuid than it was asked for, so that a retry could make a second clone."""

    exit_code = ExitCode.BROKEN


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside the state machine."""

    api: Api
    journal: Journal
    clock: Clock
    policy: Policy
    stop: Stop
    pace: PollPace
    budget: RetryBudget


def first_step(intent: Intent, policy: Policy) -> Step:
    """Where a Clone goes on, by what its manifest says.

    Of one that is planned again only the last attempt was never sent: those before it are asked about like any other.
    """
    if intent.job_uuid is None or not intent.attempt:
        return Send(intent.attempt + 1)
    deadline = intent.first_sent_at + policy.window(None) if intent.deadline is None else intent.deadline
    ticket = Ticket(
        intent.attempt,
        intent.job_uuid,
        intent.sent_at,
        intent.first_sent_at,
        deadline,
        answered=intent.state is State.ACCEPTED,
        resumed=True,
        reopened=intent.state is State.UNCERTAIN,
    )
    return Poll(ticket, at_once=True)


async def settle(clone: Clone, step: Step, world: World, *, pause_at: Callable[[Step], bool] | None = None) -> Step:
    """Go on from ``step`` until End, or until a step that ``pause_at`` names or the Stop forbids; return that step.

    Raises RunStoppedError where the whole run cannot go on, ManifestError where the journal failed.
    """
    while not isinstance(step, End):
        if (pause_at is not None and pause_at(step)) or _is_forbidden(step, clone, world):
            return step
        step = await _take(step, clone, world)
    _record_end(clone, step, world)
    return step


def _is_forbidden(step: Step, clone: Clone, world: World) -> bool:
    """Tell whether the step would send after the Stop, or what has no body because its target left the job file."""
    return isinstance(step, Send) and (world.stop.requested or not clone.body)


def _take(step: Doing, clone: Clone, world: World) -> Awaitable[Step]:
    match step:
        case Send():
            return _send(step, clone, world)
        case Resend():
            return _resend(step, clone, world)
        case Poll():
            return _poll(step, clone, world)
        case Look():
            return _look(step, clone, world)
        case Renew():
            return _renew(step, clone, world)
    return _abort(step, clone, world)


async def _renew(step: Renew, clone: Clone, world: World) -> Step:
    await world.api.renew()
    if not clone.body:
        # Its target left the job file: it cannot be sent again, but its clone may be there.
        return Look(step.ticket, Why.LOST)
    known = step.ticket if step.ticket.answered else step.ticket.instead_of
    before = None if known is None else known._replace(instead_of=None)
    return Send(step.ticket.attempt, None, window_start(step.ticket), instead_of=before)


async def _abort(step: Abort, clone: Clone, world: World) -> Step:
    _return_attempt(clone, step.ticket, world)
    raise RunStoppedError(f"{step.error.code}: {step.error.told}")


async def _send(step: Send, clone: Clone, world: World) -> Step:
    parked = 0.0
    if step.otherwise is not None:
        await world.stop.sleep(world.policy.backoff(step.attempt - 1, world.clock.random()))
        if _is_overdue(step, world):
            return step.otherwise
        parked = await _afford(price_of(is_after_silence=step.is_after_silence), world)
        if world.stop.requested:
            return step
    now = world.clock.time()
    first = now if step.first_sent_at is None else step.first_sent_at + parked
    job_uuid, until = step.job_uuid or world.clock.uuid(), first + world.policy.window(None)
    ticket = Ticket(step.attempt, job_uuid, now, first, until, instead_of=step.instead_of)
    await world.journal.commit(
        Record(
            State.SENT,
            clone.key,
            now,
            ticket.attempt,
            clone.source_uuid,
            clone.resource_uuid,
            ticket.job_uuid,
            clone.digest,
            ticket.deadline,
        ),
    )
    if step.otherwise is None:
        world.budget.note_first()
        return _decided(await world.api.submit(clone, ticket.job_uuid), ticket, clone, world, failures=0)
    return await _submit_again(ticket, clone, world, price=price_of(is_after_silence=step.is_after_silence))


def _is_overdue(step: Send, world: World) -> bool:
    timeout, first = world.policy.timeout, step.first_sent_at
    return timeout is not None and first is not None and world.clock.time() >= first + timeout


async def _afford(price: float, world: World) -> float:
    """Wait until the run can afford a retry; return for how many seconds, which are not charged to the Clone."""
    began = world.clock.monotonic()
    await world.budget.afford(price, world.stop)
    return world.clock.monotonic() - began


async def _submit_again(ticket: Ticket, clone: Clone, world: World, *, price: float, failures: int = 0) -> Step:
    """Submit what was paid for, and settle the bill by whether the server answered."""
    answer = await world.api.submit(clone, ticket.job_uuid)
    world.budget.close(price, is_answered=not isinstance(answer, NotSent | NoAnswer))
    return _decided(answer, ticket, clone, world, failures=failures)


def _decided(answer: SubmitAnswer, ticket: Ticket, clone: Clone, world: World, *, failures: int) -> Step:
    step = after_submit(answer, ticket, policy=world.policy, failures=failures)
    if isinstance(step, Poll) and step.ticket.answered:
        _note_accepted(clone, step.ticket, world)
    return step


def _note_accepted(clone: Clone, ticket: Ticket, world: World) -> None:
    world.journal.note(
        Record(
            State.ACCEPTED,
            clone.key,
            world.clock.time(),
            ticket.attempt,
            job_uuid=ticket.job_uuid,
            deadline=ticket.deadline,
        ),
    )


async def _resend(step: Resend, clone: Clone, world: World) -> Step:
    price = price_of(is_after_silence=False)
    await world.stop.sleep(world.policy.backoff(step.failures, world.clock.random()))
    await world.budget.afford(price, world.stop)
    if world.stop.requested:
        _return_attempt(clone, step.ticket, world)
        return Send(step.ticket.attempt)
    # Until now no byte of it left: its time begins anew.
    now = world.clock.time()
    first = step.ticket.first_sent_at + max(0.0, now - step.ticket.sent_at)
    ticket = step.ticket._replace(sent_at=now, first_sent_at=first)
    return await _submit_again(ticket, clone, world, price=price, failures=step.failures)


def _return_attempt(clone: Clone, ticket: Ticket, world: World) -> None:
    """Record that the attempt was never executed, so that it is not charged and not asked about.

    Where it was sent before and its session was dead, its old J is asked about again: of a request that reached the
    server twice only the last end is told.
    """
    if ticket.instead_of is not None:
        _note_accepted(clone, ticket.instead_of, world)
    else:
        world.journal.note(Record(State.PLANNED, clone.key, world.clock.time(), ticket.attempt - 1))


async def _poll(step: Poll, clone: Clone, world: World) -> Step:
    if not step.at_once:
        left = max(0.0, step.ticket.deadline - world.clock.time())
        await asyncio.sleep(min(world.pace.delay(step.polls), left))
    answer = await world.api.poll(step.ticket.job_uuid)
    now = world.clock.time()
    after = after_poll(answer, step._replace(at_once=False), now=now, policy=world.policy)
    if isinstance(after, End) and not step.at_once:
        world.pace.learn(now - step.ticket.sent_at, step.polls)
    elif isinstance(after, Poll) and after.ticket.answered and not step.ticket.answered:
        _note_accepted(clone, after.ticket, world)
    return after


async def _look(step: Look, clone: Clone, world: World) -> Step:
    policy = world.policy
    if step.blind:
        await asyncio.sleep(policy.backoff(step.blind, world.clock.random()))
    elif step.looks:
        await asyncio.sleep(policy.settle_delay * 2.0 ** (step.looks - 1))
    answer = await world.api.find(clone.resource_uuid)
    return after_find(answer, step, clone, now=world.clock.time(), policy=policy)


def _record_end(clone: Clone, end: End, world: World) -> None:
    made = end.service
    world.journal.note(
        Record(
            end.state,
            clone.key,
            world.clock.time(),
            end.attempt,
            clone_uuid=made.uuid if made is not None and end.state is State.CLONED else None,
            name=made.name if made is not None else None,
            adopted=end.adopted or None,
            error_code=end.code,
            error=end.text,
        ),
    )
    if end.state is not State.CLONED or made is None:
        return
    if end.attempt == 1:
        world.budget.reward()
    if made.uuid != clone.resource_uuid and not world.policy.at_most_once:
        raise NotHonouredError(
            f"{clone.key}: asked for the uuid {clone.resource_uuid}, the server made {made.uuid}; it does not honour "
            "resourceUuid, so an unanswered request could be cloned twice: check the clone, then use --at-most-once"
        )


def is_reconciled(step: Step) -> bool:
    """Whether a resumed Clone has been asked about: known to run, or about to be sent again."""
    return isinstance(step, Send | Resend) or (isinstance(step, Poll) and step.polls > 0 and step.ticket.answered)
