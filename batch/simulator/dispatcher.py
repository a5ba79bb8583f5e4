"""Dispatch of requests: rate limit, REST API, api jobs and the legacy API (zstack/README.md 5)."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from batch.simulator.api import LEGACY_ROW, check_message
from batch.simulator.api_errors import ApiFailureError, ErrorCode, RestError, locale_of
from batch.simulator.faults import FaultKind
from batch.simulator.gateway import (
    JOBS,
    LEGACY,
    LEGACY_RESULTS,
    UnreadableMessageError,
    check_headers,
    read_legacy,
    read_rest,
)
from batch.simulator.jobs import JobResult, with_schema
from batch.simulator.wire import Response, derive_uuid, event_json, plain_json, timestamp

if TYPE_CHECKING:
    from batch.simulator.api import ApiDefinition, Call, NodeContext
    from batch.simulator.faults import Fault
    from batch.simulator.jobs import Execution, JobStore
    from batch.simulator.wire import Json, Request

_HTML: Final = (("Content-Type", "text/html;charset=utf-8"),)
REFUSAL: Final = Response(429, b"Rate limit exceeded")
"""Without Retry-After; nothing was executed."""


class RateLimiter:
    """Counts what it admits in a sliding window; a refused request is not counted."""

    def __init__(self, limit: int | None, window: float) -> None:
        """``limit``: requests in any ``window`` seconds; None admits all."""
        self._limit = limit
        self._window = window
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)

    def admits(self, request: Request, now: float) -> bool:
        """Return whether the request is admitted. Requests without a proxy header share one budget."""
        if self._limit is None:
            return True
        times = self._times[_client(request)]
        while times and now - times[0] >= self._window:
            times.popleft()
        is_admitted = len(times) < self._limit
        if is_admitted:
            times.append(now)
        return is_admitted


def _client(request: Request) -> str:
    """Return the client's name according to the proxy headers."""
    given = (request.headers.get(name, "") for name in ("x-forwarded-for", "x-real-ip"))
    return next(filter(None, (text.partition(",")[0].strip() for text in given)), "Unknown")


