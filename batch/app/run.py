"""``zclone run`` and ``retry``: from a job file to an exit code, step by step."""

from __future__ import annotations

import asyncio
import time
from asyncio import to_thread
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from batch import log
from batch.app.logs import log_to
from batch.app.manifest import accept_manifest, close_run, finished_result, open_run, run_alone
from batch.app.messages import say, warn
from batch.app.observe import observe
from batch.app.options import Engine
from batch.app.outcome import (
    EarlyEnd,
    read_result,
    stop_text,
    success_text,
    summary_text,
    unfinished_by_inputs,
    unfinished_once_sent,
)
from batch.app.prepare import prepare
from batch.app.process import listen, loop_factory, on_signal
from batch.app.reports import ping, require_usable_outputs, write_outputs
from batch.app.run_plan import check_version, draft_new_run, make_plan
from batch.app.selection import (
    find_remaining_work,
    record_edits,
    record_edits_and_retries,
    record_shard,
    require_match,
    select,
)
from batch.app.server import describe_connection, make_server
from batch.engine import Stop, clone_all
from batch.engine.admission import wave_sizes
from batch.engine.control import Controls, before_stop
from batch.engine.survey import describe_outdated, keep_outdated
from batch.errors import EndReason, ExitCode, RunStoppedError, ZcloneError
from batch.model import State

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from batch.app.options import RunOptions
    from batch.app.outcome import RunResult
    from batch.app.prepare import Setup
    from batch.app.remote import Remote
    from batch.app.server import Server
    from batch.engine.poll_schedule import PollSchedule
    from batch.engine.ports import Api
    from batch.engine.survey import Survey
    from batch.engine.webhooks import WebHooks
    from batch.manifest import Manifest
    from batch.model import Plan
    from batch.plan import Draft
    from batch.zstack.client import Client


def run_job(options: RunOptions) -> ExitCode:
    """Start or resume a run and return its exit code. Raises ZcloneError if it could not start."""
    require_usable_outputs(options)
    ping(options.ping_url, "start")
    code = ExitCode.BROKEN
    try:
        code = run_alone(options.on_overlap, lambda: _run(prepare(options)))
    except ZcloneError as error:
        code = error.exit_code
        raise
    finally:
        ping(options.ping_url, str(int(code)))
    return code


def _run(setup: Setup) -> ExitCode:
    options = setup.options
    with log_to(options.log_file, style=options.log_format, above=setup.console, is_quiet=options.is_quiet):
        log.bind(job=setup.job.name, run=setup.identity)
        warn(setup.warnings)
        with write_outputs(setup.path, options):
            result = finished_result(setup)
            if result is None:
                with asyncio.Runner(loop_factory=loop_factory()) as runner:
                    result = runner.run(_run_until_stop(setup))
            return _summarise(setup, result)


@dataclass(slots=True)
class _Engine:
    """The engine of the run, once known."""

    remote: Remote | None = None
    """None if this process is the engine."""
    manifest: Manifest | None = None
    """None until it is open."""


async def _run_until_stop(setup: Setup) -> RunResult:
    stop, loop, deadline = Stop(), asyncio.get_running_loop(), None
    if setup.limits.deadline is not None:
        deadline = loop.time() + setup.limits.deadline
        loop.call_at(deadline, stop.request, "the deadline has passed", EndReason.DEADLINE)
    engine = _Engine()
    with on_signal(partial(_stop, setup, stop, engine)):
        return await _run_manifest(setup, stop, engine, deadline=deadline)


def _stop(setup: Setup, stop: Stop, engine: _Engine, signal: str) -> None:
    counts = {} if engine.manifest is None else engine.manifest.past.counts
    say(stop_text(setup, signal, counts, is_local=engine.remote is None))
    stop.request(signal, EndReason.SIGNAL)


async def _run_manifest(setup: Setup, stop: Stop, engine: _Engine, *, deadline: float | None) -> RunResult:
    """Plan, open the manifest, execute the remaining work, and always close the manifest.

    ``engine`` receives the run on Temporal, if there is one. ``deadline``: in the loop's time. Walks of the whole plan
    or manifest run in a thread, so that signals are handled meanwhile.
    """
    draft = await to_thread(draft_new_run, setup)
    manifest = await open_run(setup)
    engine.manifest = manifest
    code, early, result = ExitCode.BROKEN, EarlyEnd(), None
    try:
        with unfinished_once_sent(manifest):
            engine.remote = await _find_remote(setup, manifest)
            result = await _run_plan(setup, manifest, stop, remote=engine.remote, draft=draft, deadline=deadline)
        code, early = result.exit_code, result.early
    except ZcloneError as error:
        code, early = error.exit_code, EarlyEnd(str(error), error.reason)
        raise
    finally:
        await close_run(setup, manifest, code, early, result=result)
    return result


async def _find_remote(setup: Setup, manifest: Manifest) -> Remote | None:
    """Return the run on Temporal; None if this process is its engine."""
    options = setup.options
    if manifest.past.remote is None and options.engine is not Engine.TEMPORAL and not options.cancel:
        return None
    from batch.app.remote import find_remote

    return await find_remote(setup, manifest)


