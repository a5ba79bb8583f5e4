"""The protocol of one Clone as a state machine: the step that follows an answer. Pure; ``settle`` does the I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from batch.engine.attempts import (
    after_absence,
    end_uncertain,
    is_expired,
    may_have_run,
    send_uncharged,
    stop_run,
)
from batch.engine.comparison import after_found
from batch.engine.steps import Abort, End, Look, LookReason, Poll, Renew, Resend, Review, Send, Ticket
from batch.model import UNKNOWN_JOB, State
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
    from batch.engine.attempts import DecisionContext
    from batch.engine.policy import Policy
    from batch.engine.steps import Step
    from batch.model import Clone


_UNEXECUTED: Final = ApiError(ErrorClass.NODE, "ZCLONE.UNEXECUTED", "its api job had ended without being executed")


def after_submit(answer: SubmitAnswer, ticket: Ticket, *, policy: Policy, failures: int = 0) -> Step:
    """Decide on the answer to the POST."""
    match answer:
        case Accepted(api_timeout):
            deadline = ticket.first_sent_at + policy.window(api_timeout)
            longest = max(filter(None, (ticket.api_timeout, api_timeout)), default=None)
            return Poll(ticket._replace(is_answered=True, deadline=deadline, api_timeout=longest))
        case Duplicate():
            return Poll(ticket._replace(is_answered=True))
        case Done(service):
            return _end_cloned(service, ticket)
        case Refused(error):
            return _refused_post(error, ticket)
        case NotSent():
            return Resend(ticket, failures + 1, is_limited=answer.is_over_limit or answer.is_held_back)
        case _:
            return Poll(ticket)


def _refused_post(error: ApiError, ticket: Ticket) -> Step:
    """End the attempt only where its job uuid was not sent before and no cause of the error says that it executed."""
    if error.error_class is ErrorClass.FATAL:
        return Abort(ticket, error, is_unsent=not (ticket.is_repeat or error.may_have_run))
    if ticket.is_repeat or error.error_class is ErrorClass.AMBIGUOUS:
        return Poll(ticket, error=error)
    if error.error_class is ErrorClass.RENEW:
        return Renew(ticket, error, is_unsent=True)
    return Look(ticket, LookReason.ENDED, error)


def after_poll(answer: PollAnswer, poll: Poll, *, now: float, policy: Policy) -> Step:
    """Decide on the answer to a poll at time ``now``."""
    ticket, misses = poll.ticket, 0
    match answer:
        case Done(service):
            return _end_cloned(service, ticket)
        case Refused(error) if error.error_class is ErrorClass.RENEW:
            return Renew(ticket._replace(is_answered=True), error)
        case Refused(error) if error.error_class is ErrorClass.FATAL and not (ticket.is_resumed and poll.at_once):
            return Look(ticket._replace(is_answered=True), LookReason.STOPPED, error)
        case Refused(error):
            # A fatal error of an earlier process's job says nothing about the server's present state.
            return Look(ticket._replace(is_answered=True), LookReason.ENDED, error)
        case Unknown() if (step := _after_unknown(poll, policy)) is not None:
            return step
        case Unknown():
            misses = poll.misses + 1
        case Running():
            ticket = ticket._replace(is_answered=True)
        case _:
            misses = poll.misses
    if now >= ticket.deadline:
        reason = LookReason.FORGOTTEN if isinstance(answer, Unknown) else LookReason.OVERDUE
        return Look(ticket, reason, was_visible=poll.was_visible)
    return Poll(ticket, poll.polls + 1, misses, poll.error)


def _after_unknown(poll: Poll, policy: Policy) -> Step | None:
    """Decide on a poll that finds no job; None: nothing but its time ends the attempt."""
    ticket = poll.ticket
    if ticket.is_unexecuted:
        # The server keeps the rows of ended jobs for some hours only (zstack/README.md 6).
        return Look(ticket._replace(is_answered=False), LookReason.ENDED, _UNEXECUTED)
    is_lost = poll.misses + 1 >= policy.misses
    if poll.was_visible and not is_lost:
        return poll._replace(polls=poll.polls + 1, misses=poll.misses + 1, at_once=False)
    if is_lost or not ticket.is_answered:
        return Look(ticket, LookReason.LOST, poll.error, was_visible=is_lost)
    return None


def after_renewal(renew: Renew, clone: Clone, *, context: DecisionContext) -> Step:
    """Decide how to continue with a new session; a target that left the job file has no body to send.

    One that an earlier process left uncertain is looked for first: a later attempt may have ended.
    """
    look = Look(renew.ticket, LookReason.ENDED, renew.error)
    if clone.body and not renew.ticket.is_reopened and renew.ticket.uncharged < context.policy.uncharged_sends:
        return send_uncharged(look, context)
    return look


def after_find(answer: FindAnswer, look: Look, clone: Clone, *, context: DecisionContext) -> Step:
    """Decide on the answer to a look."""
    match answer:
        case Found(service):
            return after_found(service, look, clone, context)
        case Absent() if look.looks + 1 < _looks_needed(look, context.policy):
            return replace(look, looks=look.looks + 1, failed_looks=0)
        case Absent():
            return after_absence(look, context)
        case Refused(error) if error.error_class in {ErrorClass.FATAL, ErrorClass.PERMANENT}:
            return _not_shown(look, error, context)
        case _ if look.failed_looks + 1 < context.policy.max_failed_looks:
            return replace(look, failed_looks=look.failed_looks + 1)
        case _ if look.reason is LookReason.GIVEN:
            # Nothing was sent and nothing is known: the next run looks again.
            return look
        case _ if look.reason is LookReason.STOPPED:
            return stop_run(look)
        case _:
            shown = look.error or (answer.error if isinstance(answer, Refused) else None)
            text = "the server could not say whether the clone exists"
            return end_uncertain(look.ticket, context, shown, text, is_last=False)


def without_uuid(look: Look, *, context: DecisionContext) -> Step:
    """Decide where no look is possible: the uuid was on lost lines, and the target is not in the plan."""
    if look.reason is LookReason.STOPPED:
        return stop_run(look)
    text = "its uuid was on lost lines of the manifest: it is looked for once its target is in the job file again"
    return end_uncertain(look.ticket, context, look.error, text, is_last=True)


def _not_shown(look: Look, error: ApiError, context: DecisionContext) -> Step:
    """Decide on a look that is refused permanently."""
    if look.reason is LookReason.STOPPED:
        return stop_run(look)
    if error.error_class is ErrorClass.FATAL:
        return Abort(look.ticket, error)
    text = "this account may not look for the clone"
    if error.code.startswith("HTTP."):
        # A plain text or a page, perhaps of a gateway: it says nothing about the account's rights.
        text = f"the look for the clone was answered with {error.code.replace('.', ' ')}"
    if look.reason is LookReason.GIVEN:
        outcome = "nothing was sent again" if look.ticket.attempt else "nothing was sent"
        text = f"{outcome}, as {text}: {error.text}"
        return End(State.FAILED, look.ticket.attempt, code=error.code, text=text)
    return end_uncertain(look.ticket, context, look.error or error, text, is_last=True)


def after_review(answer: PollAnswer, review: Review, *, context: DecisionContext) -> Step:
    """Decide on the answer of an earlier attempt's job."""
    ticket = review.look.ticket
    job, pending = review.pending[0], review.pending[1:]
    if isinstance(answer, Unknown) and job != UNKNOWN_JOB and _may_be_other_node(review, context):
        return replace(review, misses=review.misses + 1)
    if isinstance(answer, Refused):
        ticket = _after_ended(job, answer.error, ticket)
        review = replace(review, look=replace(review.look, ticket=ticket))
    match answer:
        case Done(Service() as service):
            return End(State.CLONED, ticket.attempt, service, job_uuid=job)
        case Refused(error) if not (error.may_go_on or ticket.has_repeats):
            is_open = False
        case Refused() | Unknown() | Done() if review.is_visible:
            is_open = job == UNKNOWN_JOB
        case Refused() | Unknown() | Done():
            is_open = not is_expired(ticket, context)
        case _:
            is_open = True
    review = replace(review, pending=pending, open=(*review.open, job) if is_open else review.open, misses=0)
    if pending:
        return review
    if review.is_visible:
        text = "the service is visible, but the api job of an earlier attempt has not ended"
        after = replace(review.look, looks=0, failed_looks=0, is_reviewed=True)
        return end_uncertain(ticket, context, review.look.error, text, is_last=False) if review.open else after
    if review.open:
        ticket = ticket._replace(job_uuid=review.open[0], open_jobs=review.open[1:])
        text = "an earlier attempt may still be executing"
        return end_uncertain(ticket, context, review.look.error, text, is_last=review.is_last or None)
    return replace(review.look, ticket=ticket._replace(open_jobs=()), looks=0, failed_looks=0)


