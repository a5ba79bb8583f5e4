"""``zclone doctor``: read-only checks of settings, server, credentials, permission, Temporal and a job file."""

from __future__ import annotations

import time
from shlex import quote
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.app.options import Engine
from batch.app.run_plan import fetch_pins
from batch.app.server import Server, say_warnings
from batch.app.server_checks import read_inventories, read_resources
from batch.errors import ExitCode, JobFileError, ZcloneError
from batch.jobfile import load
from batch.plan import Planning
from batch.settings.reader import read_settings
from batch.text import escape
from batch.zstack.params import BODY_PARAMS, too_new
from batch.zstack.queries import QueryApi

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from batch.jobfile import Job
    from batch.plan import Draft
    from batch.settings.sources import EndpointOptions
    from batch.temporal.worker import Poller, WorkerIdentity
    from batch.zstack.client import Client
    from batch.zstack.settings import Settings

_CHECK_RATE: Final = 5.0
MAX_SKEW: Final = 60.0
"""Clock skew in seconds from which signed requests and deadlines are affected."""
_CLONE: Final = "APICloneModelServiceMsg"
_SHOWN: Final = 5
"""Number of job file problems that are shown."""
_MAX_SILENCE: Final = 70.0
"""Seconds without a poll after which a worker counts as gone; each polls at least once a minute."""


class Diagnosis(NamedTuple):
    """One line of ``zclone doctor``'s output."""

    verdict: str
    """``ok``, ``warn`` or ``FAIL``."""
    what: str
    detail: str
    exit_code: ExitCode = ExitCode.OK
    """The exit code that this finding causes."""

    def __str__(self) -> str:
        return f"{self.verdict:<5}{self.what}: {self.detail}"


async def examine(
    job: Path | None, options: EndpointOptions, engine: Engine = Engine.LOCAL
) -> AsyncIterator[Diagnosis]:
    """Yield findings as they are known; with ``job``, use its endpoint too and check its plan.

    ``engine``: whether to check Temporal and the endpoint's workers too.
    """
    try:
        loaded = load(job) if job else None
        found = read_settings(options, loaded.endpoint if loaded else None)
    except ZcloneError as error:
        yield Diagnosis("FAIL", "settings", str(error), error.exit_code)
        return
    yield Diagnosis("ok", "settings", _describe(found.settings))
    for text in found.warnings:
        yield Diagnosis("warn", "settings", text)
    async for finding in _examine_endpoint(found.settings, options, loaded):
        yield finding
    if engine is Engine.TEMPORAL:
        async for finding in examine_temporal(options.environ, found.settings.url):
            yield finding


async def _examine_endpoint(settings: Settings, options: EndpointOptions, job: Job | None) -> AsyncIterator[Diagnosis]:
    try:
        async with Server(settings, rate=_CHECK_RATE, environ=options.environ, warn_of=say_warnings) as server:
            client = await server.client()
            yield Diagnosis("ok", "reachable, credentials accepted", settings.url)
            async for finding in _examine_server(client):
                yield finding
            if job is not None:
                async for finding in _examine_job(job, server):
                    yield finding
    except ZcloneError as error:
        what = "settings" if error.exit_code is ExitCode.USAGE else "server"
        yield Diagnosis("FAIL", what, str(error), error.exit_code)


async def _examine_job(job: Job, server: Server) -> AsyncIterator[Diagnosis]:
    """Yield in short whether everything that the job file names exists; ``plan`` shows the details."""
    try:
        async for finding in _check_plan(Planning(job, run=None, started_at=time.time()).draft(), server):
            yield finding
    except JobFileError as error:
        for problem in error.problems[:_SHOWN]:
            yield Diagnosis("FAIL", "job file", str(problem), ExitCode.USAGE)
        if len(error.problems) > _SHOWN:
            rest = f"{len(error.problems) - _SHOWN} more problems: zclone plan {quote(str(job.path))} shows them"
            yield Diagnosis("FAIL", "job file", rest, ExitCode.USAGE)


async def _check_plan(draft: Draft, server: Server) -> AsyncIterator[Diagnosis]:
    client = await server.client()
    query_api = QueryApi(client)
    pins = await fetch_pins(draft, server)
    plan = draft.finish(pins)
    sources = await read_inventories(plan, query_api)
    warnings: list[str] = []
    resources = await read_resources(plan, sources.by_uuid, query_api, warn_of=warnings.append)
    found = draft.planning.answer(pins).check(version=client.version, absent=sources.absent, resources=resources)
    warnings += map(str, found)
    for text in warnings[:_SHOWN]:
        yield Diagnosis("warn", "job file", text)
    if len(warnings) > _SHOWN:
        yield Diagnosis("warn", "job file", f"{len(warnings) - _SHOWN} more warnings")
    if not warnings:
        yield Diagnosis("ok", "job file", f"{plan.count} clones, and everything they refer to exists")


