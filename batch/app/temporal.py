"""Access to Temporal with the operator's settings and keys, and ``zclone worker``, which makes calls of its runs."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch import outputs
from batch.app.messages import language, say
from batch.app.process import loop_factory, on_signal
from batch.app.server import say_pause, say_warnings
from batch.clock import SystemClock
from batch.engine import Gate, Stop, hard_cap
from batch.engine.control import DeadlineGate
from batch.errors import EndReason, ExitCode, UsageError, ZcloneError
from batch.jobfile.values import read_rate
from batch.progress.views import BEAT, run_periodically
from batch.redaction import SECRETS
from batch.report.metrics import worker_metrics
from batch.settings.files import read_secret
from batch.settings.reader import read_settings
from batch.settings.sources import TEMPORAL_KEY_FILE
from batch.zstack import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from batch.settings.sources import EndpointOptions
    from batch.temporal.command import OpenRun
    from batch.temporal.worker import Connection
    from batch.zstack.settings import Settings

_INSTALL: Final = "pip install 'zclone[temporal]'"
_PACKAGES: Final = frozenset({"temporalio", "cryptography"})
_KEY: Final = re.compile("[0-9a-fA-F]{64}")


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
        from batch.temporal.worker import open_connection
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


def run_worker(endpoint: EndpointOptions, *, rate: str, share: str, metrics_file: Path | None) -> ExitCode:
    """Work until a signal arrives. Raises UsageError, and UnreachableError if ZStack or Temporal is unreachable."""
    whole, part = _rate_of(rate), _share_of(share)
    found = read_settings(endpoint)
    say_warnings(found.warnings)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_work(found.settings, endpoint.environ, rate=whole, share=part, metrics_file=metrics_file))
    return ExitCode.OK


async def _work(
    settings: Settings, environ: Mapping[str, str], *, rate: float, share: Fraction, metrics_file: Path | None
) -> None:
    temporal = await connect_temporal(environ)
    from batch.temporal.worker import work

    stop, clock = Stop(), SystemClock()
    gate = Gate(rate * share, cap=hard_cap(rate * share), clock=clock, paused=say_pause)
    with on_signal(lambda name: _end(stop, name)):
        client = await connect(
            settings, gate=DeadlineGate(gate, clock), clock=clock, language=language(environ), secrets=SECRETS
        )
        async with client, _write_metrics(metrics_file, gate, rate=rate * share):
            say_warnings(client.warnings)
            await client.preflight()
            await work(
                temporal,
                client,
                rate=rate,
                share=share,
                stop=stop,
                ready=lambda queue: say(
                    f"ready: {queue}, {rate * share:.4g} of {rate:g} calls/s, by {temporal.address}", level="info"
                ),
            )


def _end(stop: Stop, name: str) -> None:
    say(f"{name}: stopping, waiting up to 30 s for calls in progress; a second signal exits at once", level="info")
    stop.request(name, EndReason.SIGNAL)


def _rate_of(text: str) -> float:
    try:
        return read_rate(text)
    except ValueError as error:
        raise UsageError(f"--rate: {error}") from None


def _share_of(text: str) -> Fraction:
    """Parse a fraction such as 1/3, above 0 and up to 1. Raises UsageError."""
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share <= 1:
        raise UsageError(f"--share: must be a fraction above 0 and up to 1, such as 1/3, not {text!r:.40}")
    return share


@asynccontextmanager
async def _write_metrics(file: Path | None, gate: Gate, *, rate: float) -> AsyncIterator[None]:
    if file is None:
        yield
        return

    def write() -> None:
        try:
            texts = worker_metrics(calls=gate.calls, rate=rate, at=time.time())
            outputs.replace(file, texts, mode=outputs.PUBLIC)
        except ZcloneError as error:
            say(f"zclone: {error}")

    async with run_periodically(write, 0.0, BEAT):
        yield
