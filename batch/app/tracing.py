"""The extra [otel]: one span per settled clone if OpenTelemetry was configured before zclone started.

Otherwise nothing is imported. Spans are created in a separate thread, so that no exporter slows or stops a run.
"""

from __future__ import annotations

import queue
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, Self

from batch import __version__
from batch.app.messages import say
from batch.model import State

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from batch.model import Record

_NANO: Final = 1_000_000_000
_QUEUED: Final = 20_000
_TIMEOUT: Final = 2.0
"""Timeout for the last spans at the end of a run, in seconds."""


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

    def settled(self, record: Record, *, sent_at: float | None, api_job: str) -> None:
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
            self._settled.put(None, timeout=_TIMEOUT)
        except queue.Full:
            self._lost += 1
        self._thread.join(_TIMEOUT)
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
