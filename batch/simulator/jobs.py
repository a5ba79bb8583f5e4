"""Api jobs from 202 to their result: rows, check stage, handler, completion, web hook (zstack/README.md 5, 6, 7)."""

from __future__ import annotations

import heapq
import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from batch.simulator.api import LEGACY_ROW, check_message
from batch.simulator.api_errors import ApiFailureError, ErrorCode, RestError, error_event, locale_of
from batch.simulator.faults import Fault, FaultKind
from batch.simulator.resources import Resource, object_schema
from batch.simulator.services import INVENTORY
from batch.simulator.wire import Json, WebHook, event_json

if TYPE_CHECKING:
    from random import Random

    from batch.simulator.api import Call, NodeContext
    from batch.simulator.node import TimerQueue
    from batch.simulator.options import NodeAccount, NodeOptions
    from batch.simulator.wire import Request

_NO_ROW: Final = frozenset({FaultKind.ROW_MISSING})
_ROW_AT: Final = {"start": 0.0, "half-written": 0.0, "half-way": 0.5, "end": 1.0, "never": 0.5}
"""Fraction of a job's duration after which its row is written."""
_UNSENT: Final = frozenset({FaultKind.ORPHAN, FaultKind.ORPHAN_500})


@dataclass(frozen=True, slots=True)
class JobResult:
    """The result of a job."""

    content: bytes | Resource | ErrorCode
    """The body, the model service whose inventory is rendered at the poll, or the error."""
    api: str
    """Name of the API."""

    @property
    def ok(self) -> bool:
        """Whether the job succeeded."""
        return not isinstance(self.content, ErrorCode)


@dataclass(slots=True)
class JobRow:
    """AsyncRestVO: ``result`` None means processing."""

    created: float
    result: JobResult | None = None


class JobStore:
    """The job rows; done ones are purged by creation time, processing ones never, so a lost job answers 202 forever."""

    def __init__(self, options: NodeOptions) -> None:
        """``options`` say how long rows and how many results are kept."""
        self.rows: dict[str, JobRow] = {}
        self._cache: OrderedDict[str, JobResult] = OrderedDict()
        self._options = options

    def is_duplicate(self, job: str, now: float) -> bool:
        """Return whether the job is known; not atomic with ``insert``, as a row younger than the window is not seen."""
        row = self.rows.get(job)
        return row is not None and now - row.created >= self._options.duplicate_window

    def insert(self, job: str, now: float) -> None:
        """Write a processing row; a second insert of the same uuid fails silently."""
        self.rows.setdefault(job, JobRow(now))

    def complete(self, job: str, outcome: JobResult) -> None:
        """Store the result in cache and row; a second execution overwrites the first. Without a row neither is."""
        row = self.rows.get(job)
        if row is None:
            return
        row.result = outcome
        self._cache[job] = outcome
        self._cache.move_to_end(job)
        if len(self._cache) > self._options.cache_size:
            self._cache.popitem(last=False)

    def find(self, job: str) -> JobResult | JobRow | None:
        """Look in the cache, then in the rows; a JobRow means processing, None means 404."""
        cached = self._cache.get(job)
        if cached is not None:
            self._cache.move_to_end(job)
            return cached
        row = self.rows.get(job)
        return row if row is None or row.result is None else row.result

    def purge(self, now: float) -> None:
        """Delete done rows created longer ago than the retention; cached results and the legacy API's rows stay."""
        done = [(job, row) for job, row in self.rows.items() if row.result is not None]
        for job, row in done:
            if now - row.created > self._options.row_retention and not job.startswith(LEGACY_ROW):
                del self.rows[job]

    def vanish(self, job: str) -> None:
        """Remove row and cached result of one job."""
        self.rows.pop(job, None)
        self._cache.pop(job, None)

    def restart(self) -> None:
        """Clear the cache, which is in the node's memory; rows are in the database."""
        self._cache.clear()


