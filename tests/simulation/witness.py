"""Observes every request, answer and record of all processes of a World, and keeps what the checks need.

What can be judged at once is (``broken``); what needs the whole history is in tests/simulation/promises.py.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from batch.manifest.folds import next_intent
from batch.model import State
from batch.zstack.answers import Absent, Accepted, Done, Duplicate, Found, NoAnswer, NotSent, Refused, Running, Unknown
from batch.zstack.wire import HttpReply

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from batch.model import Clone, Intent, Limits, Record
    from batch.simulator.wire import Request
    from batch.zstack.answers import FindAnswer, PollAnswer, SubmitAnswer
    from batch.zstack.wire import Outcome
    from tests.simulation.process import Process

_LOGIN: Final = "/zstack/v1/accounts/login"
_DEAD_SESSION: Final = b"ID.1001"
_SAID_BY_ZSTACK: Final = re.compile(rb'"(inventory|error)":\s*{')
_GRACE: Final = 59.0
"""Seconds beyond the server's own time after which an unanswered POST is no longer executed."""
_API_TIMEOUT: Final = 1800.0
"""The server's default, in seconds."""
_JOBS: Final = "/zstack/v1/api-jobs/"
_SESSIONS: Final = "/zstack/v1/accounts/sessions/"
_JOB_PATH: Final = "/v1/api-jobs/"
_OURS: Final = re.compile(r"/v1/[-A-Za-z0-9/]+(\?.*)?")


@dataclass
class Post:
    """One POST that was sent."""

    order: int
    wall: float
    """By the machine's own clock."""
    uuid: str
    job: str
    deadline: float
    """Of its job, according to the manifest."""
    at: float = 0.0
    """Virtual seconds."""
    is_retry: bool = False
    """Whether this process had sent its clone before, and the server had not refused that for a dead session."""
    is_at_most_once: bool = False
    """Whether its process, or an earlier one that sent something, was started with that option."""
    answer: SubmitAnswer | None = None
    """None: the process was killed first."""


@dataclass
class Job:
    """What the processes of one manifest learned of one job uuid; the numbers are positions among all events."""

    deadline: float = float("inf")
    """According to the manifest."""
    admitted: list[int] = field(default_factory=list)
    """The server said that it knows the job."""
    refused: list[int] = field(default_factory=list)
    """The job's definite end."""
    unknown: list[int] = field(default_factory=list)
    """The server said that it does not know the job."""
    empty: list[int] = field(default_factory=list)
    """A success that showed nothing."""
    is_free: bool = False
    """Nothing was executed and nothing is charged: the session was dead, or the run cannot continue."""
    is_void: bool = False
    """The job's end proves that nothing was executed."""
    api_timeout: float | None = None
    """Seconds that the server may work on it, as it stated."""


@dataclass
class Story:
    """What one manifest's processes did, in order."""

    posts: dict[str, list[Post]] = field(default_factory=lambda: defaultdict(list))
    """By resource uuid."""
    jobs: dict[str, Job] = field(default_factory=lambda: defaultdict(Job))
    looks: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """When a lookup of the resource uuid found nothing."""
    intents: dict[str, Intent] = field(default_factory=dict)
    is_at_most_once: bool = False
    """Whether a process that sent something was started with that option."""
    is_proven: bool = False
    """Whether the manifest shows that the server made a clone under the requested uuid."""
    api_timeout: float | None = None
    """The longest time in seconds that the server said it may work on a job, according to the manifest."""


@dataclass
class Life:
    """What one process did."""

    calls: list[float] = field(default_factory=list)
    """Virtual seconds at which requests were sent."""
    posts: list[Post] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    """Positions of the answers in the order of all events."""
    logins: int = 0
    lost_logins: int = 0
    """Logins without a meaningful answer."""
    dead_sessions: set[str] = field(default_factory=set)
    """Sessions that the server reported dead."""
    overdue_polls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Polls of each job after its deadline, but those that found no job."""
    overdue_misses: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Polls of each job after its deadline that found no job."""
    flying: set[str] = field(default_factory=set)
    """Every resource uuid that it has sent and not settled, except those that wait."""
    waiting: set[str] = field(default_factory=set)
    """Every resource uuid that it sent and did not find before the proof that a second POST makes no second clone."""
    most_flying: int = 0
    is_shown: bool = False
    """Whether a lookup showed a clone that the node made under the requested uuid."""
    most_unproven: int = 0
    """The most at once, before that proof."""
    code: int | None = None


