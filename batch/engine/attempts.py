"""What follows where no clone is visible: another attempt, an end, or polls of earlier attempts' jobs. Pure.

Decisions for ``uncertain`` end in ``end_uncertain``. The state is also recorded without a decision: by the quarantine
(engine/admission.py), for an attempt that was never executed while others are open (engine/clone_records.py), and for
lost lines (manifest/repair.py). batch/README.md lists all reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.engine.steps import RESOURCE_UUID, Abort, End, Look, LookReason, Review, Send, Ticket
from batch.errors import NOT_SENT_AGAIN, UNANSWERED
from batch.model import UNKNOWN_JOB, State
from batch.zstack.answers import ApiError, ErrorClass

if TYPE_CHECKING:
    from batch.engine.policy import Policy
    from batch.engine.steps import Step

_UNCHARGED = frozenset({ErrorClass.RENEW, ErrorClass.NODE, ErrorClass.FATAL})
"""Classes of definite ends that concern the session, the node or the whole run and not the Clone."""
_ELSEWHERE: Final = "a server that does not honour resourceUuid may have made it under another uuid"
_UNSEEN: Final = "its uuid is in use, perhaps by what an earlier attempt made; this account does not see it"


@dataclass(frozen=True, slots=True)
class DecisionContext:
    """What a decision depends on besides the step and the answer."""

    policy: Policy
    now: float
    """Seconds since the epoch."""
    is_honoured: bool = True
    """Whether the manifest shows that the server honours resourceUuid."""
    api_timeout: float = 0.0
    """The longest apiTimeout that the server reported for any job of the run, in seconds."""

    def expires_at(self, ticket: Ticket) -> float:
        """Return when the server can no longer execute the last POST, in seconds since the epoch."""
        return self.policy.expires_at(ticket.sent_at, self._longest(ticket))

    def is_in_time(self, ticket: Ticket) -> bool:
        """Return whether the apiTimeout of the last POST has not passed yet."""
        return self.now < ticket.sent_at + (self._longest(ticket) or self.policy.api_timeout)

    def _longest(self, ticket: Ticket) -> float | None:
        return max(self.api_timeout, ticket.api_timeout or 0.0) or None

    @property
    def is_repeatable(self) -> bool:
        """Whether a second POST cannot make a second clone."""
        return self.is_honoured and not self.policy.at_most_once


def after_absence(look: Look, context: DecisionContext) -> Step:
    """Decide on a resource that no look has shown."""
    ticket, error = look.ticket, look.error
    match look.reason:
        case LookReason.GIVEN:
            return Send(
                ticket.attempt + 1,
                has_predecessor=ticket.has_predecessor,
                has_unanswered=ticket.has_unanswered,
                is_taken=ticket.is_taken,
            )
        case LookReason.STOPPED:
            return stop_run(look)
        case LookReason.ENDED:
            assert error is not None
            return _after_failure(look, error, context)
    return _after_silence(look, context)


def _after_silence(look: Look, context: DecisionContext) -> Step:
    """Decide on a POST whose job gave no definite answer."""
    ticket, error, policy = look.ticket, look.error, context.policy
    is_early = look.reason in {LookReason.OVERDUE, LookReason.FORGOTTEN} and not (
        ticket.is_reopened or is_expired(ticket, context)
    )
    if is_early:
        return end_uncertain(ticket, context, error, "its api job did not end in time and no clone is visible")
    if policy.at_most_once:
        return end_uncertain(ticket, context, error, NOT_SENT_AGAIN)
    if look.reason is LookReason.EMPTY and not context.is_honoured:
        return Abort(ticket, _not_honoured(ticket))
    if look.reason is LookReason.LOST and error is not None:
        return _retry(look, error, context)
    if ticket.attempt >= policy.attempts:
        return _give_up(look, context)
    # Only a job uuid without an end may be sent again, and only while the server certainly still has its row.
    is_closed = has_ended(look, context)
    is_lost = look.reason is not LookReason.EMPTY and not ticket.is_answered and ticket.job_uuid != UNKNOWN_JOB
    keep = is_lost and not is_closed and context.now - ticket.sent_at < policy.job_memory
    return Send(
        ticket.attempt + 1,
        ticket.job_uuid if keep else None,
        _window_start(ticket),
        _give_up(look, context),
        is_after_silence=True,
        open_jobs=ticket.open_jobs if keep or is_closed else (*ticket.open_jobs, ticket.job_uuid),
        needs_confirmation=True,
        is_mixed=ticket.is_mixed,
        has_predecessor=ticket.has_predecessor or keep or is_closed,
        unexecuted_jobs=ticket.unexecuted_jobs,
        has_unanswered=True,
        is_taken=_is_taken(ticket, error),
        has_repeats=keep or ticket.has_repeats,
        api_timeout=ticket.api_timeout,
        expires_at=context.expires_at(ticket),
    )


def stop_run(look: Look) -> Abort:
    """Stop the run because of a job's error; the job did not execute, unless a cause of the error says that it did."""
    assert look.error is not None
    return Abort(look.ticket, look.error, is_job_over=not look.error.may_have_run)


