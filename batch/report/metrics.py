"""A run's figures in Prometheus' text format, for the textfile collector of node_exporter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.model import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.manifest import Summary


def metrics_text(summary: Summary) -> Iterator[str]:
    """Yield the lines. The run's id is no label: each night's run would add series that never end."""
    job = _escaped(summary.header.job)
    yield from _head("zclone_targets", "Targets of the last run by state.")
    for state in State:
        yield f'zclone_targets{{job="{job}",state="{state.value}"}} {summary.counts[state]}\n'
    if summary.started is not None:
        yield from _head("zclone_run_start_timestamp_seconds", "When the last process began.")
        yield f'zclone_run_start_timestamp_seconds{{job="{job}"}} {summary.started.at!r}\n'
    if summary.ended is not None:
        yield from _head("zclone_run_end_timestamp_seconds", "When the last process ended.")
        yield f'zclone_run_end_timestamp_seconds{{job="{job}"}} {summary.ended.at!r}\n'
        yield from _head("zclone_run_exit_code", "The last exit code: 0 cloned, 3 some failed, 4 run again.")
        yield f'zclone_run_exit_code{{job="{job}"}} {summary.ended.exit_code}\n'


def _head(name: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}\n# TYPE {name} gauge\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
