"""Access to an earlier run, to verify or to change its clones: job, manifest, plan and server."""

from __future__ import annotations

import asyncio
from asyncio import to_thread
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from batch import __version__, jobfile
from batch.app.logs import log_to
from batch.app.manifest import accept_manifest, lock_manifest
from batch.app.messages import say, warn
from batch.app.options import PRESETS, LogFormat
from batch.app.outcome import unfinished_once_sent
from batch.app.process import loop_factory, on_signal
from batch.app.run_plan import fetch_pins
from batch.app.runs import JOB_FILES, find_manifest
from batch.app.selection import select
from batch.app.server import Server, say_warnings
from batch.engine import Stop
from batch.errors import EndReason, ExitCode, ManifestLockedError, ManifestMismatchError, RunStoppedError, UsageError
from batch.jobfile.values import read_rate
from batch.manifest.targets import open_targets
from batch.model import State
from batch.plan import Planning, regenerate, tag_clones
from batch.settings.reader import read_settings
from batch.text import shell_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batch.jobfile import Job
    from batch.manifest import Manifest
    from batch.manifest.targets import Targets
    from batch.model import Plan
    from batch.settings.sources import EndpointOptions
    from batch.zstack.settings import Settings

_Result = TypeVar("_Result")

_MIN_RATE: Final = 1.0
"""Calls per second; at a lower rate a change could not be sent while its check is still fresh."""
_GRACE: Final = 30.0
"""Seconds that calls in progress have to finish after a stop."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """Options of ``verify`` and ``rollback``."""

    path: Path
    """The job file, or a manifest."""
    endpoint: EndpointOptions
    run: str | None = None
    manifest: Path | None = None
    simulate: str | None = None
    """Faults of the embedded node, for a rehearsal."""
    rate: str | None = None
    proof: Path | None = None
    """File for the proof."""
    reopen: bool = False
    """Whether to record missing clones as undone."""
    adopt_manifest: bool = False


def find_run(options: VerifyOptions) -> tuple[Job | None, Path]:
    """Return the job, or None if only a manifest was given, and the path of the manifest."""
    if options.path.suffix.lower() not in JOB_FILES:
        if options.run is not None or options.manifest is not None:
            raise UsageError(f"{options.path} is a manifest: use --run and --manifest with a job file")
        return None, options.path
    job = jobfile.load(options.path)
    path = options.manifest or find_manifest(options.path, run=options.run, simulated=options.simulate is not None)
    return job, path


def require_same_job(job: Job | None, targets: Targets, path: Path) -> None:
    """Raise ManifestMismatchError for a manifest of another job, RunStoppedError for one without job and plan."""
    header = targets.header
    if job is not None and job.name != header.job:
        raise ManifestMismatchError(f"{path}: is of the job {header.job!r}, but {job.path} is {job.name!r}")
    if job is None and targets.plan is None:
        raise RunStoppedError(f"{path}: has no plan yet: there is nothing to verify before the run starts")


def settings_of(options: VerifyOptions, job: Job | None, targets: Targets, path: Path) -> Settings:
    """Return the settings, whose endpoint must be the manifest's. Raises UsageError."""
    found = read_settings(options.endpoint, None if job is None else job.endpoint)
    say_warnings(found.warnings)
    if found.settings.url != targets.header.endpoint:
        raise ManifestMismatchError(
            f"{path}: is of {targets.header.endpoint!r}, but the settings name {found.settings.url!r}"
        )
    return found.settings


def server_of_run(options: VerifyOptions, settings: Settings | None, *, path: Path, rate: float) -> Server:
    """Return the server of the run with the manifest ``path``; without settings, a rehearsal's node."""
    return Server(
        settings,
        rate=rate,
        environ=options.endpoint.environ,
        manifest=path,
        faults=options.simulate or PRESETS[0],
        warn_of=say_warnings,
    )


async def read_plan(job: Job, targets: Targets, server: Server) -> Plan:
    """Return the plan of the current job file, with the tags of the run. Raises JobFileError."""
    header = targets.header
    planning = Planning(job, run=header.run, started_at=header.created_at, pins=targets.pins)
    draft = await to_thread(planning.draft)
    plan = await to_thread(draft.finish, await fetch_pins(draft, server))
    shard = targets.plan.shard if targets.plan is not None else ""
    plan = await to_thread(select, plan, only=(), shard=shard or None)
    plan = regenerate(plan, targets.undone) if targets.undone else plan
    return tag_clones(plan) if header.tag else plan


def next_command(job: Job | None, targets: Targets, path: Path) -> str:
    """Return the command that continues the run."""
    file = targets.header.job_file if job is None else job.path
    words = ["zclone run", shell_path(Path(file or "JOB"))]
    words += ["--simulate"] if targets.header.simulated else []
    # Without its part of the targets, the command would do those of the other parts as well.
    words += ["--shard", targets.plan.shard] if targets.plan is not None and targets.plan.shard else []
    return " ".join([*words, "--manifest", shell_path(path), "--run", targets.header.run])


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
        with unfinished_once_sent(manifest), open_targets(path) as targets, on_signal(lambda name: _stop(stop, name)):
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