def _after_failure(look: Look, error: ApiError, context: DecisionContext) -> Step:
    """Decide on a job that failed and made nothing."""
    if error.error_class is ErrorClass.PERMANENT:
        return _give_up(look, context)
    is_uncharged = error.error_class in _UNCHARGED and not error.may_have_run
    if is_uncharged and look.ticket.uncharged < context.policy.uncharged_sends:
        return send_uncharged(look, context)
    return _retry(look, error, context)


def send_uncharged(look: Look, context: DecisionContext) -> Step:
    """Send the same attempt under a new job uuid; the old one is kept, as a request that arrived twice has two ends."""
    ticket, needs_confirmation = look.ticket, has_lost_jobs(look.ticket)
    # A uuid found in use does not prove that nothing was executed.
    if context.policy.at_most_once and (needs_confirmation or ticket.was_repeated or ticket.is_taken):
        return end_uncertain(ticket, context, look.error, NOT_SENT_AGAIN)
    ended = (ticket.job_uuid,) if ticket.is_answered else ()
    return Send(
        ticket.attempt,
        None,
        _window_start(ticket),
        _give_up(look, context),
        open_jobs=(*ticket.open_jobs, *ended),
        needs_confirmation=needs_confirmation,
        is_mixed=ticket.is_mixed,
        has_predecessor=ticket.has_predecessor or ticket.is_repeat,
        unexecuted_jobs=(*ticket.unexecuted_jobs, *ended),
        is_last_unexecuted=not ticket.is_repeat,
        has_unanswered=ticket.has_unanswered,
        is_taken=_is_taken(ticket, look.error),
        uncharged=ticket.uncharged + 1,
        has_repeats=ticket.has_repeats,
        api_timeout=ticket.api_timeout,
        expires_at=context.expires_at(ticket),
    )


def _window_start(ticket: Ticket) -> float | None:
    """Return when the Clone's time window began.

    None: its next POST begins it, as the time between two processes does not count.
    """
    return None if ticket.is_resumed else ticket.first_sent_at


def _retry(look: Look, error: ApiError, context: DecisionContext) -> Step:
    """Make another attempt after a failure that the server reported, if its code and the attempts left allow one."""
    ticket, policy = look.ticket, context.policy
    in_doubt = look.reason is LookReason.LOST or may_have_run(error) or has_lost_jobs(ticket)
    if policy.at_most_once and (in_doubt or ticket.was_repeated):
        return end_uncertain(ticket, context, error, NOT_SENT_AGAIN)
    allowed = policy.attempts if error.retries is None else min(policy.attempts, error.retries + 1)
    if ticket.attempt >= allowed:
        return _give_up(look, context)
    is_closed = has_ended(look, context)
    return Send(
        ticket.attempt + 1,
        None,
        _window_start(ticket),
        _give_up(look, context),
        open_jobs=ticket.open_jobs if is_closed else (*ticket.open_jobs, ticket.job_uuid),
        needs_confirmation=in_doubt,
        is_mixed=ticket.is_mixed,
        # A job that found the uuid in use made nothing.
        has_predecessor=ticket.has_predecessor or ticket.is_repeat or (in_doubt and is_closed and not error.is_in_use),
        unexecuted_jobs=ticket.unexecuted_jobs,
        is_last_unexecuted=is_closed and not in_doubt and not ticket.is_repeat,
        has_unanswered=ticket.has_unanswered or look.reason is LookReason.LOST,
        is_taken=_is_taken(ticket, error),
        has_repeats=ticket.has_repeats,
        api_timeout=ticket.api_timeout,
        expires_at=context.expires_at(ticket),
    )


