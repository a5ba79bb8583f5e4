"""Watches every request, answer and record of all processes of a World, and keeps what the promises are judged by.

What can be judged at once is (``broken``); what needs the whole story is in tests/simulation/promises.py.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from batch.manifest.intents import follow
from batch.model import State
from batch.zstack.answers import Absent, Accepted, Done, Duplicate, NoAnswer, NotSent, Refused, Running, Unknown
from batch.zstack.wire import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from batch.model import Clone, Intent, Limits, Record
    from batch.simulator.wire import Request
    from batch.zstack.answers import FindAnswer, PollAnswer, SubmitAnswer
    from batch.zstack.wire import Outcome
    from tests.simulation.process import Process

_LOGIN: Final = "/zstack/v1/accounts/login"
_DEAD_SESSION: Final = b"ID.1001"
_SAID_BY_ZSTACK: Final = re.compile(rb'"(inventory|error)":\s*{')
_DEAD_AFTER: Final = 3600.0
"""Seconds after which a POST nobody answered is not executed any more."""
_JOBS: Final = "/zstack/v1/api-jobs/"
_JOB_PATH: Final = "/v1/api-jobs/"
_OURS: Final = re.compile(r"/v1/[-A-Za-z0-9/]+(\?.*)?")


@dataclass
class Post:
    """One POST that left a process."""

    order: int
    wall: float
    """By the machine's own clock."""
    uuid: str
    job: str
    deadline: float
    """Of its job, as the manifest has it."""
    at: float = 0.0
    """Virtual seconds."""
    is_retry: bool = False
    """Whether this process had sent its R before, and the server had not turned that away for a dead session."""
    answer: SubmitAnswer | None = None
    """None: the process did not live to see it."""


@dataclass
class Job:
    """What the processes of one manifest learned of one J; the numbers are places in the order of all events."""

    deadline: float = float("inf")
    """As the manifest has it."""
    admitted: list[int] = field(default_factory=list)
    """The server said that it knows the job."""
    refused: list[int] = field(default_factory=list)
    """The job's definite end."""
    unknown: list[int] = field(default_factory=list)
    """The server said that it does not know the job."""
    empty: list[int] = field(default_factory=list)
    """A success that showed nothing."""
    is_free: bool = False
    """Nothing was executed and nothing is charged: the session was dead, or the run cannot go on."""


@dataclass
class Story:
    """What one manifest's processes did, in order."""

    posts: dict[str, list[Post]] = field(default_factory=lambda: defaultdict(list))
    """By R."""
    jobs: dict[str, Job] = field(default_factory=lambda: defaultdict(Job))
    looks: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """When R was seen not to be there."""
    intents: dict[str, Intent] = field(default_factory=dict)


@dataclass
class Life:
    """What one process did."""

    calls: list[float] = field(default_factory=list)
    """Virtual seconds at which requests left."""
    posts: list[Post] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    """Places of the answers in the order of all events."""
    logins: int = 0
    lost_logins: int = 0
    """Without an answer that says anything."""
    dead_sessions: set[str] = field(default_factory=set)
    """That the server told it were dead."""
    overdue_polls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    flying: set[str] = field(default_factory=set)
    """Every R that it has sent and not settled."""
    most_flying: int = 0
    code: int | None = None