class Execution:
    """Runs async API messages in memory; running ones are lost with the node."""

    def __init__(self, context: NodeContext, jobs: JobStore, timers: TimerQueue, rng: Random) -> None:
        """Draw latencies from ``rng`` at acceptance, in the order of requests."""
        self._context = context
        self._jobs = jobs
        self._timers = timers
        self._rng = rng
        self.pool = WorkerPool(context.options.workers, context.options.check_seconds)
        self.hooks: list[WebHook] = []
        """Web hooks to call now; the server takes them and reports the results."""

    def accept(self, call: Call, now: float) -> None:
        """Write the row, then send the message. Raises RestError 500 when sending fails after the row."""
        kind = call.fault.kind if call.fault is not None else None
        if kind not in _NO_ROW and not self._context.options.loses_rows:
            self._jobs.insert(call.row, now)
            self._context.emit({"e": "row", "j": call.row, "t": now})
        if kind is FaultKind.ORPHAN_500:
            raise RestError(500, "unable to send message to the bus")
        if kind not in _UNSENT:
            for _ in range(2 if kind is FaultKind.TWO_RUNS else 1):
                self._send(call, now)

    def hook_answered(self, hook: WebHook, now: float, *, ok: bool) -> None:
        """Retry a web hook that failed, up to the maximum number of tries."""
        options = self._context.options
        if not ok and hook.attempt < options.hook_tries:
            retry = WebHook(hook.url, hook.headers, hook.body, hook.attempt + 1)
            self._timers.add(now + options.hook_pause, lambda _: self.hooks.append(retry))

    def body(self, result: JobResult, request: Request) -> Json:
        """Return the body of a finished job, in the language and with the schema that ``request`` asks for."""
        content = result.content
        if isinstance(content, ErrorCode):
            locale = locale_of(request.headers.get("accept-language"))
            return {"error": self._context.errors.json(content, locale)}
        if isinstance(content, Resource):
            return with_schema({"inventory": self._context.resources.inventory(content)}, INVENTORY, request)
        return with_schema(json.loads(content), self._context.apis[result.api].inventory, request)

    def _send(self, call: Call, now: float) -> None:
        self._context.ledger.job_started()
        seconds = self._rng.uniform(*self._context.options.latency)
        self._timers.add(self.pool.admit(now), partial(self._check, call, seconds))

    def _check(self, call: Call, seconds: float, now: float) -> None:
        try:
            account = check_message(self._context, call, now)
        except ApiFailureError as failure:
            self._complete(call, JobResult(failure.error, call.api.name), now)
            return
        if self._context.options.honours_validation_only and call.is_validation_only:
            self._complete(call, JobResult(self._json({}), call.api.name), now)
            return
        before = seconds * _ROW_AT[self._context.options.row_appears]
        self._timers.add(now + before, partial(self._execute, call, account, seconds - before))

    def _execute(self, call: Call, account: NodeAccount, rest: float, now: float) -> None:
        outcome = self._run(call, account, now)
        self._timers.add(now + rest, partial(self._complete, call, outcome))

    def _run(self, call: Call, account: NodeAccount, now: float) -> JobResult:
        fault = call.fault
        if fault is not None and fault.kind in {FaultKind.FAIL, FaultKind.FAIL_THEN_CREATE}:
            if fault.kind is FaultKind.FAIL_THEN_CREATE:
                self._timers.add(now + fault.seconds, partial(self._handle, call, account))
            return JobResult(self._fault_error(fault), call.api.name)
        outcome = self._handle(call, account, now)
        if fault is not None and fault.kind is FaultKind.FAIL_CREATED:
            return JobResult(self._fault_error(fault), call.api.name)
        return outcome

    def _handle(self, call: Call, account: NodeAccount, now: float) -> JobResult:
        try:
            result = call.api.run(self._context, call, account, now)
        except ApiFailureError as failure:
            return JobResult(failure.error, call.api.name)
        if not isinstance(result, Resource):
            return JobResult(self._json(result), call.api.name)
        result.is_half_written = self._context.options.row_appears == "half-written"
        return JobResult(result, call.api.name)

    def _fault_error(self, fault: Fault) -> ErrorCode:
        errors = self._context.errors
        cause = errors.error(fault.cause, "agent") if fault.cause is not None else None
        if fault.code == "SYS.1001":
            return errors.error(fault.code, "timeout", self._context.options.api_timeout_ms, cause=cause)
        return errors.error(fault.code, "injected", fault.code, cause=cause)

    def _complete(self, call: Call, outcome: JobResult, _now: float) -> None:
        self._context.ledger.job_ended()
        kind = call.fault.kind if call.fault is not None else None
        if isinstance(outcome.content, Resource):
            outcome.content.is_half_written = False
        if kind is FaultKind.RESULT_LOST:
            return
        self._jobs.complete(call.row, outcome)
        self._context.emit(_done_event(call.row, outcome))
        if kind is FaultKind.PURGED:
            self._jobs.vanish(call.row)
            self._context.emit({"e": "vanish", "j": call.row})
        if call.hook is not None:
            self.hooks.append(self._hook(call, outcome))

    def _hook(self, call: Call, outcome: JobResult) -> WebHook:
        headers = (
            ("Content-Type", "application/json; charset=utf-8"),
            ("X-Job-UUID", call.id),
            ("X-Job-Success", "true" if outcome.ok else "false"),
        )
        body = self.body(outcome, call.request)
        return WebHook(call.hook or "", headers + _batch_header(body), self._json(body))

    def _json(self, value: Json) -> bytes:
        return event_json(value, html_escape=self._context.options.html_escape)


def _batch_header(body: Json) -> tuple[tuple[str, str], ...]:
    """Say how a message about several resources ended, where it was one."""
    results = body.get("results")
    if not isinstance(results, list):
        return ()
    ends = {result.get("success") is True for result in results}
    return (("X-Job-Batch", "PARTIAL" if len(ends) > 1 else "FAIL" if False in ends else "SUCCESS"),)


def with_schema(body: Json, inventory: str | None, request: Request) -> Json:
    """Add the classes of what ``body`` holds where the request's X-JSON-Schema asks for them."""
    if "x-json-schema" not in request.headers:
        return body
    row = body.get("inventory")
    schema = object_schema("inventory", row, inventory) if inventory is not None and isinstance(row, dict) else {}
    return body | {"schema": schema}


def _done_event(job: str, result: JobResult) -> Json:
    content = result.content
    event: Json = {"e": "done", "j": job, "a": result.api}
    if isinstance(content, Resource):
        return event | {"u": content.uuid}
    if isinstance(content, ErrorCode):
        return event | {"x": error_event(content)}
    return event | {"b": content.decode()}


class WorkerPool:
    """The threads of the check stage; each message occupies one for ``seconds``."""

    def __init__(self, workers: int, seconds: float) -> None:
        """Start with every thread free."""
        self._free = [-math.inf] * workers
        self._seconds = seconds

    def admit(self, now: float) -> float:
        """Take the first free thread; return the time at which the message leaves it."""
        done = max(now, self._free[0]) + self._seconds
        heapq.heapreplace(self._free, done)
        return done