class Witness:
    """Observes everything from outside the code under test."""

    def __init__(self, limits: Limits, ever: Mapping[str, Clone], is_made: Callable[[str], bool]) -> None:
        """``ever``: all targets by key; ``is_made``: whether the node made a clone under a uuid."""
        self.broken: list[str] = []
        """Promises broken so far."""
        self.stories: dict[Path, Story] = defaultdict(Story)
        self.lives: list[tuple[Process, Life]] = []
        self.clock_was_set = False
        self.shown_early: Collection[str] = ()
        """Uuids of clones that the node showed before their jobs ended."""
        self.counted_early: set[str] = set()
        """Those called cloned after a clock was set, or with an unknown apiTimeout: limitations in batch/README.md."""
        self._limits = limits
        self._ever = ever
        self._is_made = is_made
        self._order = 0
        self._session_of: dict[str, str] = {}
        self.secrets: set[bytes] = set()
        """Sessions that were used, and the hash of the password."""

    @property
    def posts(self) -> int:
        """POSTs sent by all processes."""
        return sum(len(posts) for story in self.stories.values() for posts in story.posts.values())

    def life(self, process: Process) -> Life:
        """Return what ``process`` did so far."""
        for known, life in reversed(self.lives):
            if known is process:
                return life
        self.lives.append((process, Life()))
        return self.lives[-1][1]

    def _next(self) -> int:
        self._order += 1
        return self._order

    def opened(self, process: Process, intents: dict[str, Intent], *, is_proven: bool) -> None:
        """A process has its manifest; a record that was never stored is forgotten."""
        story = self.stories[process.manifest]
        story.intents, story.is_proven = intents, is_proven
        # The server's stated time counts if it was stored.
        story.api_timeout = max((intent.api_timeout or 0.0 for intent in intents.values()), default=0.0) or None
        for known in story.jobs.values():
            known.api_timeout = None
        for intent in intents.values():
            # Known from now on, also if the lines before it were lost.
            for job in (intent.job_uuid, *intent.open_jobs):
                if job is not None:
                    story.jobs[job] = story.jobs[job]

    def called(self, process: Process, request: Request, at: float) -> None:
        """A request is sent."""
        life = self.life(process)
        # The one logout does not wait for the rate.
        if not (request.method == "DELETE" and request.path.startswith(_SESSIONS)):
            life.calls.append(at)
        if request.path == _LOGIN:
            life.logins += 1
            self.secrets.add(json.loads(request.body)["logInByAccount"]["password"].encode())
        elif "authorization" in request.headers:
            self.secrets.add(request.headers["authorization"].removeprefix("OAuth ").encode())
        job = request.headers.get("x-job-uuid")
        if job is not None:
            self._session_of[job] = request.headers.get("authorization", "")
            self._posted(process, life, job, at, json.loads(request.body)["params"].get("resourceUuid", ""))

    def _posted(self, process: Process, life: Life, job: str, at: float, uuid: str) -> None:
        story = self.stories[process.manifest]
        before = next((post for post in reversed(life.posts) if post.uuid == uuid), None)
        is_retry = before is not None and not story.jobs[before.job].is_free
        story.is_at_most_once |= process.at_most_once
        post = Post(self._next(), process.wall(), uuid, job, story.jobs[job].deadline, at, is_retry=is_retry)
        post.is_at_most_once = story.is_at_most_once
        story.posts[uuid].append(post)
        life.posts.append(post)
        # Each POST of a job uuid is reconciled separately.
        life.overdue_polls.pop(job, None)
        life.overdue_misses.pop(job, None)
        life.waiting.discard(uuid)
        life.flying.add(uuid)
        life.most_flying = max(life.most_flying, len(life.flying))
        if not story.is_proven and not life.is_shown and not process.is_at_most_once:
            life.most_unproven = max(life.most_unproven, len(life.flying))

    def addressed(self, process: Process, path: str) -> None:
        """I12: the transport gets a path below the endpoint, and a job only if this run made its uuid."""
        job = path.removeprefix(_JOB_PATH) if path.startswith(_JOB_PATH) else None
        known = self.stories[process.manifest].jobs
        if not _OURS.fullmatch(path) or (job is not None and job not in known):
            self.broken.append(f"I12: asked for {path}")

    def answered(self, process: Process, request: Request, outcome: Outcome) -> None:
        """Its answer came back, or none."""
        life = self.life(process)
        if request.path == _LOGIN:
            life.lost_logins += not isinstance(outcome, HttpReply) or not _SAID_BY_ZSTACK.search(outcome.body)
        if isinstance(outcome, HttpReply) and outcome.status != 200 and _DEAD_SESSION in outcome.body:
            job = request.path.removeprefix(_JOBS) if request.path.startswith(_JOBS) else None
            session = self._session_of.get(job, "") if job is not None else request.headers.get("authorization", "")
            life.dead_sessions.add(session)

    def submitted(self, process: Process, job: str, answer: SubmitAnswer) -> None:
        """The client's reading of the answer to the last POST of the job uuid."""
        story = self.stories[process.manifest]
        self._heard(process, answer)
        post = next((post for posts in story.posts.values() for post in reversed(posts) if post.job == job), None)
        if post is None or (isinstance(answer, NotSent) and answer.is_held_back):
            return
        post.answer = answer
        self._notify(story.jobs[job], answer)

    def polled(self, process: Process, job: str, answer: PollAnswer, at: float) -> None:
        """The client's reading of a poll that began at wall time ``at``."""
        known = self.stories[process.manifest].jobs[job]
        self._heard(process, answer)
        if at > known.deadline:
            life = self.life(process)
            (life.overdue_misses if isinstance(answer, Unknown) else life.overdue_polls)[job] += 1
        self._notify(known, answer)

    def _heard(self, process: Process, answer: object) -> None:
        if isinstance(answer, NotSent) and answer.is_held_back:
            # The gate's own answer: the server did not answer.
            return
        if process.heard_noise and not isinstance(answer, NoAnswer):
            self.broken.append(f"I17: noise was read as {type(answer).__name__}")
        if not isinstance(answer, NotSent | NoAnswer):
            self.life(process).answers.append(self._next())

    def _notify(self, job: Job, answer: SubmitAnswer | PollAnswer) -> None:
        order = self._next()
        match answer:
            case Accepted(api_timeout):
                job.admitted.append(order)
                job.api_timeout = api_timeout or job.api_timeout
            case Duplicate() | Running():
                job.admitted.append(order)
            case Refused(error):
                job.refused.append(order)
                job.is_void = job.is_void or not (error.error_class == "ambiguous" or error.may_have_run)
                job.is_free = job.is_free or error.error_class in {"renew", "fatal", "node"}
            case Unknown():
                job.unknown.append(order)
            case Done(None):
                job.empty.append(order)

    def found(self, process: Process, uuid: str, answer: FindAnswer) -> None:
        """The client's reading of a lookup of the resource uuid."""
        self._heard(process, answer)
        order = self._next()
        story, life = self.stories[process.manifest], self.life(process)
        # Only what the node itself made under this uuid shows that it honours resourceUuid.
        clone = next((clone for clone in self._ever.values() if clone.resource_uuid == uuid), None)
        life.is_shown |= isinstance(answer, Found) and clone is not None and not clone.is_given and self._is_made(uuid)
        if isinstance(answer, Absent) and not self._is_running(process, story, uuid):
            story.looks[uuid].append(order)
            if uuid in life.flying and not story.is_proven:
                life.flying.discard(uuid)
                life.waiting.add(uuid)

    def _is_running(self, process: Process, story: Story, uuid: str) -> bool:
        """Return whether the last job was accepted, has no end and has time left: a lookup does not end it."""
        job = story.jobs[story.posts[uuid][-1].job] if story.posts[uuid] else None
        is_open = job is not None and bool(job.admitted) and not (job.refused or job.empty or job.unknown)
        # A deadline recorded by a clock that was ahead is not waited for: the next process begins its own window.
        return job is not None and is_open and not self.clock_was_set and process.wall() <= job.deadline

    def recorded(self, process: Process, record: Record) -> None:
        """The engine wrote a record."""
        story = self.stories[process.manifest]
        if record.attempt > self._limits.attempts:
            self.broken.append(f"I7: attempt {record.attempt} of {record.key} is above the limit")
        if record.state not in {State.SENT, State.ACCEPTED}:
            self._landed(process, story, record)
        if record.state in {State.SENT, State.ACCEPTED, State.UNCERTAIN, State.PLANNED}:
            intent = story.intents[record.key] = next_intent(story.intents.get(record.key), record)
            if intent.job_uuid is not None and intent.deadline is not None:
                # A job of an earlier attempt that is left open is polled as long as the last one.
                story.jobs[intent.job_uuid].deadline = intent.deadline

    def _landed(self, process: Process, story: Story, record: Record) -> None:
        intent = story.intents.get(record.key)
        uuid = (intent.resource_uuid if intent is not None else "") or self._ever[record.key].resource_uuid
        self.life(process).flying.discard(uuid)
        self.life(process).waiting.discard(uuid)
        story.is_proven |= record.state is State.CLONED and record.clone_uuid == uuid
        # With a second manifest the clone may be made by the other one between lookup and record.
        is_denied = record.state is State.FAILED or (record.state is State.CONFLICT and not self.clock_was_set)
        if is_denied and self._is_made(uuid) and len(self.stories) == 1:
            self.broken.append(f"I3: {record.key} is called {record.state} although its clone exists")
        # Planned with all its attempts: each of them ended, but this process does not send its target again.
        is_ended = record.state is State.PLANNED and intent is not None and record.attempt >= intent.attempt > 0
        if record.state is State.FAILED or is_ended:
            self.broken += [
                f"I3: {record.key} is called {record.state} although nobody knows of {post.job}"
                for post in story.posts[uuid]
                if self._is_open(process, story, post) and post.job not in (record.open_jobs or ())
            ]
        shown = record.clone_uuid or uuid
        is_early = shown in self.shown_early and (self.clock_was_set or not any(self._stated_times(story)))
        if record.state is State.CLONED and is_early:
            self.counted_early.add(shown)
        elif record.state is State.CLONED and not self._is_made(shown):
            self.broken.append(f"I3: {record.key} is called cloned although nothing was made")
        is_taken_back = record.state is State.PLANNED and not record.retried and not is_ended
        if is_taken_back and intent is not None and intent.job_uuid is not None:
            self._taken_back(story, intent.job_uuid)

    def _taken_back(self, story: Story, job: str) -> None:
        """A record takes an attempt back as never executed."""
        posts = [post for posts in story.posts.values() for post in posts if post.job == job]
        if not story.jobs[job].is_void and not all(isinstance(post.answer, NotSent | Refused) for post in posts):
            self.broken.append(f"I3: {job} was taken back without an answer about it")

    def _is_open(self, process: Process, story: Story, post: Post) -> bool:
        """Return whether a POST may still be executed, as far as its sender can know."""
        job = story.jobs[post.job]
        is_over = bool(job.refused) or isinstance(post.answer, Refused | NotSent)
        # What the server stated for one job applies to those without a statement.
        stated = max(filter(None, self._stated_times(story)), default=_API_TIMEOUT)
        api_timeout = stated if job.api_timeout is None else job.api_timeout
        longest = max(api_timeout, self._limits.timeout or 0.0) + _GRACE
        return not is_over and not self.clock_was_set and process.wall() - post.wall < longest

    def _stated_times(self, story: Story) -> Iterator[float | None]:
        """Yield the apiTimeouts that the present process knows, in seconds; None for a job without one."""
        yield story.api_timeout
        for job in story.jobs.values():
            yield job.api_timeout

    def ended(self, process: Process, code: int | None) -> None:
        """The process has ended; ``code`` None: killed."""
        self.life(process).code = code
