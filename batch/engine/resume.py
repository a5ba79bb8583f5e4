"""The first step of a Clone in this process, from its manifest records, and whether an open one is reconciled.

Fresh and resumed Clones take one path: a resumed one is a Clone whose first step follows from its records. The time
between two processes does not count towards its timeout: its next POST begins a new window, and each attempt's deadline
is in its ``sent`` record.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batch.engine.steps import Look, LookReason, Poll, Resend, Send, Ticket
from batch.model import UNKNOWN_JOB, Intent, State

if TYPE_CHECKING:
    from batch.engine.policy import Policy
    from batch.engine.steps import Step
    from batch.engine.survey import RunHistory
    from batch.model import Clone


def first_step(intent: Intent, policy: Policy, *, now: float) -> Step:
    """Return the step at which a Clone continues, from its records; ``now`` in seconds since the epoch.

    Recorded times that lie in the future were written by a wrong clock.
    """
    open_jobs = intent.open_jobs if intent.job_uuid is None else (intent.job_uuid, *intent.open_jobs)
    # An attempt whose job ended unexecuted is not charged: the record counts only those before it.
    attempt = max(intent.attempt, *(job.attempt for job in intent.sent_jobs if job.job_uuid in open_jobs[:1]), 0)
    if not open_jobs and policy.at_most_once and intent.was_repeated:
        # Its attempts ended, but not all of them with the proof that nothing was executed.
        open_jobs, intent = (UNKNOWN_JOB,), replace(intent, is_mixed=True)
    if not open_jobs:
        was_sent = intent.attempt > 0
        has_predecessor = intent.has_predecessor or was_sent
        taken = intent.is_taken
        return Send(intent.attempt + 1, has_predecessor=has_predecessor, has_unanswered=was_sent, is_taken=taken)
    window = policy.window(intent.api_timeout)
    first_sent_at = min(intent.first_sent_at, now)
    sent_at = intent.sent_at if intent.sent_at <= now else min(intent.seen_at, now)
    deadline = first_sent_at + window if intent.deadline is None else intent.deadline
    ticket = Ticket(
        max(attempt, int(open_jobs != (UNKNOWN_JOB,))),
        open_jobs[0],
        sent_at,
        first_sent_at,
        deadline if deadline <= now + window else sent_at + window,
        is_answered=intent.is_answered,
        is_resumed=True,
        is_reopened=intent.state is State.UNCERTAIN,
        open_jobs=open_jobs[1:],
        is_repeat=intent.is_repeat,
        has_repeats=intent.has_repeats,
        is_mixed=intent.is_mixed,
        has_sent_line=bool(intent.digest),
        has_predecessor=intent.has_predecessor or attempt > 1 or any(job.attempt > 1 for job in intent.sent_jobs),
        # Whether they got answers is not on record.
        has_unanswered=attempt > 1 or UNKNOWN_JOB in open_jobs,
        is_taken=intent.is_taken,
        was_repeated=intent.was_repeated,
        api_timeout=intent.api_timeout,
    )
    return Poll(ticket, at_once=True)


def first_step_of_new(clone: Clone, past: RunHistory, policy: Policy, *, now: float) -> Step:
    """Return the first step of a Clone without records: a look first where lost lines may have recorded it.

    So it is at most once where processes without the flag sent it.
    """
    if not (past.is_repaired or (policy.at_most_once and clone.key in past.repeated)):
        was_sent = past.has_predecessor(clone.key)
        return look_before(clone, Send(1, has_predecessor=was_sent, has_unanswered=was_sent), now=now)
    lost = Intent("", State.UNCERTAIN, "", "", "", 0, None, now, now, open_jobs=(UNKNOWN_JOB,))
    return first_step(replace(lost, is_mixed=True, has_predecessor=True), policy, now=now)


def resumed_step(clone: Clone, intent: Intent, policy: Policy, *, now: float) -> Step:
    """Return the step at which a Clone with records continues; Send where its uuid changed and nothing is open."""
    step = first_step(intent, policy, now=now)
    if not isinstance(step, Send):
        return step
    is_same_uuid = intent.resource_uuid in ("", clone.resource_uuid)
    return look_before(clone, step if is_same_uuid else Send(1), now=now)


def look_before(clone: Clone, step: Step, *, now: float) -> Step:
    """Look for a user's own uuid before the first POST: a service that already has it is not ours."""
    if not (clone.is_given and isinstance(step, Send) and step.attempt == 1 and step.fallback is None):
        return step
    ticket = Ticket(0, "", now, now, now, has_predecessor=step.has_predecessor, has_unanswered=step.has_unanswered)
    return Look(ticket, LookReason.GIVEN)


def is_reconciled(step: Step) -> bool:
    """Return whether a resumed Clone is reconciled: its job is known to run, or it is about to be sent again."""
    return isinstance(step, Send | Resend) or (isinstance(step, Poll) and step.polls > 0 and step.ticket.is_answered)
