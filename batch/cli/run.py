"""``zclone run``: from a job file to an exit code, step by step."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from asyncio import to_thread
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Final

import structlog

from batch import __version__
from batch.cli import interpreter, logs, outside, signals
from batch.cli.again import reopen
from batch.cli.choice import chosen
from batch.cli.clock import SystemClock
from batch.cli.done import settled_before
from batch.cli.handing import hand_over, is_left
from batch.cli.outcome import ending, outcome
from batch.cli.planning import check_version, drafted, planned, server_of
from batch.cli.preparation import Asked, Prepared, prepare, warn
from batch.cli.terminal import say
from batch.cli.told import ToldJournal
from batch.cli.tracing import Tracing, configured_tracer
from batch.engine import Stop, clone_all
from batch.engine.survey import Survey, refuse_changes, survey
from batch.errors import ExitCode, JobFileError, RunStoppedError, UsageError, ZcloneError
from batch.manifest import Header, open_manifest
from batch.progress import Board, heartbeat, live, new_view, silent
from batch.zstack.hints import apart
from batch.zstack.settings import transport_warnings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from batch.cli.outcome import Outcome
    from batch.cli.server import Server
    from batch.engine import Gate
    from batch.manifest import Manifest
    from batch.model import Plan
    from batch.zstack.client import Client

EMBEDDED: Final = "embedded node"
"""What a rehearsal's manifest names as its endpoint: the port is another one each time."""


def run(asked: Asked) -> ExitCode:
    """Run or go on, and return what happened. Raises ZcloneError where nothing could be begun."""
    signals.forbid_core_dumps()
    outside.check(asked)
    outside.ping(asked.ping_url, "start")
    code = ExitCode.BROKEN
    try:
        code = _run_logged(asked)
    except ZcloneError as error:
        code = error.exit_code
        raise
    finally:
        outside.ping(asked.ping_url, str(int(code)))
    return code


def _run_logged(asked: Asked) -> ExitCode:
    console = logs.live_console(asked.progress)
    with logs.logging_to(asked.log_file, style=asked.log_format, above=console):
        prepared = prepare(asked, console)
        try:
            found = settled_before(prepared, _header(prepared))
            reason = None
            if found is None:
                with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                    found, reason = runner.run(_run(prepared))
            return _told(prepared, found, reason=reason)
        finally:
            outside.leave_files(prepared.path, asked)


async def _run(prepared: Prepared) -> tuple[Outcome, str | None]:
    stop = Stop()
    with signals.obeyed(_on_signal(stop)):
        return await _run_until(stop, prepared)


async def _run_until(stop: Stop, prepared: Prepared) -> tuple[Outcome, str | None]:
    """Return what the run came to, and why it ended early.

    Whatever walks the whole plan or manifest does so in a thread: a signal is answered at once meanwhile.
    """
    header = _header(prepared)
    if prepared.asked.again is not None and not prepared.path.exists():
        raise UsageError(f"{prepared.path}: there is no manifest, so nothing was run that could be tried again")
    # A job file that cannot be used leaves no manifest behind.
    first = None if prepared.path.exists() else await to_thread(drafted, prepared, header.created_at)
    manifest = await to_thread(open_manifest, prepared.path, header)
    manifest.admitted = () if prepared.settings is None else transport_warnings(prepared.settings)
    code, reason = ExitCode.BROKEN, None
    try:
        warn(manifest.warnings)
        async with server_of(prepared, stop=stop) as server:
            plan = await planned(prepared, manifest, server, first=first)
            plan = await to_thread(chosen, plan, only=prepared.asked.only, shard=prepared.asked.shard)
            if prepared.asked.again is not None:
                await reopen(manifest, plan, prepared.asked.again)
            reason = await _settle_all(prepared, plan, manifest, server=server, stop=stop)
        with _inputs_found_good():
            found = await to_thread(outcome, plan, manifest.past)
        code = found.exit_code
    except ZcloneError as error:
        code, reason = error.exit_code, str(error)
        raise
    finally:
        await manifest.close(code, reason)
    return found, reason


@contextmanager
def _inputs_found_good() -> Iterator[None]:
    """Make what is wrong with them now, because somebody changed them, an unfinished run: of 2 nothing was sent."""
    try:
        yield
    except JobFileError as changed:
        raise RunStoppedError(str(changed)) from None


