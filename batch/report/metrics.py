"""Metrics in Prometheus' text format, for the textfile collector of node_exporter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.errors import EndReason
from batch.model import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.manifest import Summary


def final_metrics(summary: Summary, *, at: float) -> Iterator[str]:
    """Yield the metrics of a finished run; ``at``: now, seconds since the epoch."""
    job, started, ended = summary.header.job, summary.started, summary.ended
    yield from _targets(job, summary.counts)
    if started is not None:
        yield from _gauge(job, "zclone_run_start_timestamp_seconds", started.at, "When the last process started.")
    if ended is not None:
        yield from _end_of_run(job, ended.at, ended.exit_code)
        yield _head("zclone_run_end_reason", "1 for the reason why the last process ended early.")
        for reason in EndReason:
            value = int(reason is ended.code)
            yield f'zclone_run_end_reason{{job="{_escape_label(job)}",reason="{reason.value}"}} {value}\n'
    yield from _liveness(job, running=0, at=at)


def lost_metrics(job: str, counts: Mapping[State, int], *, exit_code: int, at: float) -> Iterator[str]:
    """Yield the metrics of a run that ends at ``at`` and whose manifest is lost."""
    yield from _targets(job, counts)
    yield from _end_of_run(job, at, exit_code)
    yield from _liveness(job, running=0, at=at)


def _end_of_run(job: str, at: float, exit_code: int) -> Iterator[str]:
    yield from _gauge(job, "zclone_run_end_timestamp_seconds", at, "When the last process ended.")
    yield from _gauge(
        job, "zclone_run_exit_code", exit_code, "The last exit code: 0 cloned, 3 some failed, 4 run again."
    )


def live_metrics(job: str, counts: Mapping[State, int], *, began: float, at: float) -> Iterator[str]:
    """Yield the metrics of a run in progress; after a kill they remain, with an old timestamp."""
    yield from _targets(job, counts)
    yield from _gauge(job, "zclone_run_start_timestamp_seconds", began, "When the last process started.")
    yield from _liveness(job, running=1, at=at)


def worker_metrics(*, calls: int, rate: float, at: float) -> Iterator[str]:
    """Yield the metrics of a worker; ``rate``: its own limit in calls per second."""
    figures = (
        ("zclone_worker_calls", calls, "Calls since the worker started."),
        ("zclone_worker_rate", rate, "Calls per second that the worker makes at most."),
        ("zclone_worker_written_timestamp_seconds", at, "When this was written; every 15 seconds."),
    )
    for name, value, text in figures:
        yield _head(name, text)
        yield f"{name} {value!r}\n"


def _liveness(job: str, *, running: int, at: float) -> Iterator[str]:
    yield from _gauge(job, "zclone_running", running, "1 while a run is in progress.")
    yield from _gauge(job, "zclone_written_timestamp_seconds", at, "When this was written; by a run every 15 seconds.")


def _targets(job: str, counts: Mapping[State, int]) -> Iterator[str]:
    # Without a run label, because each nightly run would add new time series.
    yield _head("zclone_targets", "Targets of the last run by state.")
    for state in State:
        yield f'zclone_targets{{job="{_escape_label(job)}",state="{state.value}"}} {counts.get(state, 0)}\n'


def _gauge(job: str, name: str, value: float, text: str) -> Iterator[str]:
    yield _head(name, text)
    yield f'{name}{{job="{_escape_label(job)}"}} {value!r}\n'


def _head(name: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} gauge\n"


def _escape_label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
