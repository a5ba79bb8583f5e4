"""The engine's ports in a page workflow: calls are activities, the journal is a list, the clock is Temporal's."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from batch.engine.poll_schedule import PollSchedule
    from batch.errors import RunStoppedError
    from batch.model import HandOverRecord, Record, State
    from batch.temporal.messages import Ask, Give, Reply, Submit, TriedLine
    from batch.zstack.answers import ErrorClass, NoAnswer, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batch.model import Clone, HandOver
    from batch.temporal.messages import Page, PageLine
    from batch.zstack.answers import FindAnswer, NotSent, PollAnswer, Running, SubmitAnswer

_CALL_SECONDS: Final = 90.0
"""Maximum seconds of a call after the gate; one that is repeated with a new signature may exceed a minute."""
_GATE_SECONDS: Final = 60.0
"""Seconds at a worker's gate after which a POST is not sent."""
_HEARTBEAT_TIMEOUT: Final = timedelta(seconds=5)
"""Heartbeat timeout: an activity without a heartbeat for this long counts as lost."""
_RETRIES: Final = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=5)
_ONCE: Final = RetryPolicy(maximum_attempts=1)
_TICK: Final = 0.05
"""Shortest timer in seconds, as each timer adds two events to the history."""
_MAX_TIMER: Final = 60.0
_MAX_ENDED: Final = 16
"""Maximum number of ended sessions whose names are sent with calls."""


class WorkflowClock:
    """Temporal's deterministic clock, with the same values at every replay."""

    def time(self) -> float:
        """Return the time in seconds since the epoch."""
        return workflow.time()

    def monotonic(self) -> float:
        """Return the time in seconds; Temporal's time never goes back within a workflow."""
        return workflow.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep for ``seconds`` on a workflow timer."""
        await asyncio.sleep(seconds)

    def random(self) -> float:
        """Draw a number in [0, 1)."""
        return workflow.random().random()

    def uuid(self) -> str:
        """Draw a v4 uuid as 32 lower-case hex digits."""
        return workflow.uuid4().hex


class PollQueue:
    """Delays polls by workflow timers until their jobs have probably ended; the rate limit applies afterwards."""

    def __init__(self) -> None:
        """Start with an empty queue."""
        self.schedule = PollSchedule(WorkflowClock(), lambda: None)
        self._held: dict[str, asyncio.Future[None]] = {}
        self._server: asyncio.Task[None] | None = None

    async def wait(self, job_uuid: str) -> None:
        """Wait until the poll is due."""
        if job_uuid in self._held or not self.schedule.is_known(job_uuid):
            return
        turn = self._held[job_uuid] = asyncio.get_running_loop().create_future()
        self.schedule.add(job_uuid)
        if self._server is None:
            self._server = asyncio.create_task(self._serve())
        try:
            await turn
        except asyncio.CancelledError:
            if self._held.pop(job_uuid, None) is not None:
                self.schedule.remove(job_uuid)
            raise

    async def _serve(self) -> None:
        """Release due polls, and keep one timer for the next, which an earlier poll replaces."""
        while self._held:
            due = self.schedule.next_due()
            if due > workflow.time():
                timeout = timedelta(seconds=min(_MAX_TIMER, max(_TICK, due - workflow.time())))
                with suppress(TimeoutError):
                    await workflow.wait_condition(partial(self._is_earlier, due), timeout=timeout)
            elif (job_uuid := self.schedule.pick()) is not None:
                self._held.pop(job_uuid).set_result(None)
        self._server = None

    def _is_earlier(self, due: float) -> bool:
        return self.schedule.next_due() < due - _TICK or not self._held


class Calls:
    """The engine's Api and Registrar: each call is an activity executed by any worker of the endpoint."""

    def __init__(self) -> None:
        """Start without calls."""
        self.made = 0
        """Number of calls requested."""
        self._queue = PollQueue()
        self._sessions: dict[str, str] = {}
        """Session of each submit, by job uuid."""
        self._ended_sessions: dict[str, None] = {}
        self._ending: RunStoppedError | None = None

    @property
    def polls(self) -> PollSchedule:
        """Schedule of the page's polls."""
        return self._queue.schedule

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        """POST with a single try; a lost one is NoAnswer, which the protocol handles."""
        self.polls.note_post()
        sent = clone._replace(params={}, hand_over=None)
        reply = await self._call("submit", Submit(sent, job_uuid, _GATE_SECONDS, tuple(self._ended_sessions)), _ONCE)
        self._sessions[job_uuid] = reply.session
        return cast("SubmitAnswer", reply.answer)

    async def poll(self, job_uuid: str) -> PollAnswer:
        """Poll the job. If it failed because its session ended, the next call tells the session's worker so."""
        await self._queue.wait(job_uuid)
        reply = await self._call("poll", Ask(job_uuid), _RETRIES)
        if isinstance(reply.answer, Refused) and reply.answer.error.error_class is ErrorClass.RENEW:
            self._note_ended(self._sessions.get(job_uuid, ""))
        return cast("PollAnswer", reply.answer)

    async def find(self, resource_uuid: str) -> FindAnswer:
        """Query the resource."""
        reply = await self._call("find", Ask(resource_uuid, tuple(self._ended_sessions)), _RETRIES)
        return cast("FindAnswer", reply.answer)

    async def renew(self) -> None:
        """Raise RunStoppedError if a worker cannot log in again; the request to do so is sent with the next call."""
        if self._ending is not None:
            raise self._ending

    async def share(self, uuid: str, accounts: Sequence[str]) -> Refused | NotSent | NoAnswer | None:
        """Let accounts use a resource."""
        reply = await self._call("share", Give(uuid, tuple(accounts), tuple(self._ended_sessions)), _RETRIES)
        return cast("Refused | NotSent | NoAnswer | None", reply.answer)

    async def give(self, uuid: str, account: str) -> Refused | NotSent | NoAnswer | Running | None:
        """Make an account the owner of a resource."""
        reply = await self._call("give", Give(uuid, (account,), tuple(self._ended_sessions)), _RETRIES)
        return cast("Refused | NotSent | NoAnswer | Running | None", reply.answer)

    def _note_ended(self, session: str) -> None:
        self._ended_sessions[session] = None
        if len(self._ended_sessions) > _MAX_ENDED:
            del self._ended_sessions[next(iter(self._ended_sessions))]

    async def _call(self, name: str, what: Submit | Ask | Give, retries: RetryPolicy) -> Reply:
        """Make a call. Raises RunStoppedError if its worker cannot log in again."""
        self.made += 1
        try:
            reply: Reply = await workflow.execute_activity(
                name,
                what,
                result_type=Reply,
                start_to_close_timeout=timedelta(seconds=_GATE_SECONDS + _CALL_SECONDS),
                heartbeat_timeout=_HEARTBEAT_TIMEOUT,
                retry_policy=retries,
            )
        except ActivityError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from None
            return Reply(NoAnswer("the worker that made the call was lost"))
        if reply.ending is not None:
            self._ending = RunStoppedError(reply.ending.text, reply.ending.reason)
            raise self._ending
        return reply