class Witness:
    """Sees everything from outside the code under test."""

    def __init__(self, limits: Limits, ever: Mapping[str, Clone], is_made: Callable[[str], bool]) -> None:
        """``ever``: all targets by key; ``is_made``: whether the node made a clone under a uuid."""
        self.broken: list[str] = []
        """Promises found broken while something happened."""
        self.stories: dict[Path, Story] = defaultdict(Story)
        self.lives: list[tuple[Process, Life]] = []
        self.clock_was_set = False
        self._limits = limits
        self._ever = ever
        self._is_made = is_made
        self._order = 0
        self._session_of: dict[str, str] = {}
        self.secrets: set[bytes] = set()
        """Sessions that were used, and what stands for the password."""

    @property
    def posts(self) -> int:
        """POSTs that left, of all processes."""
        return sum(len(posts) for story in self.stories.values() for posts in story.posts.values())

    def life(self, process: Process) -> Life:
        """What ``process`` did so far."""
        for known, life in reversed(self.lives):
            if known is process:
                return life
        self.lives.append((process, Life()))
        return self.lives[-1][1]

    def _next(self) -> int:
        self._order += 1
        return self._order

    def opened(self, process: Process, intents: dict[str, Intent]) -> None:
        """A process has its manifest; a record that never got there is forgotten."""
        story = self.stories[process.manifest]
        story.intents = intents
        for intent in intents.values():
            if intent.job_uuid is not None:
                # Known from now on, also where what came before it was lost.
                story.jobs[intent.job_uuid] = story.jobs[intent.job_uuid]

    def called(self, process: Process, request: Request, at: float) -> None:
        """A request leaves."""
        life = self.life(process)
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
        post = Post(self._next(), process.wall(), uuid, job, story.jobs[job].deadline, at, is_retry=is_retry)
        story.posts[uuid].append(post)
        life.posts.append(post)
        life.flying.add(uuid)
        life.most_flying = max(life.most_flying, len(life.flying))

    def addressed(self, process: Process, path: str) -> None:
        """I12: the transport is told a path below the endpoint, and a job only if this run made its uuid."""
        job = path.removeprefix(_JOB_PATH) if path.startswith(_JOB_PATH) else None
        known = self.stories[process.manifest].jobs
        if not _OURS.fullmatch(path) or (job is not None and job not in known):
            self.broken.append(f"I12: asked for {path}")

    def answered(self, process: Process, request: Request, outcome: Outcome) -> None:
        """Its answer came back, or none."""
        life = self.life(process)
        if request.path == _LOGIN:
            life.lost_logins += not isinstance(outcome, Reply) or not _SAID_BY_ZSTACK.search(outcome.body)
        if isinstance(outcome, Reply) and outcome.status != 200 and _DEAD_SESSION in outcome.body:
            job = request.path.removeprefix(_JOBS) if request.path.startswith(_JOBS) else None
            session = self._session_of.get(job, "") if job is not None else request.headers.get("authorization", "")
            life.dead_sessions.add(session)

    def submitted(self, process: Process, job: str, answer: SubmitAnswer) -> None:
        """The client's reading of the answer to the last POST of J."""
        story = self.stories[process.manifest]
        self._heard(process, answer)
        post = next((post for posts in story.posts.values() for post in reversed(posts) if post.job == job), None)
        if post is None or (isinstance(answer, NotSent) and answer.is_held_back):
            return
        post.answer = answer
        self._learn(story.jobs[job], answer)

    def polled(self, process: Process, job: str, answer: PollAnswer, at: float) -> None:
        """The client's reading of a poll that was begun at wall time ``at``."""
        known = self.stories[process.manifest].jobs[job]
        self._heard(process, answer)
        if at > known.deadline:
            self.life(process).overdue_polls[job] += 1
        self._learn(known, answer)

    def _heard(self, process: Process, answer: object) -> None:
        if isinstance(answer, NotSent) and answer.is_held_back:
            # The gate's own word: nothing was heard.
            return
        if process.heard_noise and not isinstance(answer, NoAnswer):
            self.broken.append(f"I17: noise was read as {type(answer).__name__}")
        if not isinstance(answer, NotSent | NoAnswer):
            self.life(process).answers.append(self._next())

    def _learn(self, job: Job, answer: SubmitAnswer | PollAnswer) -> None:
        order = self._next()
        match answer:
            case Accepted() | Duplicate() | Running():
                job.admitted.append(order)
            case Refused(error):
                job.refused.append(order)
                job.is_free = job.is_free or error.klass in {"renew", "fatal"}
            case Unknown():
                job.unknown.append(order)
            case Done(None):
                job.empty.append(order)

    def found(self, process: Process, uuid: str, answer: FindAnswer) -> None:
        """The client's reading of a look at R."""
        self._heard(process, answer)
        order = self._next()
        if isinstance(answer, Absent):
            self.stories[process.manifest].looks[uuid].append(order)

    def recorded(self, process: Process, record: Record) -> None:
        """The engine wrote a record."""
        story = self.stories[process.manifest]
        if record.attempt > self._limits.attempts:
            self.broken.append(f"I7: attempt {record.attempt} of {record.key} is above the limit")
        if record.state in {State.SENT, State.ACCEPTED, State.UNCERTAIN, State.PLANNED}:
            intent = story.intents[record.key] = follow(story.intents.get(record.key), record)
            if intent.job_uuid is not None and record.deadline is not None:
                story.jobs[intent.job_uuid].deadline = record.deadline
        if record.state not in {State.SENT, State.ACCEPTED}:
            self._landed(process, story, record)

    def _landed(self, process: Process, story: Story, record: Record) -> None:
        uuid = self._ever[record.key].resource_uuid
        self.life(process).flying.discard(uuid)
        # With a second manifest the clone may be made by the other one between the look and the record.
        if record.state in {State.FAILED, State.CONFLICT} and self._is_made(uuid) and len(self.stories) == 1:
            self.broken.append(f"I3: {record.key} is called {record.state} although its clone exists")
        if record.state is State.FAILED and story.posts[uuid] and self._is_open(process, story, story.posts[uuid][-1]):
            self.broken.append(f"I3: {record.key} is called failed although nobody knows")
        if record.state is State.CLONED and not self._is_made(uuid):
            self.broken.append(f"I3: {record.key} is called cloned although nothing was made")

    def _is_open(self, process: Process, story: Story, post: Post) -> bool:
        """Whether the last POST may still be executed, as far as its sender can know."""
        job = story.jobs[post.job]
        is_over = bool(job.refused) or isinstance(post.answer, Refused)
        return not is_over and not self.clock_was_set and process.wall() - post.wall < _DEAD_AFTER

    def ended(self, process: Process, code: int | None) -> None:
        """The process is no more; ``code`` None: killed."""
        self.life(process).code = code
