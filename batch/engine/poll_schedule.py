"""The schedule of polls: which api job is polled next, and when, by the probability that it has ended.

A poll costs a call of the rate. While clones wait for a place in flight, an end should be noticed soon, so a job is
polled at a low probability; otherwise only once it has probably ended.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.engine.job_times import JobTimes
from batch.zstack.answers import Done, NoAnswer, NotSent, Refused, Running

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.clock import Clock
    from batch.zstack.answers import PollAnswer

_CHANCE_WHILE_CLONES_WAIT: Final = 0.1
"""Probability of an end that is worth a call while clones wait for a place."""
_CHANCE_WHILE_NONE_WAITS: Final = 0.6
"""Probability that is worth a call while none waits."""
_ENDS_IN_A_ROW: Final = 3
"""Consecutive ends without a POST after which no clone is assumed to wait for a place."""
_SHORTEST: Final = 0.02
"""Seconds between two polls of one job, at least."""
_SHORTEST_SHARE: Final = 0.05
"""Share of a job's age until its next poll, at least."""
_LONGEST: Final = 1.0
"""Seconds between two polls of one job, at most; applies also to jobs slower than any before."""
_LONGEST_SHARE: Final = 0.25
"""The same as a share of the job's age, where that is more."""
HOOK_DUE: Final = 0.98
"""Probability of an end at which the web hook of a job should have arrived."""
HOOK_DOUBTFUL: Final = 0.6
"""The same after the web hook of another job did not arrive."""
_HOOK_TIME: Final = 3.0
"""Seconds by which a web hook may be late: the server repeats it after 2 s (zstack/README.md 7)."""
_LONGEST_HOOKED: Final = 60.0
"""Maximum of the seconds between two polls of a job whose web hook is awaited while no end was observed; the job's age
where that is more."""
_FIRST_HOOKED: Final = 10.0
"""The same for a job that runs alone, and after a missing web hook, to find out whether any arrive. Later twice the
time of slow jobs, or this where that is more."""
_SLOW: Final = 0.95
_CONSIDERED: Final = 16
"""Due jobs that are compared with each other."""
_REFRESH: Final = 0.05
"""Seconds between two recomputations of all due times."""


class PollWindow(NamedTuple):
    """How long a poll may wait for its job's probable end. Seconds since the epoch."""

    sent_at: float
    deadline: float
    """Latest time of the poll."""


@dataclass(slots=True)
class _Job:
    """An api job that has not been seen to end. Times by the monotonic clock, ages in seconds."""

    started_at: float
    running_at: float = 0.0
    """The age at which it was last seen running."""
    asked_at: float = 0.0
    deadline: float = math.inf
    is_sampled: bool = True
    """Whether its times are sampled."""
    has_hook: bool = False
    """Whether this process sent it and the server accepted it, so that a web hook would report its end."""
    is_alone: bool = False
    """Whether no other job ran when it began."""
    due: float | None = None
    """When its poll should be made; None while none waits."""


