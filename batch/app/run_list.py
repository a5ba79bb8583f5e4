"""``zclone runs``: list the runs of a job with their states, and remove settled ones."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from batch.app.embedded_node import node_state
from batch.app.messages import say
from batch.app.runs import all_runs
from batch.errors import ZcloneError
from batch.manifest import is_locked, summary
from batch.report.run_list import DescribedRun, RemoteRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


def describe_runs(job: Path) -> list[DescribedRun]:
    """Return every run of the job file with a manifest in this folder, newest first.

    Raises UsageError, and ManifestError for a damaged manifest.
    """
    return [_describe(one.path) for one in all_runs(job)]


def _describe(path: Path) -> DescribedRun:
    # Check the lock before reading: a process that ends in between has then written its ending line.
    locked = is_locked(path)
    found = summary(path)
    is_running = locked and found.ended is None
    return DescribedRun(
        path,
        found.header,
        found.counts,
        is_running=is_running,
        is_settled=not locked and found.is_settled,
        is_removable=not locked and found.is_removable,
    )


def list_open_runs(job: Path, environ: Mapping[str, str]) -> list[RemoteRow]:
    """Return the job's open runs on Temporal; empty without settings or, with a warning, if it does not answer."""
    if not any(environ.get(name) for name in ("TEMPORAL_ADDRESS", "TEMPORAL_PROFILE")):
        return []
    import asyncio

    from batch.app.temporal import find_open_runs
    from batch.jobfile import load

    try:
        found = asyncio.run(find_open_runs(environ, load(job).name))
    except ZcloneError as error:
        say(f"warning: runs that are open on Temporal are not listed: {error}")
        return []
    return [RemoteRow(one.run, one.began_at, one.states, one.targets, one.workflow_id) for one in found]


def prune_runs(runs: Sequence[DescribedRun], *, keep: int) -> Iterator[Path]:
    """Remove the manifests of all settled runs but the ``keep`` newest, with rehearsal state; yield each path.

    A run of several shards is settled once all of them are. The manifest of a run with undone clones stays: without it
    the next run would request their uuids again.
    """
    from batch.manifest.opening import remove_settled

    whole = sorted(runs, key=_identity)
    parts = [list(group) for _, group in groupby(whole, key=_identity)]
    settled = [group for group in parts if all(one.is_removable for one in group)]
    settled.sort(key=lambda group: max(one.header.created_at for one in group), reverse=True)
    for one in (one for group in settled[keep:] for one in group):
        if remove_settled(one.path):
            if one.header.simulated:
                node_state(one.path).unlink(missing_ok=True)
            yield one.path


def _identity(one: DescribedRun) -> tuple[str, str, bool]:
    return one.header.job, one.header.run, one.header.simulated
