"""The protocol of one Clone as a state machine: what an answer makes of a step. Pure; ``settle`` does the doing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batch.engine.match import differences
from batch.engine.steps import Abort, End, Look, Poll, Renew, Resend, Send, Why
from batch.model import State
from batch.zstack.answers import (
    Absent,
    Accepted,
    ApiError,
    Done,
    Duplicate,
    ErrorClass,
    FindAnswer,
    Found,
    NotSent,
    PollAnswer,
    Refused,
    Running,
    Service,
    SubmitAnswer,
    Unknown,
)

if TYPE_CHECKING:
    from batch.engine.policy import Policy
    from batch.engine.steps import Step, Ticket
    from batch.model import Clone


def after_submit(answer: SubmitAnswer, ticket: Ticket, *, policy: Policy, failures: int = 0) -> Step:
    """Decide on the answer to the POST."""
    match answer:
        case Accepted(api_timeout):
            deadline = ticket.first_sent_at + policy.window(api_timeout)
            return Poll(ticket._replace(answered=True, deadline=deadline))
        case Duplicate():
            return Poll(ticket._replace(answered=True))
        case Done(service):
            return _made(service, ticket)
        case Refused(error):
            return _refused_post(error, ticket, policy)
        case NotSent():
            return Resend(ticket, failures + 1)
        case _:
            return Poll(ticket)


def after_poll(answer: PollAnswer, poll: Poll, *, now: float, policy: Policy) -> Step:
    """Decide on the answer to a poll at time ``now``."""
    ticket = poll.ticket
    match answer:
        case Done(service):
            return _made(service, ticket)
        case Refused(error) if error.klass is ErrorClass.RENEW:
            return Renew(ticket._replace(answered=True))
        case Refused(error) if error.klass is ErrorClass.FATAL:
            return Abort(ticket, error)
        case Refused(error):
            return Look(ticket, Why.ENDED, error)
        case Unknown() if not ticket.answered or poll.misses + 1 >= policy.misses:
            return Look(ticket, Why.LOST, poll.error)
        case Running():
            ticket = ticket._replace(answered=True)
    if now >= ticket.deadline:
        return Look(ticket, Why.OVERDUE)
    misses = poll.misses + 1 if isinstance(answer, Unknown) else poll.misses
    return Poll(ticket, poll.polls + 1, misses, poll.error)


def after_find(answer: FindAnswer, look: Look, clone: Clone, *, now: float, policy: Policy) -> Step:
    """Decide on whether the resource is visible."""
    match answer:
        case Found(service):
            return _adopt(service, look.ticket, clone)
        case Absent() if look.looks + 1 < _looks_needed(look, policy):
            return replace(look, looks=look.looks + 1, blind=0)
        case Absent():
            return _invisible(look, now, policy)
        case Refused(error) if error.klass is ErrorClass.FATAL:
            return Abort(look.ticket, error)
        case Refused(error) if error.klass is ErrorClass.PERMANENT:
            return _unverifiable(look, error)
        case _ if look.blind + 1 < policy.blind_looks:
            return replace(look, blind=look.blind + 1)
        case _:
            told = look.error or (answer.error if isinstance(answer, Refused) else None)
            return _uncertain(look.ticket, told, "the server could not say whether the clone exists")


def _made(service: Service | None, ticket: Ticket) -> Step:
    if service is None:
        return Look(ticket, Why.EMPTY)
    return End(State.CLONED, ticket.attempt, service)


def _adopt(service: Service, ticket: Ticket, clone: Clone) -> End:
    differing = differences(clone, service)
    if not differing:
        return End(State.CLONED, ticket.attempt, service, adopted=True)
    text = f"the uuid {clone.resource_uuid} belongs to a service that differs in {', '.join(differing)}"
    return End(State.CONFLICT, ticket.attempt, service, code="ZCLONE.CONFLICT", text=text)


def _refused_post(error: ApiError, ticket: Ticket, policy: Policy) -> Step:
    match error.klass:
        case ErrorClass.PERMANENT:
            return _failed(ticket, error)
        case ErrorClass.FATAL:
            return Abort(ticket, error)
        case ErrorClass.RENEW:
            return Renew(ticket)
        case ErrorClass.TRANSIENT:
            return _again(Look(ticket, Why.ENDED, error), ticket.sent_at, policy)
    return Poll(ticket, error=error)


def _looks_needed(look: Look, policy: Policy) -> int:
    """Believe at once what never ran; look again for what may still be running."""
    if look.why is Why.ENDED and look.error is not None and look.error.klass is not ErrorClass.AMBIGUOUS:
        return 1
    return policy.looks


def _invisible(look: Look, now: float, policy: Policy) -> Step:
    ticket, error = look.ticket, look.error
    if look.why is Why.ENDED and error is not None:
        return _failed(ticket, error) if error.klass is ErrorClass.PERMANENT else _again(look, now, policy)
    if look.why is Why.OVERDUE and not ticket.reopened:
        return _uncertain(ticket, error, "its api job did not end in time and no clone is visible")
    if policy.at_most_once:
        return _uncertain(ticket, error, "not sent again: the run is at most once")
    if look.why is Why.LOST and error is not None:
        return _again(look, now, policy)
    given_up = _given_up(look, now, policy)
    if ticket.attempt >= policy.attempts:
        return given_up
    # Only a J that had no end may be used again, and only while the server surely remembers it.
    is_lost = look.why in {Why.LOST, Why.OVERDUE} and not ticket.answered
    keep = is_lost and now - ticket.sent_at < policy.job_memory
    return Send(
        ticket.attempt + 1, ticket.job_uuid if keep else None, window_start(ticket), given_up, is_after_silence=True
    )


def window_start(ticket: Ticket) -> float | None:
    """Return when the Clone's time began; None: its next POST begins it, as time between processes is not its own."""
    return None if ticket.resumed else ticket.first_sent_at


