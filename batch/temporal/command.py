"""The command's side of a run on Temporal: start, find, follow and stop it.

The workflow stays open until all its lines are in the manifest. While it is open the manifest may lack lines, so no
other engine may continue the run. All pages are created before the first call; if the command is killed meanwhile, a
rerun creates the rest with the same boundaries, because the manifest has not changed.
"""

from __future__ import annotations

import asyncio
import uuid
from asyncio import to_thread
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowQueryFailedError
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from batch.errors import EndReason, ManifestLockedError
from batch.temporal import page, parent
from batch.temporal.messages import Course, Facts, Lines, Progress
from batch.temporal.page import page_id, pages_of, parts_of
from batch.temporal.payloads import WrongKeyError, mismatch
from batch.temporal.worker import QUERY_TIMEOUT, task_queue, workflow_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from temporalio.client import WorkflowHandle

    from batch.engine import Stop
    from batch.model import State
    from batch.temporal.messages import Ending, Page, PageLine
    from batch.temporal.page import Work
    from batch.temporal.worker import Connection

_QUERY_INTERVAL: Final = 0.5
"""Seconds between two queries of the pages."""
_WORKER_TIMEOUT: Final = timedelta(seconds=20)
"""Time after which the operator is informed that no worker answers."""
_NO_ANSWER: Final = (RPCError, WorkflowQueryFailedError, WrongKeyError)
"""Errors of a query without an answer from a worker, or with one that this process cannot decrypt."""
_MAX_CREATIONS: Final = 8
"""Number of pages created concurrently."""


@dataclass(frozen=True, slots=True)
class OpenWorkflow:
    """A run in progress."""

    start: str
    digest: str
    """Of its plan."""


@dataclass(frozen=True, slots=True)
class OpenRun:
    """An open run of the namespace, for a list."""

    job: str
    run: str
    workflow_id: str
    began_at: float
    """Seconds since the epoch."""
    targets: int
    states: Mapping[State, int]
    """Number of started targets by state, as last reported by the run."""


async def open_runs(connection: Connection) -> list[OpenRun]:
    """Return the open runs of the namespace. Raises UnreachableError, WrongKeyError."""
    runs = []
    with connection.queries():
        query = f"WorkflowType = '{parent.NAME}' AND ExecutionStatus = 'Running'"
        async for one in connection.client.list_workflows(query, rpc_timeout=QUERY_TIMEOUT):
            memo = await one.memo()
            began_at = one.start_time.timestamp()
            runs.append(OpenRun(memo["job"], memo["run"], one.id, began_at, memo["targets"], memo["states"]))
    return runs


class RecordSink(Protocol):
    """Destination of lines: the manifest, whose only writer is the command."""

    def find_unwritten(self, lines: Sequence[PageLine]) -> list[PageLine]:
        """Return the lines that are not recorded yet; walks the whole manifest."""

    def write(self, line: PageLine) -> None:
        """Append a line."""

    async def flush(self) -> None:
        """Wait until all appended lines are durable."""

    def note_calls(self, calls: int) -> None:
        """Store the number of calls that the run has made."""