async def _run_plan(
    setup: Setup,
    manifest: Manifest,
    stop: Stop,
    *,
    remote: Remote | None,
    draft: Draft | None,
    deadline: float | None,
) -> RunResult:
    options = setup.options
    warn(manifest.warnings)
    await accept_manifest(manifest, by_flag=options.adopt_manifest)
    async with make_server(setup, stop=stop) as server:
        if manifest.past.undone.deleting:
            from batch.app.deletions import settle_deletions

            await before_stop(settle_deletions(manifest, server), stop)
        before = manifest.past.counts[State.CLONED]
        whole = await before_stop(make_plan(setup, manifest, server, draft=draft), stop)
        if whole is None:
            raise RunStoppedError(f"stopped before anything was sent: {stop.reason}", stop.code)
        await to_thread(require_match, whole, options.only)
        plan = await to_thread(select, whole, only=options.only, shard=options.shard)
        if remote is not None:
            from batch.app.remote import clone_remotely

            early = await clone_remotely(setup, plan, manifest, whole=whole, remote=remote, stop=stop)
        else:
            early = await _clone_rest(setup, plan, manifest, whole=whole, server=server, stop=stop, deadline=deadline)
    with unfinished_by_inputs():
        result = await to_thread(read_result, plan, manifest.past, early, is_part=bool(options.only))
        outdated = await to_thread(keep_outdated, manifest.past.outdated, plan, manifest.past)
    made_before = describe_outdated(outdated, is_strict=False)
    warn([] if made_before is None else [made_before])
    return replace(result, made=manifest.past.counts[State.CLONED] - before)


async def _clone_rest(
    setup: Setup,
    plan: Plan,
    manifest: Manifest,
    *,
    whole: Plan,
    server: Server,
    stop: Stop,
    deadline: float | None,
) -> EarlyEnd:
    """Execute the remaining work of ``plan``, a part of ``whole``; return why the run ended early, if it did.

    ``deadline``: in the loop's time; the pool gets only the time that is left of it.
    """
    rest = await find_remaining_work(setup.options, plan, manifest, whole=whole)
    plan = rest.plan
    if rest.is_done or stop.requested:
        await record_edits(manifest, whole)
        await record_shard(manifest, rest)
        return EarlyEnd(stop.reason, stop.code)
    client = await before_stop(server.client(), stop)
    rate = setup.limits.rate
    connection = None if client is None else await before_stop(describe_connection(client, rate=rate), stop)
    if client is None or connection is None:
        return EarlyEnd(stop.reason, stop.code)
    if deadline is not None:
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        setup = replace(setup, limits=replace(setup.limits, deadline=left))
    await to_thread(check_version, setup, manifest, client.version)
    # Write nothing before all checks have passed.
    manifest.note_operation(connection)
    found = await record_edits_and_retries(manifest, rest, whole)
    with unfinished_by_inputs():
        return await _clone(setup, plan, manifest, found, server=server, client=client, stop=stop)


async def _clone(
    setup: Setup, plan: Plan, manifest: Manifest, survey: Survey, *, server: Server, client: Client, stop: Stop
) -> EarlyEnd:
    """Reconcile open clones, settle the rest and hand over the finished ones."""
    past, limits = manifest.past, setup.limits
    await manifest.write_plan(plan, (pair for pair in plan.listing() if not past.is_planned(pair[0])))
    structlog.get_logger().info("run.started", targets=plan.count, rate=limits.rate)
    controls = Controls(server.gate, stop, rate=limits.rate, concurrency=limits.concurrency)
    calls = lambda: server.gate.calls  # noqa: E731 - too short for a def
    try:
        async with (
            _web_hooks(setup, client, server.gate.polls) as hooks,
            observe(
                setup, plan, manifest, survey, calls=calls, rate=limits.rate, stop=stop, controls=controls
            ) as journal,
            listen(setup, manifest, controls, stop=stop, calls=calls, waves=wave_sizes(limits.waves, plan.count)),
        ):
            await clone_all(
                plan,
                survey,
                api=await _api(client, manifest),
                journal=journal,
                past=past,
                clock=server.clock,
                limits=limits,
                stop=stop,
                polls=server.gate.polls,
                hooks=hooks,
                controls=controls,
                at_most_once=past.is_at_most_once,
            )
            if plan.hand_overs:
                from batch.app.ownership import hand_over

                await hand_over(plan, manifest, client, journal=journal, workers=controls.concurrency, stop=stop)
    except RunStoppedError as stopped:
        return EarlyEnd(str(stopped), stopped.reason)
    return EarlyEnd(stop.reason, stop.code)


async def _api(client: Client, manifest: Manifest) -> Api:
    if not manifest.past.intents:
        return client
    from batch.app.ownership import api_of_account

    return await api_of_account(client, manifest)


def _web_hooks(setup: Setup, client: Client, polls: PollSchedule) -> AbstractAsyncContextManager[WebHooks | None]:
    if setup.web_hook is None:
        return nullcontext()
    from batch.app.webhook import web_hooks

    return web_hooks(setup.web_hook, client, polls)


def _summarise(setup: Setup, result: RunResult) -> ExitCode:
    code, early = result.exit_code, result.early
    structlog.get_logger().info("run.ended", exit_code=int(code), reason=early.text, reason_code=early.reason)
    log.flush()  # The summary must be the last output.
    if early.text:
        say(f"stopped early: {early.text}")
    text = summary_text(setup, result)
    if code is ExitCode.OK:
        text += f"\n{success_text(setup, result, seconds=time.time() - setup.began)}"
    say(text, level="info" if code is ExitCode.OK else "warning")
    return code
