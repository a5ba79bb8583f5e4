"""The records of one Clone: the first step that follows from them, and those that are written later.

Fresh and resumed Clones take one path: a resumed one is a Clone whose first step follows from its records. The time
between two processes does not count towards its timeout: its next POST begins a new window, and each attempt's deadline
is in its ``sent`` record. Most other records are appended without waiting, as no call depends on them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batch.engine.steps import End, Look, LookReason, Poll, Resend, Send, Ticket
from batch.errors import UNANSWERED, EndReason, ExitCode, RunStoppedError
from batch.model import UNKNOWN_JOB, Intent, Record, State

if TYPE_CHECKING:
    from batch.engine.policy import Policy
    from batch.engine.settle import Dependencies
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
        return _next_attempt(intent)
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
        is_unexecuted=any(job.is_unexecuted for job in intent.sent_jobs if job.job_uuid == open_jobs[0]),
        is_resumed=True,
        is_reopened=intent.state is State.UNCERTAIN,
        open_jobs=open_jobs[1:],
        is_repeat=intent.is_repeat,
        has_repeats=intent.has_repeats,
        is_mixed=intent.is_mixed,
        has_sent_line=bool(intent.digest),
        has_predecessor=intent.has_predecessor or intent.has_repeats,
        unexecuted_jobs=tuple(job.job_uuid for job in intent.sent_jobs if job.is_unexecuted),
        # Whether they got answers is not on record.
        has_unanswered=attempt > 1 or UNKNOWN_JOB in open_jobs or intent.has_predecessor,
        is_taken=intent.is_taken,
        was_repeated=intent.was_repeated,
        api_timeout=intent.api_timeout,
    )
    return Poll(ticket, at_once=True)


def _next_attempt(intent: Intent) -> Send:
    """Return the POST of a Clone without open jobs."""
    # Where each of its attempts had an answer, what appears since was not made by them.
    is_unanswered = intent.error_code == UNANSWERED
    return Send(
        intent.attempt + 1,
        has_predecessor=intent.has_predecessor or is_unanswered,
        has_unanswered=is_unanswered,
        is_taken=intent.is_taken,
    )


def first_step_of_new(clone: Clone, past: RunHistory, policy: Policy, *, now: float) -> Step:
    """Return the first step of a Clone without records: a look first where lost lines may have recorded it.

    So it is at most once where processes without the flag sent it.
    """
    if not (past.is_repaired or (policy.at_most_once and clone.key in past.repeated)):
        was_sent = past.has_predecessor(clone.key, clone.resource_uuid)
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


def is_unexecuted(clone: Clone, intent: Intent) -> bool:
    """Return whether no job of an edited target was executed, so that nothing was made as it was before the edit."""
    jobs = {job.job_uuid for job in intent.sent_jobs if job.is_unexecuted}
    is_same_uuid = intent.resource_uuid == clone.resource_uuid
    return is_same_uuid and intent.job_uuid is None and jobs == set(intent.open_jobs)


def look_before(clone: Clone, step: Step, *, now: float) -> Step:
    """Look for a user's own uuid before a POST, unless an earlier one may have made what has it."""
    if not (clone.is_given and isinstance(step, Send) and step.fallback is None):
        return step
    if step.attempt > 1 and step.has_predecessor:
        return step
    ticket = Ticket(
        step.attempt - 1,
        "",
        now,
        now,
        now,
        has_predecessor=step.has_predecessor,
        has_unanswered=step.has_unanswered,
        is_taken=step.is_taken,
    )
    return Look(ticket, LookReason.GIVEN)


def is_reconciled(step: Step) -> bool:
    """Return whether a resumed Clone is reconciled: its job is known to run, or it is about to be sent again."""
    return isinstance(step, Send | Resend) or (isinstance(step, Poll) and step.polls > 0 and step.ticket.is_answered)


class NotHonouredError(RunStoppedError):
    """The server does not give a clone the requested uuid, so that a retry could make a second clone."""

    exit_code = ExitCode.FAILED
    reason = EndReason.RESOURCE_UUID


def new_ticket(step: Send, deps: Dependencies, *, waited: float) -> Ticket:
    """Return the attempt of ``step``, which waited for some seconds that do not count for the Clone."""
    now = deps.clock.time()
    first = now if step.first_sent_at is None else step.first_sent_at + waited
    return Ticket(
        step.attempt,
        step.job_uuid or deps.clock.uuid(),
        now,
        first,
        first + deps.policy.window(None),
        open_jobs=step.open_jobs,
        is_repeat=step.job_uuid is not None,
        has_repeats=step.has_repeats,
        is_mixed=step.is_mixed,
        has_predecessor=step.has_predecessor,
        unexecuted_jobs=step.unexecuted_jobs,
        has_unanswered=step.has_unanswered,
        is_taken=step.is_taken,
        api_timeout=step.api_timeout,
        uncharged=step.uncharged,
    )


def sent_record(clone: Clone, ticket: Ticket) -> Record:
    """Return the record that is durable before the POST."""
    attempt = (ticket.sent_at, ticket.attempt, clone.source_uuid, clone.resource_uuid, ticket.job_uuid)
    return Record(State.SENT, clone.key, *attempt, clone.digest, ticket.deadline, open_jobs=ticket.open_jobs)


