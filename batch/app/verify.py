"""``zclone verify``: read a run's clones back, compare them with the job file, and find services with its tags only."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from batch import __version__, outputs
from batch.app.deletions import find_pending, open_jobs_of, undone_record
from batch.app.embedded_node import node_state
from batch.app.logs import log_to
from batch.app.manifest import accept_manifest, lock_manifest
from batch.app.messages import say, warn
from batch.app.options import LogFormat
from batch.app.outcome import unfinished_once_sent
from batch.app.run_access import (
    VerifyOptions,
    find_run,
    next_command,
    read_plan,
    require_same_job,
    server_of_run,
    settings_of,
)
from batch.app.verifier import Verifier
from batch.errors import ExitCode, ManifestLockedError, UsageError
from batch.jobfile.values import read_rate
from batch.keytable import KeyTable
from batch.manifest import is_locked
from batch.manifest.targets import open_targets
from batch.model import Limits
from batch.plan import RunTags
from batch.report.filters import read_shard
from batch.report.proof import proof_texts
from batch.report.verification import TAGS, Finding, Verdict, Verification
from batch.zstack.calls import UUIDS_A_QUERY, CloneReader, ServiceChanges
from batch.zstack.queries import QueryApi
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from batch.app.server import Server
    from batch.jobfile import Job
    from batch.manifest.target_state import TargetState
    from batch.manifest.targets import Targets
    from batch.model import Plan

_NAMED: Final = 5
_UNMADE: Final = frozenset({Verdict.FAILED, Verdict.CONFLICT, Verdict.WITHDRAWN, Verdict.UNDONE})


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
    may_appear: tuple[str, ...] = ()
    """Keys of those of which the server may still execute an earlier attempt; asked about only to reopen."""
    is_reopened: bool = False
    """Whether these are recorded as undone."""

    def reopen_refusal(self) -> str | None:
        """Return why nothing would be recorded as undone, if so."""
        if self.found.exit_code is ExitCode.UNFINISHED:
            return "nothing is recorded while clones are open or unknown; continue the run, or verify as admin"
        if self.may_appear:
            keys = ", ".join(self.may_appear[:_NAMED])
            return (
                f"nothing is recorded while an earlier attempt to make {keys} may still be executing; try again later"
            )
        return None if self.missing else "nothing is missing"


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
        found, verifier, may_appear = await _verify(options, job, targets, path=path, rate=rate)
        if options.proof is not None:
            outputs.replace(options.proof, proof_texts(found, targets, verifier.verdict), mode=outputs.PRIVATE)
        missing = tuple(_find_missing(targets, verifier))
        return VerifyResult(found, path, next_command(job, targets, path), missing, tuple(sorted(may_appear)))


def _find_missing(targets: Targets, verifier: Verifier) -> Iterator[TargetState]:
    by_ordinal = ((ordinal, verifier.verdict(ordinal)) for ordinal in range(len(targets)))
    return (targets.read(ordinal) for ordinal, verdict in by_ordinal if verdict is Verdict.MISSING)


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
        with unfinished_once_sent(manifest):
            verified = await _verify_file(options, job, path)
        if confirm(verified) and verified.reopen_refusal() is None:
            verified = replace(verified, is_reopened=True)
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


async def _verify(
    options: VerifyOptions, job: Job | None, targets: Targets, *, path: Path, rate: float
) -> tuple[Verification, Verifier, set[str]]:
    settings = None if targets.header.simulated else settings_of(options, job, targets, path)
    async with server_of_run(options, settings, path=path, rate=rate) as server:
        plan = None if job is None else await read_plan(job, targets, server)
        found, verifier = await read_back(targets, plan, server, path=path)
        jobs = open_jobs_of(_find_missing(targets, verifier)) if options.reopen else []
        changes = ServiceChanges(await server.client())
        return found, verifier, await find_pending(jobs, changes, server.clock, api_timeout=targets.api_timeout)


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
    readback = CloneReader(client)
    verifier = Verifier(targets, plan, found, identity=identity, readback=readback, query_api=query_api)
    lines = list(targets.deleting.values())
    verifier.pending = await find_pending(lines, ServiceChanges(client), server.clock, api_timeout=targets.api_timeout)
    await verifier.run()
    if header.tag:
        await _add_extra_services(found, targets, readback, verifier)
    found.ended_at, found.calls = time.time(), server.gate.calls - before
    return found, verifier


async def _add_extra_services(found: Verification, targets: Targets, readback: CloneReader, verifier: Verifier) -> None:
    """Add to ``found`` the services that carry a tag of the run but are not its clones: duplicates and extras."""
    try:
        extra = await _find_extra_services(targets, readback, verifier.verdict)
    except CallFailedError as error:
        extra = [Finding(Verdict.UNKNOWN, TAGS, detail=str(error))]
    found.findings += extra
    found.counts.update(finding.verdict for finding in extra)


async def _find_extra_services(
    targets: Targets, readback: CloneReader, verdict: Callable[[int], Verdict]
) -> list[Finding]:
    """Query all tags of the run and return the services that should have none; ``verdict``: by target ordinal.

    Raises CallFailedError.
    """
    tags = RunTags(targets.header.job, targets.header.run)
    ordinals = KeyTable()
    for ordinal in range(len(targets)):
        ordinals.put(hash(tags.of(targets.read(ordinal).key)), ordinal)
    suspects: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    async for uuid, tag in readback.tags_with_prefix(tags.prefix):
        known = ordinals.get(hash(tag))
        if known is None or uuid != targets.read(known).clone_uuid or verdict(known) in _UNMADE:
            suspects[-1 if known is None else known, tag].append(uuid)
    visible = await _visible(readback, [uuid for uuids in suspects.values() for uuid in uuids])
    findings: list[Finding] = []
    for (ordinal, tag), uuids in suspects.items():
        there = sorted(visible & {*uuids})
        if ordinal < 0:
            findings += _extra(targets, tags, tag, there)
        else:
            findings += _second(targets, ordinal, verdict(ordinal), there)
    return findings


async def _visible(readback: CloneReader, uuids: Sequence[str]) -> set[str]:
    """Return the services that exist, since the tags of a deleted service may outlive it."""
    found: set[str] = set()
    for start in range(0, len(uuids), UUIDS_A_QUERY):
        found.update((await readback.services(uuids[start : start + UUIDS_A_QUERY])).by_uuid)
    return found


def _extra(targets: Targets, tags: RunTags, tag: str, uuids: Sequence[str]) -> Iterator[Finding]:
    """Yield the services whose tag names no target, unless the target may belong to another shard."""
    key, shard = tags.key_of(tag), "" if targets.plan is None else targets.plan.shard
    # A key's hash does not give its shard; only the merged manifest does.
    if not shard or (key is not None and read_shard(shard).matches(key)):
        for uuid in uuids:
            name = tag.removeprefix(tags.prefix)
            yield Finding(Verdict.EXTRA, name, clone_uuid=uuid, detail="its key is not in the manifest")


def _second(targets: Targets, ordinal: int, verdict: Verdict, uuids: Sequence[str]) -> Iterator[Finding]:
    """Yield the services that carry a target's tag but are not its clone."""
    target = targets.read(ordinal)
    if verdict in _UNMADE:
        for uuid in uuids:
            yield Finding(Verdict.EXTRA, target.key, target.source_uuid, uuid, detail=f"its target is {verdict}")
        return
    # An open target may have one service, even if the manifest does not have its uuid yet.
    for uuid in uuids[1:] if verdict is Verdict.OPEN else uuids:
        yield Finding(Verdict.DUPLICATE, target.key, target.source_uuid, uuid, detail=f"beside {target.clone_uuid}")
