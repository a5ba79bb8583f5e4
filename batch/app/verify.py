"""``zclone verify``: read a run's clones back from the server and compare them with the job file."""

from __future__ import annotations

import asyncio
import time
from asyncio import to_thread
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from batch import __version__, jobfile, outputs
from batch.app.deletions import find_pending, undone_record
from batch.app.embedded_node import node_state
from batch.app.logs import log_to
from batch.app.manifest import accept_manifest, lock_manifest
from batch.app.messages import say, warn
from batch.app.options import PRESETS, LogFormat
from batch.app.run_plan import fetch_pins
from batch.app.runs import JOB_FILES, find_manifest
from batch.app.selection import select
from batch.app.server import Server, say_warnings
from batch.app.verifier import Verifier
from batch.errors import ExitCode, ManifestLockedError, ManifestMismatchError, RunStoppedError, UsageError
from batch.jobfile.units import read_rate
from batch.manifest import is_locked
from batch.manifest.targets import open_targets
from batch.model import Limits
from batch.plan import Planning, regenerate, tag_clones
from batch.report.proof import proof_texts
from batch.report.verification import Verdict, Verification
from batch.settings.reader import read_settings
from batch.text import shell_path
from batch.zstack.changes import ServiceChanges
from batch.zstack.queries import QueryApi
from batch.zstack.readback import CloneReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.jobfile import Job
    from batch.manifest.targets import Targets, TargetState
    from batch.model import Plan
    from batch.settings.sources import EndpointOptions
    from batch.zstack.settings import Settings


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


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The result of a verification."""

    found: Verification
    path: Path
    """Path of the manifest."""
    next_command: str
    """The command that continues the run."""
    missing: tuple[TargetState, ...]
    """Targets whose clones are gone."""


def verify_run(options: VerifyOptions, confirm: Callable[[VerifyResult], bool]) -> VerifyResult:
    """Verify a run without changing anything on the server.

    ``confirm``: called before ``options.reopen`` records anything. Raises UsageError, ManifestError, UnreachableError.
    """
    job, path = find_run(options)
    if options.proof is not None:
        _require_own_file(options.proof, job, path)
    if not options.reopen:
        return asyncio.run(_verify_file(options, job, path))
    with log_to(None, style=LogFormat.AUTO):
        return asyncio.run(_reopen(options, job, path, confirm))


async def _verify_file(options: VerifyOptions, job: Job | None, path: Path) -> VerifyResult:
    with open_targets(path) as targets:
        require_same_job(job, targets, path)
        rate = _rate(options, job, targets, path)
        found, verifier = await _verify(options, job, targets, path=path, rate=rate)
        if options.proof is not None:
            outputs.replace(options.proof, proof_texts(found, targets, verifier.verdict), mode=outputs.PRIVATE)
        verdicts = ((ordinal, verifier.verdict(ordinal)) for ordinal in range(len(targets)))
        missing = tuple(targets.read(ordinal) for ordinal, verdict in verdicts if verdict is Verdict.MISSING)
        return VerifyResult(found, path, next_command(job, targets, path), missing)


async def _reopen(
    options: VerifyOptions, job: Job | None, path: Path, confirm: Callable[[VerifyResult], bool]
) -> VerifyResult:
    """Verify with the manifest locked, and record missing clones as undone."""
    with open_targets(path, 1) as targets:
        header = replace(targets.header, tool=f"zclone {__version__}")
    manifest = await lock_manifest(path, header)
    try:
        warn(manifest.warnings)
        await accept_manifest(manifest, by_flag=options.adopt_manifest)
        verified = await _verify_file(options, job, path)
        is_sure = verified.found.exit_code is not ExitCode.UNFINISHED
        if confirm(verified) and is_sure:
            for target in verified.missing:
                manifest.note(undone_record(target, time.time()))
    finally:
        # Recorded as 4, not as the result of the verification, because a rerun now has work to do.
        await manifest.close(ExitCode.UNFINISHED, "missing clones were recorded as undone")
    return verified


def _require_own_file(proof: Path, job: Job | None, path: Path) -> None:
    inputs = [outputs.NamedFile("the manifest", path), outputs.NamedFile("the rehearsal's state", node_state(path))]
    if job is not None:
        inputs += [outputs.NamedFile("the job file", job.path)]
        inputs += [outputs.NamedFile("the targets' file", file) for file in job.targets.files()]
    outputs.require_distinct([outputs.NamedFile("--proof", proof)], inputs)


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


def _rate(options: VerifyOptions, job: Job | None, targets: Targets, path: Path) -> float:
    """Return the rate of this command, in calls per second.

    Raises UsageError, and ManifestLockedError if another process is running and the operator gave no ``--rate``.
    """
    try:
        rate = None if options.rate is None else read_rate(options.rate)
    except ValueError as error:
        raise UsageError(f"--rate: {error}") from None
    limits = Limits() if job is None else job.limits
    if options.reopen or not is_locked(path):
        return limits.rate if rate is None else rate
    theirs = limits.rate if targets.rate is None else targets.rate
    if rate is None:
        raise ManifestLockedError(
            f"{path}: a process is running, and its limit of {theirs:g}/s does not cover this one: wait for it to end, "
            "or give the additional calls per second with --rate"
        )
    say(f"a process is running at up to {theirs:g}/s: together with {rate:g}/s of this one up to {theirs + rate:g}/s")
    return rate


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


async def _verify(
    options: VerifyOptions, job: Job | None, targets: Targets, *, path: Path, rate: float
) -> tuple[Verification, Verifier]:
    settings = None if targets.header.simulated else settings_of(options, job, targets, path)
    async with server_of_run(options, settings, path=path, rate=rate) as server:
        plan = None if job is None else await read_plan(job, targets, server)
        return await read_back(targets, plan, server, path=path)


async def read_back(
    targets: Targets, plan: Plan | None, server: Server, *, path: Path
) -> tuple[Verification, Verifier]:
    """Verify over an open server connection; ``path``: that of the manifest."""
    header, began, before = targets.header, time.time(), server.gate.calls
    client = await server.client()
    query_api = QueryApi(client)
    identity = await query_api.identity()
    found = Verification(
        header.job,
        header.run,
        header.endpoint,
        str(path),
        f"zclone {__version__}",
        began,
        server_version=None if client.version is None else ".".join(map(str, client.version)),
        account=None if identity.account is None else identity.account.uuid,
        is_admin=identity.is_admin,
        plan_digest="" if targets.plan is None else targets.plan.digest,
        shard="" if targets.plan is None else targets.plan.shard,
        has_intent=plan is not None,
    )
    verifier = Verifier(targets, plan, found, identity=identity, readback=CloneReader(client), query_api=query_api)
    lines = list(targets.deleting.values())
    verifier.pending = await find_pending(lines, ServiceChanges(client), server.clock, api_timeout=targets.api_timeout)
    await verifier.run()
    found.ended_at, found.calls = time.time(), server.gate.calls - before
    return found, verifier


def settings_of(options: VerifyOptions, job: Job | None, targets: Targets, path: Path) -> Settings:
    """Return the settings, whose endpoint must be the manifest's. Raises UsageError."""
    found = read_settings(options.endpoint, None if job is None else job.endpoint)
    say_warnings(found.warnings)
    if found.settings.url != targets.header.endpoint:
        raise ManifestMismatchError(
            f"{path}: is of {targets.header.endpoint!r}, but the settings name {found.settings.url!r}"
        )
    return found.settings


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