def _give_up(look: Look, context: DecisionContext) -> Step:
    """Fail where every job uuid had a definite end and nothing is visible; else uncertain, or poll the earlier jobs."""
    ticket, error = look.ticket, look.error
    if not has_ended(look, context):
        why = "its api job has not ended" if ticket.is_answered else "every attempt went unanswered"
        return end_uncertain(ticket, context, error, "" if error else f"{why}; no clone is visible yet")
    if may_have_other_uuid(look, context):
        return end_uncertain_uuid(ticket, context, error)
    if ticket.open_jobs:
        return Review(look, ticket.open_jobs)
    if _is_taken(ticket, error) and (ticket.has_unanswered or ticket.has_predecessor):
        return end_uncertain(ticket, context, error, _UNSEEN, is_last=True)
    if error is None:
        text = "every attempt went unanswered and no clone appeared: nothing was made; zclone retry tries again"
        return End(State.FAILED, ticket.attempt, code=UNANSWERED, text=text)
    is_unanswered = ticket.has_unanswered or look.reason is LookReason.LOST
    return End(State.FAILED, ticket.attempt, code=error.code, text=error.text, is_unanswered=is_unanswered)


def _is_taken(ticket: Ticket, error: ApiError | None) -> bool:
    return ticket.is_taken or (error is not None and error.is_in_use)


def has_ended(look: Look, context: DecisionContext) -> bool:
    """Return whether the attempt's job has a definite end: the server's answer, or unknown after all its time."""
    if look.reason in {LookReason.OVERDUE, LookReason.EMPTY}:
        return False
    may_go_on = look.error is not None and look.error.may_go_on
    if look.reason in {LookReason.LOST, LookReason.FORGOTTEN} or may_go_on or look.ticket.is_repeat:
        return is_expired(look.ticket, context)
    return True


def is_expired(ticket: Ticket, context: DecisionContext) -> bool:
    """Return whether the server can no longer execute the POST.

    Only a later process decides this: the clock of the one that sent the POST may be set while it runs.
    """
    return ticket.is_resumed and context.now >= context.expires_at(ticket)


def may_have_other_uuid(look: Look, context: DecisionContext) -> bool:
    """Return whether the clone may exist under a uuid that shows it only where the server honours resourceUuid."""
    in_doubt = look.error is None or may_have_run(look.error) or has_lost_jobs(look.ticket)
    return in_doubt and not context.is_repeatable


def has_lost_jobs(ticket: Ticket) -> bool:
    """Return whether lost lines of the manifest may have recorded an attempt."""
    return UNKNOWN_JOB in (ticket.job_uuid, *ticket.open_jobs)


def may_have_run(error: ApiError) -> bool:
    """Return whether the request may have been executed although it was answered with this error."""
    return error.error_class is ErrorClass.AMBIGUOUS or error.may_have_run


def _not_honoured(ticket: Ticket) -> ApiError:
    text = (
        f"api job {ticket.job_uuid[:8]}… succeeded without showing what it made, and nothing is visible under the uuid "
        "that was requested: the server does not honour resourceUuid; look for the clone, then use --at-most-once"
    )
    return ApiError(ErrorClass.FATAL, RESOURCE_UUID, text)


def end_uncertain(
    ticket: Ticket, context: DecisionContext, error: ApiError | None, text: str = "", *, is_last: bool | None = None
) -> End:
    """Return the uncertain end of a Clone of which it is not known whether it was made.

    ``is_last``: whether no later process would learn more or send again; None: decided by the attempts left.
    """
    may_go_on = is_last is None and ticket.attempt < context.policy.attempts
    if is_last is None:
        is_last = not (may_go_on and context.is_repeatable)
    code = error.code if error is not None else "ZCLONE.UNCERTAIN"
    reported = error.text if error is not None else ""
    return End(
        State.UNCERTAIN,
        ticket.attempt,
        code=code,
        text="; ".join(filter(None, (text, reported))),
        job_uuid=ticket.job_uuid,
        open_jobs=ticket.open_jobs,
        until=context.expires_at(ticket) if is_last else None,
        is_in_use=_is_taken(ticket, error),
        is_unconfirmed=may_go_on and not (context.is_honoured or context.policy.at_most_once),
    )


def end_uncertain_uuid(ticket: Ticket, context: DecisionContext, error: ApiError | None, text: str = "") -> End:
    """Return the end of a Clone that may exist under another uuid, as the server may not honour resourceUuid."""
    end = end_uncertain(ticket, context, error, "; ".join(filter(None, (text, _ELSEWHERE))))
    return end._replace(is_unconfirmed=not context.policy.at_most_once)