def _describe(settings: Settings) -> str:
    kind = type(settings.auth).__name__.removesuffix("Auth").lower()
    return f"{settings.url}, {kind}" + (", certificate NOT checked" if settings.insecure else "")


async def _examine_server(client: Client) -> AsyncIterator[Diagnosis]:
    query_api = QueryApi(client)
    yield _version_finding(client.version)
    apis = await query_api.support_apis()
    if apis and not any(name.endswith(_CLONE) for name in apis):
        missing = "this server does not have it: AIOS is missing or too old"
        yield Diagnosis("FAIL", "CloneModelService", missing, ExitCode.UNREACHABLE)
    else:
        yield Diagnosis("ok", "CloneModelService", "known to the server" if apis else "the server lists no APIs")
    match await query_api.check_permission():
        case True:
            yield Diagnosis("ok", "permission", "allowed")
        case False:
            yield Diagnosis("FAIL", "permission", "this account may not clone", ExitCode.UNREACHABLE)
        case None:
            yield Diagnosis("warn", "permission", "unknown")
    yield _clock_finding(await query_api.server_time(), time.time())


def _version_finding(version: tuple[int, int, int] | None) -> Diagnosis:
    if version is None:
        return Diagnosis("warn", "version", "the server does not report it")
    text = ".".join(map(str, version))
    missing = too_new(BODY_PARAMS, version)
    if not missing:
        return Diagnosis("ok", "version", f"{text}, has every parameter")
    return Diagnosis("warn", "version", f"{text}, too old for {', '.join(missing)}")


def _clock_finding(theirs: float | None, ours: float) -> Diagnosis:
    if theirs is None:
        return Diagnosis("warn", "clock", "the server does not report it")
    skew = theirs - ours
    verdict = "ok" if abs(skew) <= MAX_SKEW else "warn"
    return Diagnosis(verdict, "clock", f"the server's is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}")


async def examine_temporal(environ: Mapping[str, str], endpoint: str) -> AsyncIterator[Diagnosis]:
    """Yield findings about Temporal and the workers of an endpoint."""
    from batch.app.temporal import connect_temporal

    try:
        connection = await connect_temporal(environ)
        key = f"encrypted with the key {connection.keys[0]}" if connection.keys else "not encrypted"
        yield Diagnosis("ok", "Temporal", f"{connection.address}, namespace {connection.namespace}, payloads {key}")
        from batch.temporal.worker import find_pollers

        for finding in _worker_findings(await find_pollers(connection, endpoint), connection.keys):
            yield finding
    except ZcloneError as error:
        yield Diagnosis("FAIL", "Temporal", str(error), error.exit_code)


def _worker_findings(found: Sequence[Poller], keys: Sequence[str]) -> Iterator[Diagnosis]:
    from batch.temporal.payloads import mismatch

    now = time.time()
    workers = []
    for poller in found:
        silence = max(0.0, now - poller.seen_at)
        if silence > _MAX_SILENCE:
            continue
        if poller.identity is None:
            yield Diagnosis("warn", "worker", f"{escape(poller.text)} takes tasks but is not a worker of this zclone")
            continue
        workers.append(poller.identity)
        yield Diagnosis("ok", "worker", f"{escape(str(poller.identity))}; last poll {silence:.0f} s ago")
        wrong = mismatch(keys, poller.identity.keys, escape(poller.identity.name))
        if wrong is not None:
            yield Diagnosis("FAIL", "key", wrong, ExitCode.USAGE)
    yield _share_finding(workers)


def _share_finding(workers: Sequence[WorkerIdentity]) -> Diagnosis:
    """Return a finding on whether the workers' shares add up to their rate."""
    if not workers:
        detail = "no worker takes tasks of this endpoint: start one with zclone worker --rate N/s --share K/N"
        return Diagnosis("FAIL", "workers", detail, ExitCode.UNREACHABLE)
    rates = sorted({one.rate for one in workers})
    if len(rates) > 1:
        detail = f"the rates differ: {', '.join(f'{rate:g}/s' for rate in rates)}: use the same --rate for all"
        return Diagnosis("FAIL", "rate", detail, ExitCode.USAGE)
    total = sum(one.share for one in workers)
    detail = f"those of {len(workers)} workers add up to {total} of {rates[0]:g}/s"
    if total > 1:
        detail += ", above the rate: restart them with shares that add up to 1 (one that ended is listed for a minute)"
        return Diagnosis("FAIL", "shares", detail, ExitCode.USAGE)
    if total < 1:
        return Diagnosis("warn", "shares", f"{detail}: the rest of the rate is not used")
    return Diagnosis("ok", "shares", detail)