class RemoteRun:
    """A run, identified by endpoint, job and run, not by its plan."""

    def __init__(self, connection: Connection, *, endpoint: str, job: str, run: str) -> None:
        """Prepare without calling Temporal."""
        self.id = workflow_id(endpoint, job, run)
        self.connection = connection
        self._client = connection.client
        self.queue = task_queue(endpoint)
        self._parent: WorkflowHandle[object, object] = self._client.get_workflow_handle(self.id)

    async def find(self) -> OpenWorkflow | None:
        """Return the run if it has an open workflow, else None. Raises UnreachableError."""
        with self.connection.queries():
            try:
                workflow = await self._parent.describe(rpc_timeout=QUERY_TIMEOUT)
                memo = await workflow.memo()
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return None
                raise
        if workflow.status is not WorkflowExecutionStatus.RUNNING:
            return None
        return OpenWorkflow(str(memo["start"]), str(memo["digest"]))

    async def ask_worker(self, alone: Callable[[], None]) -> Facts:
        """Return the facts of a worker of the endpoint; ``alone`` is called when none answers for a while.

        Raises UnreachableError, and WrongKeyError for a worker with other keys.
        """
        while True:
            try:
                with self.connection.queries():
                    facts: Facts = await self._client.execute_workflow(
                        parent.GREETING,
                        id=f"{self.id}/greeting/{uuid.uuid4().hex}",
                        task_queue=self.queue,
                        result_type=Facts,
                        execution_timeout=_WORKER_TIMEOUT,
                    )
            except WorkflowFailureError:
                alone()
            else:
                wrong = mismatch(self.connection.keys, facts.keys, "a worker")
                if wrong is not None:
                    raise WrongKeyError(wrong)
                return facts

    async def begin(self, work: Work) -> OpenWorkflow:
        """Start the parent. Raises ManifestLockedError if another command just did, UsageError for too large a body."""
        parts = await to_thread(parts_of, work)
        course = Course(
            uuid.uuid4().hex[:12],
            work.plan.digest,
            parts,
            work.limits,
            settled=work.survey.settled,
            at_most_once=work.at_most_once,
            is_honoured=work.survey.is_honoured or work.history.canary_passed,
        )
        try:
            await self._client.start_workflow(
                parent.NAME,
                course,
                id=self.id,
                task_queue=self.queue,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                memo={
                    "start": course.start,
                    "digest": course.digest,
                    "job": work.plan.job,
                    "run": work.plan.run,
                    "targets": work.plan.count,
                    "states": dict(course.settled),
                },
            )
        except WorkflowAlreadyStartedError:
            raise ManifestLockedError(f"the workflow {self.id} was started by another command just now") from None
        return OpenWorkflow(course.start, course.digest)

    async def load(self, opened: OpenWorkflow, work: Work) -> None:
        """Create all pages that do not exist yet. Nothing is sent before this is done.

        Raises UnreachableError; a rerun creates the rest.
        """
        pages = (one for _, one in pages_of(work, parent=self.id))
        with self.connection.queries():
            while some := await to_thread(lambda: list(islice(pages, _MAX_CREATIONS))):
                await asyncio.gather(*(self._make(opened, one) for one in some))
            await self._parent.signal("load")

    async def _make(self, opened: OpenWorkflow, made: Page) -> None:
        try:
            await self._client.start_workflow(
                page.NAME,
                made,
                id=page_id(self.id, opened.start, made.number),
                task_queue=self.queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            )
        except WorkflowAlreadyStartedError:
            return

    async def stop(self, ending: Ending) -> None:
        """Stop the run. Raises UnreachableError."""
        with self.connection.queries():
            await self._parent.signal("stop", ending)

    async def is_loaded(self, *, silent: Callable[[str], None]) -> bool:
        """Return whether all pages were created; ``silent`` is called with the reason while nothing answers."""
        while True:
            try:
                return (await self.progress()).is_loaded
            except _NO_ANSWER as error:
                silent(str(error))
                await asyncio.sleep(_QUERY_INTERVAL)

    async def progress(self) -> Progress:
        """Query the progress of the run. Raises RPCError."""
        progress: Progress = await self._parent.query("progress", result_type=Progress, rpc_timeout=QUERY_TIMEOUT)
        return progress

    async def follow(
        self, opened: OpenWorkflow, sink: RecordSink, stop: Stop, *, silent: Callable[[str], None]
    ) -> Ending | None:
        """Copy the run's lines until it ends or this process stops; return why the run ended early, None if it did not.

        ``silent`` is called with the reason while neither Temporal nor a worker answers; queries are retried.
        """
        stream = _Stream(self, opened, sink)
        while True:
            try:
                progress = await stream.copy()
            except _NO_ANSWER as error:
                silent(str(error))
            else:
                if progress.is_done:
                    return progress.ending
            if stop.requested and stop.code is not EndReason.DEADLINE:
                return None
            await asyncio.sleep(_QUERY_INTERVAL) if stop.requested else await stop.sleep(_QUERY_INTERVAL)

    def page(self, opened: OpenWorkflow, number: int) -> WorkflowHandle[object, object]:
        """Return the handle of a page."""
        return self._client.get_workflow_handle(page_id(self.id, opened.start, number))


class _Stream:
    """The lines of open pages, each copied once; the manifest shows what an earlier command copied."""

    def __init__(self, run: RemoteRun, opened: OpenWorkflow, sink: RecordSink) -> None:
        self._run = run
        self._opened = opened
        self._sink = sink
        self._read: dict[int, int] = {}
        """Number of copied lines, by page."""
        self._calls: dict[int, int] = {}
        self._closed: set[int] = set()
        self._is_first = True

    async def copy(self) -> Progress:
        """Copy new lines, close finished pages, and return the progress of the run. Raises RPCError."""
        progress = await self._run.progress()
        pages = [number for number in progress.open if number not in self._closed]
        answers = await asyncio.gather(*(self._ask(number) for number in pages))
        lines = [line for answer in answers for line in answer.lines]
        if self._is_first and lines:
            lines = await to_thread(self._sink.find_unwritten, lines)
        self._is_first = False
        for line in lines:
            self._sink.write(line)
        for number, answer in zip(pages, answers, strict=True):
            self._read[number] = self._read.get(number, 0) + len(answer.lines)
            self._calls[number] = answer.calls
        self._sink.note_calls(sum(self._calls.values()))
        over = [number for number, answer in zip(pages, answers, strict=True) if answer.is_over]
        if over:
            await self._sink.flush()
            await asyncio.gather(*map(self._close, over))
        return progress

    async def _ask(self, number: int) -> Lines:
        handle = self._run.page(self._opened, number)
        cursor = self._read.get(number, 0)
        lines: Lines = await handle.query("lines", cursor, result_type=Lines, rpc_timeout=QUERY_TIMEOUT)
        return lines

    async def _close(self, number: int) -> None:
        try:
            await self._run.page(self._opened, number).signal("close")
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
        self._closed.add(number)
