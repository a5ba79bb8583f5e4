"""``zclone doctor``: settings, reachability, clock, credentials, version and permission, without changing anything."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import typer

from batch.cli import options
from batch.cli.terminal import emit
from batch.errors import ExitCode, ZcloneError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from batch.zstack.client import Client
    from batch.zstack.settings import Settings

RATE: Final = 5.0
MOST_SKEW: Final = 60.0
"""Seconds between the clocks after which signed requests and deadlines suffer."""
_CLONE: Final = "APICloneModelServiceMsg"


class Finding(NamedTuple):
    """One line of the examination."""

    verdict: str
    """``ok``, ``warn`` or ``FAIL``."""
    what: str
    detail: str


def doctor(
    job: options.OptionalJob = None, *, insecure: options.Insecure = False, context: options.Context = None
) -> None:
    """Check settings, reachability, credentials, the server's version, its clock and the permission to clone.

    Nothing is changed on the server; a session of its own is logged out again. With JOB, its endpoint counts too.
    """
    import asyncio

    raise typer.Exit(asyncio.run(_examined(job, insecure=insecure, context=context)))


async def _examined(job: Path | None, *, insecure: bool, context: str | None) -> ExitCode:
    from batch.cli.server import Server, say_warnings
    from batch.cli.settings import read_settings
    from batch.jobfile import load

    worst = ExitCode.OK
    try:
        found = read_settings(os.environ, job=load(job).endpoint if job else None, context=context, insecure=insecure)
        emit([_line(Finding("ok", "settings", _described(found.settings)))])
        emit(_line(Finding("warn", "settings", text)) for text in found.warnings)
        async with Server(found.settings, rate=RATE, tell=say_warnings) as server:
            client = await server.client()
            emit([_line(Finding("ok", "reachable, credentials accepted", found.settings.url))])
            async for finding in _findings(client):
                emit([_line(finding)])
                worst = ExitCode.UNREACHABLE if finding.verdict == "FAIL" else worst
    except ZcloneError as error:
        emit([_line(Finding("FAIL", "settings" if error.exit_code is ExitCode.USAGE else "server", str(error)))])
        return error.exit_code
    return worst


def _described(settings: "Settings") -> str:
    kind = type(settings.auth).__name__.removesuffix("Auth").lower()
    return f"{settings.url}, {kind}" + (", certificate NOT checked" if settings.insecure else "")


def _line(finding: Finding) -> str:
    return f"{finding.verdict:<5}{finding.what}: {finding.detail}"


async def _findings(client: "Client") -> "AsyncIterator[Finding]":
    from batch.zstack.surroundings import Surroundings

    surroundings = Surroundings(client)
    yield _of_version(client.version)
    apis = await surroundings.support_apis()
    if apis and not any(name.endswith(_CLONE) for name in apis):
        yield Finding("FAIL", "CloneModelService", "this server does not have it: AIOS is missing or too old")
    else:
        yield Finding("ok", "CloneModelService", "known to the server" if apis else "the server lists no APIs")
    may = await surroundings.check_permission()
    verdict, detail = {
        True: ("ok", "allowed"),
        False: ("FAIL", "this account may not clone"),
        None: ("warn", "unknown"),
    }[may]
    yield Finding(verdict, "permission", detail)
    yield _of_clock(await surroundings.server_time(), time.time())


def _of_version(version: tuple[int, int, int] | None) -> Finding:
    from batch.zstack.params import BODY_PARAMS
    from batch.zstack.version import too_new

    if version is None:
        return Finding("warn", "version", "the server does not tell it")
    text = ".".join(map(str, version))
    missing = too_new(BODY_PARAMS, version)
    if not missing:
        return Finding("ok", "version", f"{text}, has every parameter")
    return Finding("warn", "version", f"{text}, too old for {', '.join(missing)}")


def _of_clock(theirs: float | None, ours: float) -> Finding:
    if theirs is None:
        return Finding("warn", "clock", "the server does not tell it")
    skew = theirs - ours
    verdict = "ok" if abs(skew) <= MOST_SKEW else "warn"
    return Finding(verdict, "clock", f"the server's is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}")