def _told(prepared: Prepared, found: Outcome, *, reason: str | None) -> ExitCode:
    code = found.exit_code
    structlog.get_logger().info("run.ended", exit_code=int(code), reason=reason)
    if reason:
        say(f"stopped early: {reason}")
    say(ending(prepared.path, found, again=_same_command()))
    return code


async def _settle_all(prepared: Prepared, plan: Plan, manifest: Manifest, *, server: Server, stop: Stop) -> str | None:
    """Do what is left to do; why the run ended early, None where it did not."""
    found = await to_thread(survey, plan, manifest.past)
    if not prepared.asked.accept_changes:
        refuse_changes(found.changed)
    if found.changed:
        # What was made is not what the files say now: a rerun must not take it for finished by the files alone.
        plan = replace(plan, inputs="")
    is_done = found.is_nothing_left and not await to_thread(is_left, plan, manifest.past)
    if is_done or stop.requested:
        return stop.reason
    client = await server.client()
    await to_thread(check_version, prepared, manifest, client.version)
    with _inputs_found_good():
        return await _clone(prepared, plan, manifest, found, client=client, gate=server.gate, stop=stop)


async def _clone(
    prepared: Prepared, plan: Plan, manifest: Manifest, found: Survey, *, client: Client, gate: Gate, stop: Stop
) -> str | None:
    past, clock = manifest.past, SystemClock()
    board = Board(
        plan.count,
        counts=lambda: past.counts,
        calls=lambda: gate.calls,
        limit=prepared.limits.rate,
        monotonic=clock.monotonic,
        apart=apart,
    )
    await manifest.write_plan(plan, (pair for pair in plan.listing() if not past.is_planned(pair[0])))
    structlog.get_logger().info("run.started", targets=plan.count, rate=prepared.limits.rate)
    interpreter.tune()
    try:
        async with _seen(prepared, plan, manifest, board=board) as journal:
            await clone_all(
                plan,
                found,
                api=client,
                journal=journal,
                past=past,
                clock=clock,
                limits=prepared.limits,
                stop=stop,
                at_most_once=prepared.asked.at_most_once,
            )
            await hand_over(plan, manifest, client, workers=prepared.limits.concurrency, stop=stop)
    except RunStoppedError as stopped:
        if stopped.exit_code is not ExitCode.UNFINISHED:
            raise
        return str(stopped)
    return stop.reason


@asynccontextmanager
async def _seen(prepared: Prepared, plan: Plan, manifest: Manifest, *, board: Board) -> AsyncIterator[ToldJournal]:
    """Show the run in every way that was asked for; what is written to the journal tells log, view and tracing."""
    past, tracing = manifest.past, Tracing(configured_tracer(), job=plan.job, run=plan.run)
    metrics = outside.metrics_kept(prepared.asked.metrics_file, job=plan.job, counts=lambda: past.counts)
    with tracing:
        async with _view(prepared, board), metrics:
            yield ToldJournal(manifest, failed=board.fail, settled=tracing.settled, open_before=past.intents.values())


def _view(prepared: Prepared, board: Board) -> AbstractAsyncContextManager[None]:
    if prepared.console is not None:
        return live(board, new_view(prepared.console))
    return silent() if prepared.asked.progress == "none" else heartbeat(board)


def _header(prepared: Prepared) -> Header:
    settings = prepared.settings
    return Header(
        job=prepared.job.name,
        run=prepared.identity,
        endpoint=EMBEDDED if settings is None else settings.url,
        simulated=settings is None,
        tool=f"zclone {__version__}",
        created_at=time.time() if prepared.asked.saved is None else prepared.asked.saved.started_at,
        job_file=str(prepared.asked.job),
    )


def _on_signal(stop: Stop) -> Callable[[str], None]:
    def ask(name: str) -> None:
        say(f"{name}: no more is sent, what is in flight settles (up to 30 s); once more leaves at once")
        stop.request(name)

    return ask


def _same_command() -> str:
    return shlex.join(["zclone", *sys.argv[1:]])


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop where the extra [speed] brought it; None: asyncio's own."""
    try:
        return import_module("uvloop").new_event_loop  # type: ignore[no-any-return]
    except ImportError:
        return None
