"""Observers of a run in progress: log, live view or heartbeat, metrics, traces and a check of the manifest file.

Traces are the extra [otel]: one span per settled clone if OpenTelemetry was configured before zclone started. Otherwise
nothing is imported. Spans are created in a separate thread, so that no exporter slows or stops a run.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from asyncio import to_thread
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from batch import __version__, outputs
from batch.app.live_view import has_blocks, printer_above
from batch.app.logs import LoggingJournal
from batch.app.messages import report_early, say, say_above
from batch.clock import SystemClock
from batch.engine.admission import wave_sizes
from batch.engine.survey import count_hand_overs
from batch.errors import ZcloneError
from batch.model import State
from batch.progress.board import SETTLED, Board, oldest_in_flight
from batch.progress.views import BEAT, heartbeat, live, new_view, no_view, run_periodically

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from opentelemetry.trace import Tracer

    from batch.app.live_view import LiveConsole
    from batch.app.prepare import Setup
    from batch.engine import Stop
    from batch.engine.control import Controls
    from batch.engine.survey import Survey
    from batch.manifest import Manifest, ManifestFold
    from batch.model import Plan, Record

_TIMEOUT: Final = 5.0
"""Timeout for the last metrics of a run, in seconds."""
_INTERVAL: Final = 1.0
"""Seconds between two checks that the manifest is still at its path."""
_NANO: Final = 1_000_000_000
_QUEUED: Final = 20_000
_COUNTED: Final = (*SETTLED, State.SENT, State.ACCEPTED)
_SPAN_TIMEOUT: Final = 2.0
"""Timeout for the last spans at the end of a run, in seconds."""


@asynccontextmanager
async def observe(  # noqa: PLR0913 - each observer needs a source of its own
    setup: Setup,
    plan: Plan,
    manifest: Manifest,
    found: Survey,
    *,
    calls: Callable[[], int],
    rate: float,
    stop: Stop,
    controls: Controls | None = None,
) -> AsyncIterator[LoggingJournal]:
    """Start the observers that the options select; yield the journal that feeds log, view and traces.

    ``found``: the survey of ``plan``; ``calls``: number of calls made so far; ``rate``: limit in calls per second,
    unless ``controls`` change it.
    """
    past, clock = manifest.past, SystemClock()
    handed_over = await to_thread(count_handed_over, plan, past)
    board = Board(
        plan.count,
        counts=count_targets(past, found),
        calls=calls,
        limit=lambda: rate if controls is None else controls.rate,
        monotonic=clock.monotonic,
        language=setup.language,
        waiting=lambda: oldest_in_flight(past.intents.values(), now=clock.time()),
        is_stopping=lambda: stop.requested,
        is_paused=lambda: controls is not None and controls.is_paused,
        concurrency=lambda: None if controls is None else controls.changed_concurrency,
        in_force=None if controls is None else lambda: controls.rate_in_force,
        waves=wave_sizes(setup.limits.waves, plan.count),
        hand_overs=lambda: f"handing over: {handed_over()} of {plan.hand_overs}" if plan.hand_overs else "",
    )
    tracing = Tracing(current_tracer(), job=plan.job, run=plan.run)
    metrics = write_live_metrics(setup.options.metrics_file, job=plan.job, counts=lambda: past.counts)
    with tracing:
        async with _view(setup, board), metrics, watch_manifest(manifest):
            yield LoggingJournal(
                manifest,
                failed=board.fail,
                settled=tracing.queue_span,
                open_before=past.intents.values(),
                keeps_uuids=past.is_at_most_once and plan.hand_overs > 0,
                language=setup.language,
            )


def count_targets(past: ManifestFold, found: Survey) -> Callable[[], dict[State, int]]:
    """Return a function that counts the targets of the plan that was just surveyed, those settled or in flight.

    The manifest also has those that ``--only`` leaves out, or that left the job file.
    """
    others = past.settled_counts
    others.subtract(found.settled)
    open_others = [clone.key for clone in found.open if not clone.body] + [clone.key for clone in found.outside_plan]

    def count() -> dict[State, int]:
        counts = Counter(past.counts)
        counts.subtract(others)
        intents = past.intents if open_others else {}
        for key in open_others:
            final = past.final(key)
            if final is not None:
                counts[final[0]] -= 1
            elif key in intents:
                counts[intents[key].state] -= 1
        return {state: counts[state] for state in _COUNTED}

    return count


def count_handed_over(plan: Plan, past: ManifestFold) -> Callable[[], int]:
    """Return a function that counts the clones of the plan that are handed over."""
    done = past.hand_overs.done
    others = done - count_hand_overs(plan, past).done if done else 0
    return lambda: past.hand_overs.done - others


def _view(setup: Setup, board: Board) -> AbstractAsyncContextManager[None]:
    if setup.console is not None:
        return _live_view(setup.console, board, setup.options.endpoint.environ)
    return no_view() if setup.options.progress == "none" else heartbeat(board)


@asynccontextmanager
async def _live_view(console: LiveConsole, board: Board, environ: Mapping[str, str]) -> AsyncIterator[None]:
    """Show the live view, with messages above it."""
    async with live(board, new_view(console), has_blocks=has_blocks(console, environ)):
        with say_above(printer_above(console)):
            yield


@asynccontextmanager
async def write_live_metrics(
    file: Path | None, *, job: str, counts: Callable[[], Mapping[State, int]], every: float = BEAT
) -> AsyncIterator[None]:
    """Write the metrics of a run in progress at once and then every ``every`` seconds, unless ``file`` is None.

    The event loop renders them, so that their age reveals a hung run; a thread writes them, so that a hung disk delays
    nothing.
    """
    if file is None:
        yield
        return
    from batch.report.metrics import live_metrics

    began, writer = time.time(), _Writer(file)
    try:
        async with run_periodically(
            lambda: writer.put(*live_metrics(job, counts(), began=began, at=time.time())), 0.0, every
        ):
            yield
    finally:
        writer.finish()


class _Writer:
    """Replaces a file in a thread; writes requested while one is in progress are skipped."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._thread: threading.Thread | None = None
        self._has_failed = False

    def put(self, *texts: str) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._write, args=texts, name="metrics", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Wait for the last write, so that it cannot replace the final metrics."""
        if self._thread is not None:
            self._thread.join(_TIMEOUT)

    def _write(self, *texts: str) -> None:
        try:
            outputs.replace(self._file, texts, mode=outputs.PUBLIC)
        except ZcloneError as error:
            if not self._has_failed:
                say(f"zclone: {error}")
            self._has_failed = True


@asynccontextmanager
async def watch_manifest(manifest: Manifest, *, every: float = _INTERVAL) -> AsyncIterator[None]:
    """Check every ``every`` seconds that the manifest still exists; report a loss at once."""
    manifest.on_failure(lambda: report_early(f"zclone: {manifest.failure}"))

    def check() -> None:
        manifest.check_file()

    async with run_periodically(check, every, every):
        yield


def current_tracer() -> Tracer | None:
    """Return the tracer of a provider configured at startup, such as by ``opentelemetry-instrument``, if any."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    is_real = not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
    return provider.get_tracer("zclone", __version__) if is_real else None