def _may_be_other_node(review: Review, context: DecisionContext) -> bool:
    """Return whether only one node may not know the job, which may still take back what is visible."""
    is_early = review.misses + 1 < context.policy.misses and context.is_in_time(review.look.ticket)
    return review.is_visible and is_early


def _after_ended(job: str, error: ApiError, ticket: Ticket) -> Ticket:
    """Return the ticket with what the end of an earlier attempt's job shows."""
    made_nothing = (error.is_in_use or not may_have_run(error)) and not ticket.has_repeats
    unexecuted = (*ticket.unexecuted_jobs, job) if made_nothing else ticket.unexecuted_jobs
    return ticket._replace(unexecuted_jobs=unexecuted, is_taken=ticket.is_taken or error.is_in_use)


def _end_cloned(service: Service | None, ticket: Ticket) -> Step:
    if service is None:
        return Look(ticket, LookReason.EMPTY)
    return End(State.CLONED, ticket.attempt, service)


def _looks_needed(look: Look, policy: Policy) -> int:
    """Return how many looks must show nothing: one where the request never executed, more where it may be executing."""
    if look.reason in {LookReason.GIVEN, LookReason.STOPPED}:
        return 1
    if look.reason is LookReason.ENDED and look.error is not None and not may_have_run(look.error):
        return 1
    return policy.looks


def after_no_send(step: Send) -> Step:
    """Return what follows where neither this nor a later process sends the target again, as it left the job file."""
    match step.fallback:
        case End(state=State.UNCERTAIN, until=None) as end:
            return end._replace(until=step.expires_at)
        case Review() as review:
            return replace(review, is_last=True)
    assert step.fallback is not None
    return step.fallback


def after_edit(step: Send, *, is_same_uuid: bool) -> Send:
    """Return the Send of an edited target: under a new job uuid, as the old one belongs to another body."""
    open_jobs = step.open_jobs if step.job_uuid is None else (*step.open_jobs, step.job_uuid)
    if is_same_uuid:
        return step._replace(job_uuid=None, open_jobs=open_jobs, is_mixed=bool(open_jobs))
    return Send(step.attempt)
