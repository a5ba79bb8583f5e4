"""Access to Temporal with the operator's settings and keys, and its checks for ``doctor``."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.app.diagnosis import Diagnosis
from batch.errors import ExitCode, UsageError, ZcloneError
from batch.redaction import SECRETS
from batch.settings.secret_files import read_secret
from batch.settings.sources import TEMPORAL_KEY_FILE
from batch.text import escape

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from batch.temporal.command import OpenRun
    from batch.temporal.connection import Connection, Poller, WorkerIdentity

_INSTALL: Final = "pip install 'zclone[temporal]'"
_PACKAGES: Final = frozenset({"temporalio", "cryptography"})
_KEY: Final = re.compile("[0-9a-fA-F]{64}")
_MAX_SILENCE: Final = 70.0
"""Seconds without a poll after which a worker counts as gone; each polls at least once a minute."""


@contextmanager
def needs_extra() -> Iterator[None]:
    """Turn an ImportError for the missing extra into a UsageError with the install command."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES:
            raise
        raise UsageError(f"Temporal needs the package {error.name}, which is not installed: {_INSTALL}") from None


async def connect_temporal(environ: Mapping[str, str]) -> Connection:
    """Connect according to the TEMPORAL_* variables, with the keys of ZCLONE_TEMPORAL_KEY_FILE.

    Raises UsageError for bad settings or a missing extra, UnreachableError for an unreachable server or namespace.
    """
    with needs_extra():
        from batch.temporal.connection import open_connection
    return await open_connection(environ, read_keys(environ), hide=SECRETS.add)


def read_keys(environ: Mapping[str, str]) -> tuple[bytes, ...]:
    """Return the payload keys, empty if ZCLONE_TEMPORAL_KEY_FILE is not set. Raises UsageError."""
    name = environ.get(TEMPORAL_KEY_FILE)
    if not name:
        return ()
    lines = read_secret(TEMPORAL_KEY_FILE, Path(name), environ).splitlines()
    texts = {number: line.strip() for number, line in enumerate(lines, 1) if line.strip()}
    SECRETS.add_all(texts.values())
    wrong = next((number for number, text in texts.items() if _KEY.fullmatch(text) is None), None if texts else 1)
    if wrong is not None:
        hint = "each line is 64 hex digits, as from openssl rand -hex 32"
        raise UsageError(f"{TEMPORAL_KEY_FILE}: {name}:{wrong}: not a key: {hint}")
    return tuple(map(bytes.fromhex, texts.values()))


async def find_open_runs(environ: Mapping[str, str], job: str) -> list[OpenRun]:
    """Return the open runs of a job on Temporal.

    Raises UsageError, and UnreachableError if Temporal does not answer.
    """
    connection = await connect_temporal(environ)
    from batch.temporal.command import open_runs

    return [one for one in await open_runs(connection) if one.job == job]


async def examine_temporal(environ: Mapping[str, str], endpoint: str) -> AsyncIterator[Diagnosis]:
    """Yield findings about Temporal and the workers of an endpoint."""
    try:
        connection = await connect_temporal(environ)
        key = f"encrypted with the key {connection.keys[0]}" if connection.keys else "not encrypted"
        yield Diagnosis("ok", "Temporal", f"{connection.address}, namespace {connection.namespace}, payloads {key}")
        from batch.temporal.connection import find_pollers

        for finding in _worker_findings(await find_pollers(connection, endpoint), connection.keys):
            yield finding
    except ZcloneError as error:
        yield Diagnosis("FAIL", "Temporal", str(error), error.exit_code)


def _worker_findings(found: Sequence[Poller], keys: Sequence[str]) -> Iterator[Diagnosis]:
    from batch.temporal.encryption import mismatch

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
