"""What a manifest records of one target, as it is compared with the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batch.model import UNKNOWN_JOB

if TYPE_CHECKING:
    from batch.model import Record, State


class TargetState(NamedTuple):
    """What the manifest records of one target, for comparison with the server."""

    key: str
    source_uuid: str
    state: State
    clone_uuid: str | None
    """Uuid of the clone that is made, or that an attempt in flight is to make."""
    name: str | None
    attempts: int
    digest: str
    """Digest of what made the clone, or was sent last; empty where nothing was sent or it is not recorded."""
    error_code: str | None
    error: str | None
    account: str | None
    """The account that made all attempts; None where it is unknown."""
    has_new_owner: bool
    """Whether a hand-over to a new owner was tried."""
    is_shared: bool = False
    """Whether a hand-over that shares it was tried."""
    is_handed_over: bool = False
    """Whether any hand-over of it is recorded as done."""
    at: float = 0.0
    """When its last record was written, in seconds since the epoch."""
    asked_uuid: str | None = None
    """The uuid that the last attempt requested; None where no attempt is recorded."""
    asked_at: float = 0.0
    """When that attempt was recorded."""
    open_jobs: tuple[str, ...] = ()
    """Job uuids that may have no definite end beside the clone's own: several were open, or one was sent twice."""
    is_foreign: bool = False
    """Whether the clone existed before this manifest recorded an attempt to make it."""
    lost_at: float = 0.0
    """The latest time at which lost lines may have recorded an attempt to make the clone; 0 where none were lost."""


def open_jobs_at(attempt: Record, *, is_repeat: bool) -> tuple[str, ...]:
    """Return the jobs that were open at the last attempt, and its own beside them; UNKNOWN_JOB for one sent twice."""
    open_jobs = (*(attempt.open_jobs or ()), *([UNKNOWN_JOB] if is_repeat else ()))
    return (*open_jobs, attempt.job_uuid) if open_jobs and attempt.job_uuid is not None else open_jobs
