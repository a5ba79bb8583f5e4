"""An earlier run opened to change its clones: manifest locked, server connected, signals handled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from batch import __version__
from batch.app.event_loop import loop_factory, on_signal
from batch.app.logs import log_to
from batch.app.manifest import accept_manifest, lock_manifest
from batch.app.messages import say, warn
from batch.app.options import LogFormat
from batch.app.verify import find_run, require_same_job, server_of_run, settings_of
from batch.engine import Stop
from batch.errors import EndReason, ExitCode, ManifestLockedError, UsageError
from batch.jobfile.units import read_rate
from batch.manifest.targets import open_targets
from batch.model import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from batch.app.server import Server
    from batch.app.verify import VerifyOptions
    from batch.jobfile import Job
    from batch.manifest import Manifest
    from batch.manifest.targets import Targets

_Result = TypeVar("_Result")

_MIN_RATE: Final = 1.0
"""Calls per second; at a lower rate a change could not be sent while its check is still fresh."""
_GRACE: Final = 30.0
"""Seconds that calls in progress have to finish after a stop."""


@dataclass(slots=True)
class LockedRun:
    """The context of an operation that changes clones."""

    job: Job
    path: Path
    """Of the manifest."""
    targets: Targets
    """The manifest's targets at the time it was locked."""
    manifest: Manifest
    server: Server
    stop: Stop
    exit_code: ExitCode = ExitCode.UNFINISHED
    """The exit code recorded when the manifest is closed."""


def run_locked(
    options: VerifyOptions, work: Callable[[LockedRun], Awaitable[_Result]], *, command: str, reason: str
) -> _Result:
    """Run ``work`` on the run that ``options`` name and return its result; ``reason``: recorded in the ending line.

    Raises UsageError, ManifestError, UnreachableError, RunStoppedError.
    """
    job, path = find_run(options)
    if job is None:
        raise UsageError(f"{options.path} is a manifest: {command} compares with the job file: zclone {command} JOB")
    with log_to(None, style=LogFormat.AUTO), asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_lock(options, job, path, work, rate=_rate(options, job, command), reason=reason))


async def _lock(
    options: VerifyOptions,
    job: Job,
    path: Path,
    work: Callable[[LockedRun], Awaitable[_Result]],
    *,
    rate: float,
    reason: str,
) -> _Result:
    with open_targets(path, 1) as targets:
        header = replace(targets.header, tool=f"zclone {__version__}")
        require_same_job(job, targets, path)
    manifest = await lock_manifest(path, header)
    stop, code = Stop(), ExitCode.UNFINISHED
    try:
        warn(manifest.warnings)
        await accept_manifest(manifest, by_flag=options.adopt_manifest)
        _require_ended(manifest)
        with open_targets(path) as targets, on_signal(lambda name: _stop(stop, name)):
            settings = None if header.simulated else settings_of(options, job, targets, path)
            async with server_of_run(options, settings, path=path, rate=rate) as server:
                stop.on_request(lambda: server.gate.stop(_GRACE))
                run = LockedRun(job, path, targets, manifest, server, stop)
                result = await work(run)
                code = run.exit_code
                return result
    finally:
        await manifest.close(code, reason)


def _require_ended(manifest: Manifest) -> None:
    """Raise ManifestLockedError if clones of the run may still be in progress on Temporal."""
    past = manifest.past
    if past.remote is not None and any(not state.is_final and state is not State.WITHDRAWN for state in past.counts):
        raise ManifestLockedError(
            f"{manifest.path}: the run may still be in progress on Temporal, workflow {past.remote.workflow_id}: "
            "follow it to its end with zclone run JOB, or end it with --engine temporal --cancel"
        )


def _stop(stop: Stop, name: str) -> None:
    say(f"{name}: stopping, waiting up to {_GRACE:.0f} s for calls in progress; a second signal exits at once")
    stop.request(name, EndReason.SIGNAL)


def _rate(options: VerifyOptions, job: Job, command: str) -> float:
    try:
        rate = job.limits.rate if options.rate is None else read_rate(options.rate)
    except ValueError as error:
        raise UsageError(f"--rate: {error}") from None
    if rate < _MIN_RATE:
        raise UsageError(f"--rate: {command} needs at least {_MIN_RATE:g}/s, so that each call follows its check")
    return rate
