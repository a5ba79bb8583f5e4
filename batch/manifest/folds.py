"""Folds of single facts: the Intent of an open Clone, earlier attempts, and whether uuids were honoured."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from batch.errors import IN_USE, REPAIRED, UNANSWERED
from batch.manifest.kinds import EndedLine, StartedLine, TakenUpLine
from batch.model import UNKNOWN_JOB, Intent, Record, SentJob, State

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from batch.manifest.kinds import Line

MAY_BE_OURS: Final = frozenset({None, UNANSWERED, "ZCLONE.CONFLICT"})
"""Error codes after which a service under the uuid may be an earlier attempt's clone; None: not recorded."""
_RETRIABLE: Final = frozenset({State.FAILED, State.CONFLICT})
_RESTARTS: Final = frozenset({State.PLANNED, State.UNCERTAIN})


class UuidFold:
    """Whether clones have the uuids that were requested for them."""

    def __init__(self) -> None:
        """Start without clones."""
        self.was_honoured = False
        self.was_ignored = False
        self.uuids_without_sent: dict[str, str] = {}
        """By key the uuid of each clone whose ``sent`` line was lost to damage, until the first that has its uuid."""

    def lose_lines(self) -> None:
        """Add a repair: a clone whose uuid no line requested may have the one that a lost line requested."""
        self.was_ignored = False

    def add(self, cloned: Record, records: Iterable[Record]) -> None:
        """Add a record that a target was cloned; ``records`` are those of its attempts."""
        known = [*records]
        wanted = {record.resource_uuid for record in known if record.resource_uuid}
        sent = {record.job_uuid for record in known if record.state is State.SENT}
        named = {uuid for record in known for uuid in (record.job_uuid, *(record.open_jobs or ()))} - {None}
        # A look may show what a lost line requested; a job shows what its own line requested.
        is_known = named <= ({*sent, UNKNOWN_JOB} if not cloned.adopted else sent)
        if cloned.clone_uuid in wanted:
            self.was_honoured = True
        elif wanted and is_known:
            self.was_ignored = True
        elif cloned.clone_uuid is not None and not self.was_honoured:
            self.uuids_without_sent[cloned.key] = cloned.clone_uuid


class Predecessors:
    """Attempts that are not open any more and may have made what appears under their uuids; by target, as hashes."""

    def __init__(self) -> None:
        """Start without attempts."""
        self._ended: dict[int, int] = {}
        """Hashes of the uuids, 0 where it was on lost lines, of targets that failed and may be retried."""
        self._left: dict[int, int] = {}
        """The same of targets that are planned again."""
        self._elsewhere: set[int] = set()

    def end(self, record: Record, known: Sequence[Record]) -> None:
        """Add the end of a Clone; ``known``: the records of its attempts."""
        key = hash(record.key)
        uuid = next((one.resource_uuid for one in reversed(known) if one.resource_uuid), "")
        may_be_ours = record.unanswered or record.error_code in MAY_BE_OURS
        if record.state is State.UNDONE:
            self._elsewhere.discard(key)
            self._left.pop(key, None)
        if record.made_elsewhere:
            self._elsewhere.add(key)
        if record.state is State.WITHDRAWN and is_unanswered(known):
            self._left[key] = hash(uuid)
        elif record.state in _RETRIABLE and record.attempt and may_be_ours:
            self._ended[key] = hash(uuid)

    def reopen(self, key: str, code: str | None, *, was_sent: bool) -> None:
        """Add the retry of a target that failed with ``code``; ``was_sent``: whether it had attempts."""
        hashed = hash(key)
        if (hashed in self._ended or (was_sent and code in MAY_BE_OURS)) and hashed not in self._elsewhere:
            self._left[hashed] = self._ended.get(hashed, 0)
        self._ended.pop(hashed, None)
        self._elsewhere.discard(hashed)

    def was_made_elsewhere(self, key: str) -> bool:
        """Return whether a target's clone existed before the manifest recorded an attempt to make it."""
        return hash(key) in self._elsewhere

    def has(self, key: str, uuid: str) -> bool:
        """Return whether a planned target had such an attempt under ``uuid``; empty: under any."""
        known = self._left.get(hash(key))
        return known is not None and (not known or not uuid or known == hash(uuid))


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
        has_attempts = bool(open_jobs) or record.attempt > 0
        return record.error_code == UNANSWERED or (has_attempts and known.has_predecessor)
    unexecuted = {job.job_uuid for job in known.sent_jobs if job.is_unexecuted}
    if record.state is State.UNCERTAIN and record.attempt < known.attempt:
        # The last attempt was taken back.
        unexecuted.add(known.job_uuid or "")
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


class PlainProcesses:
    """What processes without --at-most-once sent, before and between processes with it."""

    def __init__(self) -> None:
        """Start without processes."""
        self.is_last = False
        """Whether the last process was one of them."""
        self.repeated: set[str] = set()
        """Keys of Clones of which they sent more than one POST, or one that is no longer open."""

    def end(self, record: Record, sent: Sequence[Record]) -> None:
        """Add the end of a Clone; ``sent``: its records so far.

        A conflict after a POST counts for any process: the uuid was in use, and the server may give the clone another.
        """
        if record.state is State.UNDONE:
            self.repeated.discard(record.key)
        is_denied = record.state is State.FAILED and record.attempt > 0
        is_left = record.state is State.WITHDRAWN and len(sent) > 0
        is_conflict = record.state is State.CONFLICT and record.attempt > 0
        if is_conflict or (self.is_last and (is_denied or is_left)):
            self.repeated.add(record.key)

    def start(self, records: Mapping[str, Sequence[Record]], line: StartedLine) -> None:
        """Add the start of a process; ``records`` are those of the open Clones."""
        if self.is_last and line.at_most_once:
            self.repeated |= {key for key, found in records.items() if _was_repeated(found)}
        self.is_last = not line.at_most_once


def _was_repeated(records: Sequence[Record]) -> bool:
    posts = {(record.job_uuid, record.attempt) for record in records if record.state is State.SENT}
    return len(posts) > 1 or (records[-1].state is State.PLANNED and records[-1].attempt > 0)


def is_unanswered(records: Sequence[Record]) -> bool:
    """Return whether a planned Clone's last attempt ended only because its time was over."""
    return bool(records) and records[-1].state is State.PLANNED and records[-1].error_code == UNANSWERED


class Crashes:
    """The number of processes that were killed with a Clone in flight; only Clones continued after it use memory."""

    def __init__(self) -> None:
        """Start without crashes."""
        self.is_cut_off = False
        """Whether the last recorded process has no end."""
        self._taken_up: dict[str, tuple[int, int]] = {}

    def add(self, line: Line, records: Mapping[str, Sequence[Record]]) -> None:
        """Add a line that is not a clone record; ``records`` are those of the open Clones."""
        if isinstance(line, TakenUpLine):
            for key in line.keys:
                known = records.get(key, ())
                self._taken_up[key] = self.of(key, known) + 1, len(known)
        elif isinstance(line, StartedLine):
            # With a remote engine nothing was in flight in the process itself.
            self.is_cut_off = line.remote is None
        elif isinstance(line, EndedLine):
            self.is_cut_off = False

    def forget(self, key: str) -> None:
        """Forget a Clone that is no longer open: if it is reopened, its crashes count from zero."""
        self._taken_up.pop(key, None)

    def of(self, key: str, records: Sequence[Record]) -> int:
        """Return the number of crashes since the Clone's last ``uncertain``, which only a running process records."""
        count, seen = self._taken_up.get(key, (0, 0))
        return 0 if any(record.state is State.UNCERTAIN for record in records[seen:]) else count
