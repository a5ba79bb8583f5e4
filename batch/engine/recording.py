"""The records of one Clone other than ``sent``: most are appended without waiting, as no call depends on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.errors import EndReason, ExitCode, RunStoppedError
from batch.model import UNKNOWN_JOB, Record, State

if TYPE_CHECKING:
    from batch.engine.settle import Dependencies
    from batch.engine.steps import End, Send, Ticket
    from batch.model import Clone


class NotHonouredError(RunStoppedError):
    """The server does not give a clone the requested uuid, so that a retry could make a second clone."""

    exit_code = ExitCode.FAILED
    reason = EndReason.RESOURCE_UUID


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
    if not open_jobs:
        record_planned(clone, step.attempt - 1, deps, open_jobs=() if ended is None else (ended,))
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
            open_jobs=(*others, *(() if ended is None else (ended,)), *_lost(job_uuid)),
        )
    )


def record_planned(
    clone: Clone, attempts: int, deps: Dependencies, *, open_jobs: tuple[str, ...] = (), code: str | None = None
) -> None:
    """Record that a Clone is planned again, with ``attempts`` charged; ``code``: the error of the last one."""
    at = deps.clock.time()
    deps.journal.note(Record(State.PLANNED, clone.key, at, attempts, error_code=code, open_jobs=open_jobs))


def _lost(job_uuid: str) -> tuple[str, ...]:
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
            job_uuid=end.job_uuid if end.job_uuid != UNKNOWN_JOB else None,
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