async def record_accepted(clone: Clone, ticket: Ticket, deps: Dependencies) -> None:
    """Record that the server knows the job; durable on return where its apiTimeout is the longest so far.

    Without that line the next process would treat a lost POST as expired too early.
    """
    record = Record(
        State.ACCEPTED,
        clone.key,
        deps.clock.time(),
        ticket.attempt,
        job_uuid=ticket.job_uuid,
        deadline=ticket.deadline,
        api_timeout=ticket.api_timeout,
    )
    if (ticket.api_timeout or 0.0) > deps.api_timeout():
        await deps.journal.commit(record)
    else:
        deps.journal.note(record)


def record_unexecuted(clone: Clone, step: Ticket | Send, deps: Dependencies, *, ended: str | None = None) -> None:
    """Record that the attempt was never executed: it is not charged, and earlier open attempts stay open.

    ``ended``: its job uuid where the job ended without being executed: of a request that arrived twice only the last
    end is known, so that the job is polled again.
    """
    open_jobs, at = step.open_jobs, deps.clock.time()
    if set(open_jobs) <= set(step.unexecuted_jobs):
        code = UNANSWERED if step.has_unanswered else None
        _record_planned(clone, step, deps, open_jobs=(*(() if ended is None else (ended,)), *open_jobs), code=code)
        return
    job_uuid, *others = open_jobs
    deps.journal.note(
        Record(
            State.UNCERTAIN,
            clone.key,
            at,
            step.attempt - 1,
            job_uuid=job_uuid if job_uuid != UNKNOWN_JOB else None,
            error_code="ZCLONE.UNCERTAIN",
            error="an earlier attempt may still be executing",
            open_jobs=(*others, *(() if ended is None else (ended,)), *_unknown_jobs(job_uuid)),
            in_use=step.is_taken or None,
        )
    )


def _record_planned(
    clone: Clone, step: Ticket | Send, deps: Dependencies, *, open_jobs: tuple[str, ...] = (), code: str | None = None
) -> None:
    """Record that a Clone is planned again before the attempt of ``step``; ``code``: the error of the last one."""
    at, is_in_use = deps.clock.time(), step.is_taken or None
    attempts = step.attempt - 1
    planned = Record(State.PLANNED, clone.key, at, attempts, error_code=code, open_jobs=open_jobs, in_use=is_in_use)
    deps.journal.note(planned)


def record_ends(step: Send, clone: Clone, deps: Dependencies) -> bool:
    """Record that every attempt has ended, if so; a clone may still appear only where one went unanswered."""
    failed = step.fallback
    if not (isinstance(failed, End) and failed.state is State.FAILED):
        return False
    code = UNANSWERED if step.has_unanswered or failed.code == UNANSWERED else None
    _record_planned(clone, step, deps, open_jobs=step.open_jobs if clone.body else (), code=code)
    return True


def record_last(step: Send, clone: Clone, deps: Dependencies) -> None:
    """Record that the attempt before ``step`` was not executed, and that its job is over if it had one."""
    last = step.open_jobs[-1] if step.uncharged and step.open_jobs else None
    ended = last if last in step.unexecuted_jobs else None
    others = step.open_jobs if ended is None else step.open_jobs[:-1]
    record_unexecuted(clone, step._replace(open_jobs=others), deps, ended=ended)


def _unknown_jobs(job_uuid: str) -> tuple[str, ...]:
    return (UNKNOWN_JOB,) if job_uuid == UNKNOWN_JOB else ()


def record_end(clone: Clone, end: End, deps: Dependencies) -> None:
    """Record how a Clone settled. Raises NotHonouredError where it has another uuid than requested."""
    made = end.service
    is_uncertain = end.state is State.UNCERTAIN
    deps.journal.note(
        Record(
            end.state,
            clone.key,
            deps.clock.time(),
            end.attempt,
            job_uuid=end.job_uuid if end.job_uuid not in ("", UNKNOWN_JOB) else None,
            clone_uuid=made.uuid if made is not None and end.state is State.CLONED else None,
            name=made.name if made is not None else None,
            adopted=end.adopted or None,
            error_code=end.code,
            error=end.text
            if not is_uncertain or deps.context().is_repeatable
            else f"{end.text}; {_to_look_for(clone)}",
            open_jobs=_others(end) if is_uncertain else None,
            until=end.until,
            made_elsewhere=end.made_elsewhere or None,
            unanswered=end.is_unanswered or None,
            in_use=end.is_in_use or None,
        ),
    )
    if end.state is not State.CLONED or made is None:
        return
    if end.attempt == 1:
        deps.budget.reward()
    if clone.resource_uuid not in ("", made.uuid) and not deps.policy.at_most_once:
        raise NotHonouredError(
            f"{clone.key}: requested the uuid {clone.resource_uuid}, the server made {made.uuid}; it does not honour "
            "resourceUuid, so an unanswered request could be cloned twice: check the clone, then use --at-most-once"
        )


def _to_look_for(clone: Clone) -> str:
    """Return how the operator finds the clone on a server where its uuid may not show it."""
    name = clone.params.get("name")
    return f"look for a clone of {clone.source_uuid}" + (f" named {name}" if name is not None else "")


def _others(end: End) -> tuple[str, ...]:
    """Return the open jobs other than ``job_uuid``, including a placeholder for those whose uuids were lost."""
    return (UNKNOWN_JOB, *end.open_jobs) if end.job_uuid == UNKNOWN_JOB else end.open_jobs