def _again(look: Look, now: float, policy: Policy) -> Step:
    """Another attempt after a failure told by the server, if its code and the target's attempts allow one."""
    ticket, error = look.ticket, look.error
    assert error is not None
    # What the server may still be doing after its answer is not awaited for ever.
    surely_over = ticket.reopened and now - ticket.sent_at > policy.window(None)
    lasting = error.klass is ErrorClass.AMBIGUOUS and error.retries is None and not surely_over
    given_up = _uncertain(ticket, error) if lasting else _failed(ticket, error)
    allowed = policy.attempts if error.retries is None else min(policy.attempts, error.retries + 1)
    if ticket.attempt >= allowed:
        return given_up
    return Send(ticket.attempt + 1, None, window_start(ticket), given_up)


def _given_up(look: Look, now: float, policy: Policy) -> End:
    """Without attempts left: failed only once the last POST cannot be running any more."""
    ticket = look.ticket
    # Whoever sent it has not waited that long: a clock was set.
    if ticket.resumed and now - ticket.sent_at > policy.window(None) + policy.job_memory:
        text = "every attempt went unanswered and no clone appeared"
        return End(State.FAILED, ticket.attempt, code="ZCLONE.UNANSWERED", text=text)
    return _uncertain(ticket, look.error, "every attempt went unanswered; no clone is visible yet")


def _unverifiable(look: Look, error: ApiError) -> End:
    if look.why is Why.ENDED and look.error is not None and look.error.klass is ErrorClass.PERMANENT:
        return _failed(look.ticket, look.error)
    return _uncertain(look.ticket, look.error or error, "this account may not look for the clone")


def _failed(ticket: Ticket, error: ApiError) -> End:
    return End(State.FAILED, ticket.attempt, code=error.code, text=error.told)


def _uncertain(ticket: Ticket, error: ApiError | None, text: str = "") -> End:
    code = error.code if error is not None else "ZCLONE.UNCERTAIN"
    told = error.told if error is not None else ""
    return End(State.UNCERTAIN, ticket.attempt, code=code, text="; ".join(filter(None, (text, told))))