class Dispatcher:
    """Answers requests; asynchronous work continues in ``execution``."""

    def __init__(self, context: NodeContext, jobs: JobStore, execution: Execution, *, salt: str) -> None:
        """``salt``: makes this process's cookies differ from those of others."""
        self.origin = ""
        self._context = context
        self._jobs = jobs
        self._execution = execution
        self._salt = salt
        self._limiter = RateLimiter(context.options.requests_per_minute, context.options.limit_window)

    def answer(self, request: Request, fault: Fault | None, now: float) -> Response:
        """Answer as RestServer does: job queries first, then the immediate checks."""
        if not self._limiter.admits(request, now):
            return REFUSAL
        path = request.path.removeprefix(self._context.options.context_path)
        try:
            reply = self._route(request, path, now, fault)
        except RestError as error:
            reply = Response(error.status, error.text.encode("utf-8", "replace"))
        return replace(reply, headers=(reply.headers or self._content_type()) + self._cookie(request))

    def _route(self, request: Request, path: str, now: float, fault: Fault | None) -> Response:
        if path == request.path:
            raise RestError(404, f"no api mapping to {path}")
        if path.startswith(JOBS):
            return self._poll(request, path.removeprefix(JOBS))
        if path.startswith(LEGACY_RESULTS):
            return self._legacy_result(request, path.removeprefix(LEGACY_RESULTS), now)
        if path.rstrip("/") == LEGACY:
            return self._legacy_call(request, now, fault)
        return self._call(read_rest(self._context, request, path, now, fault), now)

    def _poll(self, request: Request, uuid: str) -> Response:
        if request.method != "GET":
            raise RestError(405, "only GET method is allowed for querying job status")
        if "/" in uuid:
            raise RestError(404, f"no api mapping to {JOBS}{uuid}")
        job = self._jobs.find(uuid)
        if job is None:
            raise RestError(404, "the job has been expired")
        if isinstance(job, JobResult):
            return Response(200 if job.ok else 503, self._json(self._execution.body(job, request)))
        return Response(202, b"{}")

    def _call(self, call: Call, now: float) -> Response:
        is_duplicate = self._jobs.is_duplicate(call.id, now)
        self._context.ledger.counts["duplicate_jobs"] += is_duplicate and not call.api.sync
        timeout = check_headers(self._context, call, is_duplicate=is_duplicate)
        if call.api.sync:
            return self._call_sync(call, now)
        self._execution.accept(call, now)
        options = self._context.options
        origin = options.management_url or self.origin
        if call.fault is not None and call.fault.kind is FaultKind.FOREIGN_LOCATION:
            origin = call.fault.host
        location = f"{origin}{options.context_path}{JOBS}{call.id}"
        return Response(202, self._json({"location": location, "apiTimeout": timeout}))

    def _call_sync(self, call: Call, now: float) -> Response:
        delay, result = self._run(call, now)
        if isinstance(result, ErrorCode):
            return Response(503, plain_json({"error": self._error(result, call.request)}), delay=delay)
        if not call.api.is_query:
            result = with_schema(result, call.api.inventory, call.request)
        return Response(200, self._json(result), delay=delay)

    def _run(self, call: Call, now: float) -> tuple[float, Json | ErrorCode]:
        """Run a synchronous call; return the seconds it waits for a thread, and its result."""
        delay = self._execution.pool.admit(now) - now
        try:
            account = check_message(self._context, call, now)
            result = call.api.run(self._context, call, account, now)
        except ApiFailureError as failure:
            return delay, failure.error
        assert isinstance(result, dict)
        return delay, result

    def _error(self, error: ErrorCode, request: Request) -> Json:
        return self._context.errors.json(error, locale_of(request.headers.get("accept-language")))

    def _legacy_call(self, request: Request, now: float, fault: Fault | None) -> Response:
        """Answer a message of the legacy API, always with status 200 and the outcome in the body."""
        if request.method not in {"POST", "PUT"}:
            return _page(405, "Method Not Allowed")
        try:
            call = read_legacy(self._context, request, fault)
        except UnreadableMessageError as error:
            return Response(200, str(error).encode("utf-8", "replace"))
        at = self._time(now)
        if call.api.sync:
            delay, result = self._run(call, now)
            body = {"error": self._error(result, request)} if isinstance(result, ErrorCode) else result
            answer = _legacy_done(call.api, body, uuid=None, at=at)
            return Response(200, plain_json(answer), delay=delay)
        if call.row in self._jobs.rows:
            return _page(500, "ConstraintViolationException: could not execute statement")
        self._execution.accept(call, now)
        return Response(200, plain_json(_legacy_processing(call.id, at)))

    def _legacy_result(self, request: Request, uuid: str, now: float) -> Response:
        if request.method not in {"GET", "PUT"}:
            return _page(405, "Method Not Allowed")
        job = self._jobs.find(LEGACY_ROW + uuid)
        if job is None:
            return _page(404, f"No api result[uuid:{uuid}] found")
        at = self._time(now)
        if not isinstance(job, JobResult):
            return Response(200, plain_json(_legacy_processing(uuid, self._time(job.created))))
        body = self._execution.body(job, request)
        return Response(200, plain_json(_legacy_done(self._context.apis[job.api], body, uuid=uuid, at=at)))

    def _time(self, now: float) -> str:
        return timestamp(now, self._context.options.utc_offset)

    def _content_type(self) -> tuple[tuple[str, str], ...]:
        return (("Content-Type", "application/json;charset=UTF-8"),) if self._context.options.content_type else ()

    def _cookie(self, request: Request) -> tuple[tuple[str, str], ...]:
        options, counts = self._context.options, self._context.ledger.counts
        if not options.http_sessions or "JSESSIONID=" in request.headers.get("cookie", ""):
            return ()
        counts["http_sessions"] += 1
        cookie = derive_uuid("http", self._salt, counts["http_sessions"]).upper()
        return (("Set-Cookie", f"JSESSIONID={cookie}; Path={options.context_path}; HttpOnly"),)

    def _json(self, value: Json) -> bytes:
        return event_json(value, html_escape=self._context.options.html_escape)


def _page(status: int, text: str) -> Response:
    """Write Tomcat's own error page."""
    title = f"HTTP Status {status}"
    page = f"<!doctype html><html><head><title>{title}</title></head><body><h1>{title} - {text}</h1></body></html>"
    return Response(status, page.encode("utf-8", "replace"), _HTML)


def _legacy_processing(uuid: str, created: str) -> Json:
    """Return the answer for a message that is still running."""
    return {"uuid": uuid, "createdDate": created, "state": "Processing"}


def _legacy_done(api: ApiDefinition, body: Json, *, uuid: str | None, at: str) -> Json:
    """Write a result: ``body`` as the REST API answers it, in a text, below the class of its reply or event."""
    error = body.get("error")
    inner = {name: value for name, value in body.items() if name != "schema"} | {"success": error is None}
    if not api.sync:
        inner["apiId"] = uuid
    text = event_json({api.reply_class: inner}, html_escape=False).decode()
    return {"uuid": uuid, "createdDate": at, "finishedDate": at, "state": "Done", "result": text}
