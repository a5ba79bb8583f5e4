"""The Intent of an open Clone, from its records: what is known of its attempts and of the job of each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from batch.errors import IN_USE, REPAIRED, UNANSWERED
from batch.model import UNKNOWN_JOB, Intent, Record, SentJob, State

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from batch.manifest.folds import Crashes

_RESTARTS: Final = frozenset({State.PLANNED, State.UNCERTAIN})


def intents_of(
    records: Mapping[str, Sequence[Record]],
    crashes: Crashes,
    has_predecessor: Callable[[str, str], bool],
    repeated: Container[str],
) -> dict[str, Intent]:
    """Return the Intent of each open Clone, by key, from its ``records``; ``repeated``: see PlainProcesses."""
    intents = ((intent_of(found), found) for found in records.values())
    return {
        intent.key: replace(
            intent,
            deaths=crashes.of(intent.key, found),
            has_predecessor=intent.has_predecessor or has_predecessor(intent.key, intent.resource_uuid),
            was_repeated=intent.key in repeated,
        )
        for intent, found in intents
    }


def intent_of(records: Iterable[Record]) -> Intent:
    """Return the Intent of an open Clone's ``records``, at least one."""
    intent: Intent | None = None
    for record in records:
        intent = next_intent(intent, record)
    assert intent is not None
    return intent


def next_intent(before: Intent | None, record: Record) -> Intent:
    """Return the Intent of an open Clone after ``record``."""
    is_new = record.state is State.SENT
    restarts = before is None or (is_new and before.state in _RESTARTS)
    known = before or Intent(record.key, record.state, "", "", "", 0, None, record.at, record.at)
    job_uuid, open_jobs = jobs_after(known.job_uuid, known.open_jobs, record)
    digest = record.digest or known.digest
    jobs = _jobs_of(known, record)
    left = tuple(jobs[uuid] for uuid in (job_uuid, *open_jobs) if uuid in jobs)
    last = jobs.get(job_uuid or next(iter(open_jobs), None))
    is_sent = is_new or _loses_jobs(known, record)
    # Only the answer to a POST has an apiTimeout: that POST may have waited for a slot since it was recorded.
    is_accepted = record.state is State.ACCEPTED and record.api_timeout is not None
    is_first_answer = is_accepted and not known.is_answered
    is_moved = is_new and record.resource_uuid not in (None, known.resource_uuid)
    return Intent(
        key=record.key,
        state=record.state,
        source_uuid=record.source_uuid or known.source_uuid,
        resource_uuid=record.resource_uuid or known.resource_uuid,
        digest=digest,
        attempt=record.attempt,
        job_uuid=job_uuid,
        sent_at=record.at if is_sent or is_first_answer else known.sent_at,
        first_sent_at=record.at if restarts else known.first_sent_at,
        seen_at=math.inf if is_sent else min(known.seen_at, record.at),
        deadline=record.deadline if is_new else record.deadline or known.deadline,
        error_code=record.error_code,
        error=record.error,
        open_jobs=open_jobs,
        api_timeout=max(filter(None, (record.api_timeout, known.api_timeout)), default=None),
        until=record.until,
        is_answered=last is not None and last.is_answered,
        is_repeat=last is not None and last.is_repeat,
        has_repeats=any(job.is_repeat for job in left),
        is_mixed=UNKNOWN_JOB in open_jobs or any(digest and job.digest not in ("", digest) for job in left),
        sent_jobs=left,
        has_predecessor=not is_moved and _has_predecessor(known, record, job_uuid, open_jobs),
        is_taken=(known.is_taken and not is_moved) or bool(record.in_use) or record.error_code == IN_USE,
    )


def _has_predecessor(known: Intent, record: Record, job_uuid: str | None, open_jobs: tuple[str, ...]) -> bool:
    """Return whether an attempt that is not among the open jobs after ``record`` may have made the clone."""
    if record.state is State.PLANNED:
        # Where each of its attempts had an answer, what appears since was not made by them.
        return record.error_code == UNANSWERED or (bool(open_jobs) and known.has_predecessor)
    unexecuted = {job.job_uuid for job in known.sent_jobs if job.is_unexecuted}
    left = {known.job_uuid, *known.open_jobs} - {job_uuid, *open_jobs, None} - unexecuted
    is_gap = record.state is State.SENT and record.attempt > known.attempt + 1
    return known.has_predecessor or bool(left) or is_gap


def _jobs_of(known: Intent, record: Record) -> dict[str | None, SentJob]:
    """Return what is known of each open job of ``known`` after ``record``, by job uuid."""
    jobs: dict[str | None, SentJob] = {job.job_uuid: job for job in known.sent_jobs}
    uuid = record.job_uuid
    if uuid is not None and record.state is State.SENT:
        earlier = jobs.get(uuid)
        jobs[uuid] = SentJob(
            uuid,
            record.digest or known.digest,
            record.attempt,
            is_answered=earlier is not None and earlier.is_answered,
            is_repeat=earlier is not None and (earlier.is_repeat or record.attempt > earlier.attempt),
        )
    elif uuid is not None and record.state is State.ACCEPTED:
        earlier = jobs.get(uuid) or SentJob(uuid, known.digest, record.attempt)
        jobs[uuid] = earlier._replace(is_answered=True)
    elif record.state in _RESTARTS:
        for open_uuid in record.open_jobs or ():
            job = jobs.get(open_uuid) if open_uuid == known.job_uuid else None
            # Of a request that arrived twice only the last end is known.
            if job is not None and job.attempt > record.attempt and not job.is_repeat:
                jobs[open_uuid] = job._replace(is_unexecuted=True)
    return jobs


def _loses_jobs(known: Intent, record: Record) -> bool:
    """Return whether lost lines may have recorded an attempt as late as this record."""
    is_first = UNKNOWN_JOB in (record.open_jobs or ()) and UNKNOWN_JOB not in known.open_jobs
    return is_first or record.error_code == REPAIRED


def jobs_after(job_uuid: str | None, open_jobs: tuple[str, ...], record: Record) -> tuple[str | None, tuple[str, ...]]:
    """Return the job uuid of the last attempt and those of earlier ones without a definite end, after ``record``."""
    if record.retried and record.state is State.PLANNED:
        return None, ()
    if record.open_jobs is None and record.state is State.SENT and job_uuid not in (None, record.job_uuid):
        # An older zclone wrote it, without open jobs: it shows no end of the jobs sent so far.
        return record.job_uuid, (*open_jobs, str(job_uuid))
    if record.state is State.PLANNED and record.open_jobs is not None:
        # The last attempt was withdrawn: it was never executed.
        return None, record.open_jobs
    if record.state is State.SENT:
        return record.job_uuid, open_jobs if record.open_jobs is None else record.open_jobs
    if record.open_jobs is not None:
        return record.job_uuid, record.open_jobs
    return record.job_uuid or job_uuid, open_jobs