class Tracing:
    """Creates spans of settled clones in a thread; without a tracer it does nothing."""

    def __init__(self, tracer: Tracer | None, *, job: str, run: str) -> None:
        """Store ``job`` and ``run`` as attributes of every span."""
        self._tracer = tracer
        self._of_run: dict[str, str | int] = {"zclone.job": job, "zclone.run": run}
        self._settled: queue.Queue[tuple[Record, float | None, str] | None] = queue.Queue(_QUEUED)
        self._lost = 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start the thread, if there is a tracer."""
        if self._tracer is not None:
            self._thread = threading.Thread(target=self._work, args=(self._tracer,), name="tracing", daemon=True)
            self._thread.start()
        return self

    def queue_span(self, record: Record, *, sent_at: float | None, api_job: str) -> None:
        """Queue the span of a settled clone; ``sent_at``: time of its first POST, seconds since the epoch."""
        if self._thread is None:
            return
        try:
            self._settled.put_nowait((record, sent_at, api_job))
        except queue.Full:
            self._lost += 1

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        try:
            self._settled.put(None, timeout=_SPAN_TIMEOUT)
        except queue.Full:
            self._lost += 1
        self._thread.join(_SPAN_TIMEOUT)
        self._lost += self._settled.qsize()
        if self._lost:
            say(f"{self._lost} spans were lost: the exporter cannot keep up")

    def _work(self, tracer: Tracer) -> None:
        while (settled := self._settled.get()) is not None:
            record, sent_at, api_job = settled
            try:
                self._make(tracer, record, record.at if sent_at is None else sent_at, api_job)
            except Exception:  # noqa: BLE001 - any error of an exporter loses this span, which is counted
                self._lost += 1

    def _make(self, tracer: Tracer, record: Record, sent_at: float, api_job: str) -> None:
        span = tracer.start_span(
            "clone", start_time=int(sent_at * _NANO), attributes=self._of_run | _attributes(record, api_job)
        )
        if record.state is not State.CLONED:
            # Without the server's text, which may echo what was sent.
            span.set_status(_error_status())
        span.end(end_time=int(record.at * _NANO))


def _attributes(record: Record, api_job: str) -> dict[str, str | int]:
    found: dict[str, str | int | None] = {
        "zclone.key": record.key,
        "zclone.state": str(record.state),
        "zclone.attempts": record.attempt,
        "zclone.clone_uuid": record.clone_uuid,
        "zclone.error_code": record.error_code,
        "zclone.api_job": api_job or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _error_status() -> Any:
    trace: Any = sys.modules["opentelemetry.trace"]
    return trace.Status(trace.StatusCode.ERROR)