class PageHistory:
    """State of a page's clones according to the manifest and the page's own records since."""

    def __init__(self, page: Page) -> None:
        """Start with the state that the command sent."""
        self.intents = {intent.key: intent for intent in page.intents}
        self.is_cut_off = page.is_cut_off
        self.uuids_without_sent: Mapping[str, str] = {}
        self.was_sent = page.was_sent
        self.was_uuid_ignored = False
        self.api_timeout = page.api_timeout
        self.is_repaired = page.is_repaired
        self.canary_passed = False
        self.made = dict(page.made)
        """Uuids of the run's own clones, by key."""
        self.hand_overs = _HandOvers(page.tried)
        self._lost = frozenset(page.lost)
        self.repeated = frozenset(page.repeated)
        self._states = dict.fromkeys((clone.key for clone in page.clones), State.PLANNED)
        self._states.update((key, intent.state) for key, intent in self.intents.items())
        self._states.update(dict.fromkeys(page.made, State.CLONED))
        self._finals: dict[str, State] = dict.fromkeys(page.made, State.CLONED)
        self._asked = {intent.key: intent.resource_uuid for intent in page.intents}

    def add_written(self, record: Record) -> None:
        """Add a record that is being written."""
        self._states[record.key] = record.state
        if record.state is State.SENT:
            self.was_sent = True
            self._asked[record.key] = record.resource_uuid or ""
        if record.state is State.CLONED:
            asked = self._asked.get(record.key)
            self.canary_passed = self.canary_passed or record.clone_uuid == asked
            self.was_uuid_ignored = self.was_uuid_ignored or (bool(asked) and record.clone_uuid != asked)
            if record.clone_uuid is not None and not record.made_elsewhere:
                self.made[record.key] = record.clone_uuid
        if record.state.is_final:
            self._finals[record.key] = record.state

    def has_predecessor(self, key: str, resource_uuid: str) -> bool:  # noqa: ARG002 - the page names those of its uuids
        """Return whether a target without open attempts may have been sent before."""
        return self.is_repaired or key in self._lost

    def final(self, key: str) -> tuple[State, int] | None:
        """Return the final state of a clone, with digest 0, or None."""
        state = self._finals.get(key)
        return None if state is None else (state, 0)

    @property
    def counts(self) -> Counter[State]:
        """Number of the page's clones by state."""
        return Counter(self._states.values())

    @property
    def settled_counts(self) -> Counter[State]:
        """Number of the page's settled clones by final state."""
        return Counter({state: count for state, count in self.counts.items() if state.is_final})


class _HandOvers:
    """State of a page's hand-overs; each is tried once per page, and the next run retries the rest."""

    def __init__(self, tried: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
        self._tried = tried

    def tries(self, key: str) -> Mapping[str, tuple[float, float]]:
        """Return the tries before this page, by owner."""
        return self._tried.get(key, {})

    def is_done(self, key: str, wanted: HandOver) -> bool:  # noqa: ARG002 - the command left out what is done
        return False

    def is_refused(self, key: str, wanted: HandOver) -> bool:  # noqa: ARG002 - refused ones are tried again
        return False


class PageJournal:
    """The lines of a page, made durable by the workflow's event history.

    No activity starts before the workflow task that requested it is persisted, along with all lines recorded by then.
    """

    def __init__(self, history: PageHistory) -> None:
        """Start without lines."""
        self.lines: list[PageLine] = []
        self._history = history

    async def commit(self, record: Record) -> None:
        """Append."""
        self.note(record)

    def note(self, record: Record) -> None:
        """Append."""
        self.lines.append(record)
        self._history.add_written(record)

    async def take_up(self, keys: Sequence[str]) -> None:
        """Do nothing: the command itself records the targets that it takes up."""

    def on_failure(self, hook: Callable[[], None]) -> None:
        """Do nothing: a list cannot fail."""

    def note_hand_over(self, line: HandOverRecord) -> None:
        """Append."""
        self.lines.append(line)

    async def commit_try(self, line: HandOverRecord, *, is_unexecuted: bool = False) -> None:
        """Append."""
        self.lines.append(TriedLine(line, is_unexecuted))
