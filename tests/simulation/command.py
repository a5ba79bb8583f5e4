"""``zclone run`` as the simulation starts it: wired like the command line's, with the parts of the World."""

from __future__ import annotations

import asyncio
import os
import socket
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from unittest.mock import patch

from batch.app.outcome import EarlyEnd, tally, unfinished_once_sent
from batch.app.selection import has_no_open_job, select
from batch.engine import Stop, clone_all
from batch.engine.control import GRACE
from batch.engine.survey import refuse_changes, refuse_taken, survey
from batch.errors import EndReason, ExitCode, RunStoppedError, ZcloneError
from batch.manifest import open_manifest
from batch.model import QUARANTINED, Record, State
from batch.report.figures import REFUSED, exit_code
from batch.zstack.client import Client
from batch.zstack.settings import PasswordAuth, Settings
from tests.simulation.disk import ProcessFiles
from tests.simulation.manifest_reader import HEADER, URL, intents, known_states, proven, records
from tests.simulation.network import SimHttp
from tests.simulation.observed import WatchedApi, WatchedJournal
from tests.simulation.process import Killed
from tests.simulation.virtual import VirtualClock, VirtualLoop, run_virtual, virtual_gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from batch.engine import Gate
    from batch.engine.survey import Survey
    from batch.engine.webhooks import WebHooks
    from batch.manifest import Manifest
    from batch.model import Plan
    from tests.simulation.process import Process
    from tests.simulation.world import World


@dataclass
class Ended:
    """How a process ended."""

    code: int | None
    """Exit code; None: killed."""
    counts: Mapping[State, int] = field(default_factory=dict)
    """The plan's targets by state."""
    reason: str | None = None
    """Why it ended early, as text."""
    code_of_reason: EndReason | None = None
    at: float = 0.0
    """When its targets were counted, by the clock of its machine."""


def run_process(world: World, process: Process) -> Ended:
    """Run one process of the command from start to end, or until it is killed."""
    return run_processes(world, process)[0]


def run_processes(world: World, *processes: Process) -> list[Ended]:
    """Run several at once on one machine; when one is killed, all are."""
    loop = VirtualLoop(world.now)
    for process in processes:
        process.clock = loop.time
        process.wall = VirtualClock(loop, world.random, error=lambda: world.clock_error).time

    async def together() -> list[Ended]:
        return list(await asyncio.gather(*(_command(world, process, loop) for process in processes)))

    world.say(f"start {len(processes)}")
    # What a process records of its machine must not differ between two runs of one seed.
    with patch.object(os, "getpid", lambda: 4711), patch.object(socket, "gethostname", lambda: "sim"):
        try:
            ended = run_virtual(loop, together())
        except Killed:
            ended = [Ended(None) for _ in processes]
    for process, end in zip(processes, ended, strict=True):
        process.alive = False
        world.now = max(world.now, loop.now)
        data = world.manifest(process.manifest)
        world.say(f"end {end.code} after {process.steps} steps, manifest {len(data)} {zlib.crc32(data):08x}")
        world.witness.ended(process, end.code)
    return ended


async def _command(world: World, process: Process, loop: VirtualLoop) -> Ended:
    await asyncio.sleep(process.starts_after)
    clock = VirtualClock(loop, world.random, error=lambda: world.clock_error)
    if process.clock_set is not None:
        loop.call_later(process.clock_set[0], world.set_clock, process.clock_set[1])
    try:
        manifest = _open(world, process, clock)
    except ZcloneError as error:
        return Ended(error.exit_code, {}, str(error))
    data = world.manifest(process.manifest)
    world.witness.opened(process, intents(data), is_proven=proven(data, world.clones))
    try:
        return await _use(world, process, loop, clock, manifest)
    except ZcloneError as error:
        return Ended(error.exit_code, {}, str(error))


async def _use(world: World, process: Process, loop: VirtualLoop, clock: VirtualClock, manifest: Manifest) -> Ended:
    """As batch.app.run: the manifest is closed in any case, with the matching exit code."""
    code: int = ExitCode.BROKEN
    early = EarlyEnd()
    counts: Mapping[State, int] = {}
    try:
        whole = world.plan()
        plan = select(whole, only=process.only, shard=None)
        manifest.past.is_at_most_once |= process.at_most_once
        process.is_at_most_once = manifest.past.is_at_most_once
        early = await _settle_all(world, process, loop, manifest, plan, whole=whole)
        now, is_refused = clock.time(), early.reason in REFUSED
        counts, overdue = tally(plan, manifest.past, now=now, is_refused=is_refused, is_part=bool(process.only))
        code = exit_code(counts, reason=early.reason, overdue=overdue)
    except ZcloneError as error:
        code, early = error.exit_code, EarlyEnd(str(error), error.reason)
        raise
    finally:
        if process.alive:
            await manifest.close(code, early.text, code=early.reason)
    return Ended(code, counts, *early, at=now)