class PollSchedule:
    """Tracks the running jobs by their POSTs and polls, and orders the waiting polls."""

    def __init__(self, clock: Clock, on_change: Callable[[], None]) -> None:
        """Start empty; ``on_change`` is called when a waiting poll may be due sooner than computed."""
        self._clock = clock
        self._on_change = on_change
        self.times = JobTimes()
        self._hooked: float | None = None
        """Probability of an end at which a job is polled whose web hook did not arrive; None: web hooks are not
        awaited."""
        self._jobs: dict[str, _Job] = {}
        self._queue: list[tuple[float, str]] = []
        """The waiting polls by due time; an entry whose time is not its job's due time is stale."""
        self._ends_since_post = 0
        self._is_stale = False
        self._refreshed_at = -math.inf

    @property
    def is_busy(self) -> bool:
        """Whether any job may be running."""
        return bool(self._jobs)

    def begin(self, job_uuid: str, *, is_accepted: bool = False) -> None:
        """Add a job that may run from now on: its POST was answered or lost."""
        self._jobs[job_uuid] = _Job(self._clock.monotonic(), has_hook=is_accepted, is_alone=not self._jobs)

    def expect(self, job_uuid: str, window: PollWindow | None) -> None:
        """Prepare the poll of a job; without ``window`` it is due immediately."""
        now, time = self._clock.monotonic(), self._clock.time()
        job = self._jobs.get(job_uuid)
        if job is None and window is not None:
            # An earlier process sent it: it is taken as running now, and its start is not exactly known.
            age = max(0.0, time - window.sent_at)
            job = self._jobs[job_uuid] = _Job(now - age, age, is_sampled=False)
        if job is not None:
            job.deadline = now if window is None else now + window.deadline - time

    def note(self, job_uuid: str, answer: PollAnswer, *, is_exact: bool = False) -> None:
        """Add the sample of a poll's answer; ``is_exact``: the job ended just now."""
        job = self._jobs.get(job_uuid)
        if job is None or isinstance(answer, NotSent | NoAnswer):
            return
        if isinstance(answer, Running):
            age = max(job.running_at, job.asked_at - job.started_at)
            if job.is_sampled:
                self.times.note_running(job.running_at, age)
            job.running_at = age
        else:
            self._note_end(job, answer, is_exact=is_exact)
            if job.due is None:
                del self._jobs[job_uuid]
            else:
                # Another caller polled: a poll that still waits gets the same answer immediately.
                job.deadline, job.is_sampled = self._clock.monotonic(), False
        self._change()

    def _note_end(self, job: _Job, answer: PollAnswer, *, is_exact: bool) -> None:
        if isinstance(answer, Done | Refused):
            self._ends_since_post += 1
            age = self._clock.monotonic() - job.started_at
            if job.is_sampled and is_exact:
                self.times.note_running(job.running_at, age)
            if job.is_sampled:
                self.times.note_end(age if is_exact else job.running_at, age)

    def note_post(self) -> None:
        """Record that a POST waits for a slot."""
        if self._ends_since_post >= _ENDS_IN_A_ROW:
            self._change()
        self._ends_since_post = 0

    def set_hook_chance(self, chance: float | None) -> None:
        """Poll the jobs of this process only at this probability of an end; None: web hooks do not report it."""
        if self._hooked != chance:
            self._hooked = chance
            self._change()

    def make_due(self, job_uuid: str) -> bool:
        """Make the waiting poll of a job due now; return False where none waits."""
        job = self._jobs.get(job_uuid)
        if job is None or job.due is None:
            return False
        job.due = job.deadline = self._clock.monotonic()
        heapq.heappush(self._queue, (job.due, job_uuid))
        self._on_change()
        return True

    def skip_sampling(self) -> None:
        """Exclude the running jobs from sampling: an outage made all of them look slow."""
        for job in self._jobs.values():
            job.is_sampled = False

    def is_known(self, job_uuid: str) -> bool:
        """Return whether polls of the job can be scheduled."""
        return job_uuid in self._jobs

    def add(self, job_uuid: str) -> None:
        """Schedule a waiting poll."""
        job = self._jobs[job_uuid]
        job.due = self._due(job)
        heapq.heappush(self._queue, (job.due, job_uuid))

    def remove(self, job_uuid: str) -> None:
        """Remove a poll that no longer waits."""
        self._jobs[job_uuid].due = None

    def next_due(self) -> float:
        """Return when the next poll is due, by the monotonic clock; infinity where none waits."""
        self._refresh()
        while self._queue and not self._is_current(*self._queue[0]):
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else math.inf

    def pick(self) -> str | None:
        """Take the due poll whose job has most likely ended out of the queue; None where none is due."""
        now = self._clock.monotonic()
        due: list[tuple[float, str]] = []
        while len(due) < _CONSIDERED and self.next_due() <= now:
            due.append(heapq.heappop(self._queue))
        if not due:
            return None
        best = max(due, key=lambda entry: self._chance(self._jobs[entry[1]], now))
        for entry in due:
            if entry is not best:
                heapq.heappush(self._queue, entry)
        job = self._jobs[best[1]]
        job.due, job.asked_at = None, now
        return best[1]

    def _is_current(self, due: float, job_uuid: str) -> bool:
        job = self._jobs.get(job_uuid)
        return job is not None and job.due == due

    def _chance(self, job: _Job, now: float) -> float:
        """Return the probability that the job has ended; above 1 past its deadline."""
        if now >= job.deadline:
            return 1.0 + now - job.deadline
        return self.times.chance(now - job.started_at, running_at=job.running_at)

    def _due(self, job: _Job) -> float:
        if self._hooked is not None and job.has_hook:
            return min(job.started_at + self._hooked_age(job, self._hooked) + _HOOK_TIME, job.deadline)
        wanted = _CHANCE_WHILE_NONE_WAITS if self._ends_since_post >= _ENDS_IN_A_ROW else _CHANCE_WHILE_CLONES_WAIT
        age = self.times.age_at(wanted, running_at=job.running_at)
        if job.running_at:
            age = min(age, job.running_at + max(_LONGEST, _LONGEST_SHARE * job.running_at))
        age = max(age, job.running_at + max(_SHORTEST, _SHORTEST_SHARE * job.running_at))
        return min(job.started_at + age, job.deadline)

    def _hooked_age(self, job: _Job, chance: float) -> float:
        """Return the age by which the web hook of a job should have been sent."""
        longest = _FIRST_HOOKED if chance < HOOK_DUE or job.is_alone else _LONGEST_HOOKED
        if chance == HOOK_DUE and self.times.has_ends:
            longest = max(_FIRST_HOOKED, 2.0 * self.times.age_at(_SLOW, running_at=0.0))
        return min(self.times.age_at(chance, running_at=job.running_at), job.running_at + max(longest, job.running_at))

    def _change(self) -> None:
        self._is_stale = True
        self._on_change()

    def _refresh(self) -> None:
        """Recompute the due times of all waiting polls, at most once in ``_REFRESH`` seconds."""
        now = self._clock.monotonic()
        if not self._is_stale or now - self._refreshed_at < _REFRESH:
            return
        self._is_stale, self._refreshed_at = False, now
        self.times.refresh()
        self._queue = []
        for job_uuid, job in self._jobs.items():
            if job.due is not None:
                job.due = self._due(job)
                self._queue.append((job.due, job_uuid))
        heapq.heapify(self._queue)