def _reopened(world: World, process: Process, plan: Plan, clock: VirtualClock) -> list[Record]:
    """As in batch.app.selection: quarantined targets are queried again, failed ones are as if nothing had been sent."""
    opened, in_plan = [], {clone.key for clone in plan.clones()}
    for record in {record.key: record for record in records(world.manifest(process.manifest))}.values():
        if record.key not in in_plan:
            continue
        if process.reopens and record.state is State.UNCERTAIN and record.error_code == QUARANTINED:
            opened.append(Record(State.UNCERTAIN, record.key, clock.time(), record.attempt, retried=True))
        if process.retries and record.state in {State.FAILED, State.CONFLICT}:
            code = record.error_code
            opened.append(Record(State.PLANNED, record.key, clock.time(), 0, error_code=code, retried=True))
    return opened


def _changes(world: World, process: Process, manifest: Manifest, whole: Plan, clock: VirtualClock) -> Iterator[Record]:
    """As batch.app.selection: what left the job file with no attempt open is withdrawn, and planned once it is back."""
    in_file, intents = {key for key, _ in whole.listing()}, manifest.past.intents
    for key, state in known_states(world.manifest(process.manifest)).items():
        is_unmade = state in {State.PLANNED, State.UNCERTAIN} and has_no_open_job(intents.get(key))
        if is_unmade and key not in in_file:
            yield Record(State.WITHDRAWN, key, clock.time())
        elif state is State.WITHDRAWN and key in in_file:
            yield Record(State.PLANNED, key, clock.time())


async def _note_all(journal: WatchedJournal, manifest: Manifest, noted: Iterable[Record]) -> None:
    for record in noted:
        journal.note(record)
    await manifest.flush()


async def _settle_all(
    world: World, process: Process, loop: VirtualLoop, manifest: Manifest, plan: Plan, *, whole: Plan
) -> EarlyEnd:
    past, clock = manifest.past, VirtualClock(loop, world.random, error=lambda: world.clock_error)
    journal = WatchedJournal(manifest, world.witness, process)
    found = survey(plan, past, whole=whole)
    refuse_taken(found.taken)
    if not process.accepts_changes:
        refuse_changes(found.changed)
    if found.changed or found.outdated:
        plan = replace(plan, inputs="")
    if past.is_at_most_once and past.plain.is_last:
        manifest.begin()
    again = _reopened(world, process, plan, clock)
    if found.is_nothing_left and not again:
        await _note_all(journal, manifest, list(_changes(world, process, manifest, whole, clock)))
        return EarlyEnd()
    stop = Stop()
    if process.stop_after is not None:
        loop.call_later(process.stop_after, stop.request, "signal", EndReason.SIGNAL)
    gate = virtual_gate(world.limits.rate, loop)
    stop.on_request(lambda: gate.stop(GRACE))
    http = SimHttp(world, process, gate, loop)
    settings = Settings(URL, PasswordAuth("admin", "password"))
    client = Client(settings, gate=gate, clock=clock, language="en", http=http)
    hooks = None if world.hooks is None else world.hooks.open(process, client, gate.polls, loop)
    try:
        with unfinished_once_sent(manifest):
            await client.preflight()
        changes = [*_changes(world, process, manifest, whole, clock), *again]
        await _note_all(journal, manifest, changes)
        if changes:
            found = survey(plan, past, whole=whole)
        return await _clone(
            world,
            process,
            manifest,
            plan,
            found,
            api=WatchedApi(client, world.witness, process),
            gate=gate,
            stop=stop,
            clock=clock,
            hooks=hooks,
        )
    finally:
        if process.alive:
            gate.stop(0.0)
            await client.close()


async def _clone(
    world: World,
    process: Process,
    manifest: Manifest,
    plan: Plan,
    found: Survey,
    *,
    api: WatchedApi,
    gate: Gate,
    stop: Stop,
    clock: VirtualClock,
    hooks: WebHooks | None,
) -> EarlyEnd:
    past = manifest.past
    new = ((clone.key, clone.source_uuid) for clone in plan.clones() if not past.is_planned(clone.key))
    await manifest.write_plan(plan, new)
    try:
        await clone_all(
            plan,
            found,
            api=api,
            journal=WatchedJournal(manifest, world.witness, process),
            past=past,
            clock=clock,
            limits=world.limits,
            stop=stop,
            polls=gate.polls,
            hooks=hooks,
            at_most_once=past.is_at_most_once,
        )
    except RunStoppedError as stopped:
        return EarlyEnd(str(stopped), stopped.reason)
    return EarlyEnd(stop.reason, stop.code)


def _open(world: World, process: Process, clock: VirtualClock) -> Manifest:
    async def in_thread(work: Callable[[], None]) -> None:
        process.require_alive()
        await asyncio.sleep(0.0005 + 0.002 * world.random.random())
        process.step("thread")
        work()

    files = ProcessFiles(world.disk, process)
    return open_manifest(process.manifest, HEADER, files=files, in_thread=in_thread, clock=clock.time)
