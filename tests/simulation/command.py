"""``zclone run`` as the simulation starts it: wired like the command line's, with the parts of the World."""

from __future__ import annotations

import asyncio
import os
import socket
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from unittest.mock import patch

from batch.cli.outcome import tally
from batch.engine import Gate, Stop, clone_all
from batch.engine.poison import SET_ASIDE
from batch.engine.survey import survey
from batch.errors import ExitCode, RunStoppedError, ZcloneError
from batch.manifest import open_manifest
from batch.model import Record, State
from batch.report.exits import exit_code
from batch.zstack.client import Client
from batch.zstack.settings import PasswordAuth, Settings
from tests.simulation.booked import HEADER, URL, intents
from tests.simulation.disk import ProcessFiles
from tests.simulation.network import SimHttp
from tests.simulation.process import Killed
from tests.simulation.virtual import VirtualClock, VirtualLoop, run_virtual
from tests.simulation.watched import WatchedApi, WatchedJournal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batch.manifest import Manifest
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
    """Why it ended early."""


def run_process(world: World, process: Process) -> Ended:
    """One incarnation of the command from start to end, or to its death."""
    return run_processes(world, process)[0]


def run_processes(world: World, *processes: Process) -> list[Ended]:
    """Several at once on one machine; when one is killed, all are."""
    loop = VirtualLoop(world.now)
    for process in processes:
        process.clock = loop.time
        process.wall = VirtualClock(loop, world.random, error=lambda: world.clock_error).time

    async def together() -> list[Ended]:
        return list(await asyncio.gather(*(_command(world, process, loop) for process in processes)))

    world.say(f"start {len(processes)}")
    # What a process writes of its machine must not differ between two runs of one seed.
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
    world.witness.opened(process, intents(world.manifest(process.manifest)))
    try:
        return await _use(world, process, loop, clock, manifest)
    except ZcloneError as error:
        return Ended(error.exit_code, {}, str(error))


async def _use(world: World, process: Process, loop: VirtualLoop, clock: VirtualClock, manifest: Manifest) -> Ended:
    """As batch.cli.run: the manifest is closed whatever happens, with the exit code it justifies."""
    code: int = ExitCode.BROKEN
    reason: str | None = None
    counts: Mapping[State, int] = {}
    try:
        reason = await _settle_all(world, process, loop, clock, manifest)
        counts = tally(world.plan(), manifest.past)
        code = exit_code(counts)
    except ZcloneError as error:
        code, reason = error.exit_code, str(error)
        raise
    finally:
        if process.alive:
            await manifest.close(code, reason)
    return Ended(code, counts, reason)


async def _settle_all(
    world: World, process: Process, loop: VirtualLoop, clock: VirtualClock, manifest: Manifest
) -> str | None:
    plan, past = world.plan(), manifest.past
    if process.reopens:
        for intent in past.intents.values():
            if intent.error_code == SET_ASIDE:
                manifest.note(Record(State.UNCERTAIN, intent.key, clock.time(), intent.attempt, retried=True))
    found = survey(plan, past)
    if found.is_nothing_left:
        return None
    stop = Stop()
    if process.stop_after is not None:
        loop.call_later(process.stop_after, stop.request, "signal")
    gate = Gate(world.limits.rate, clock=clock)
    stop.on_request(gate.stop_sending)
    http = SimHttp(world, process, gate, loop)
    settings = Settings(URL, PasswordAuth("admin", "password"))
    client = Client(settings, gate=gate, clock=clock, language="en", http=http)
    try:
        await client.preflight()
        new = ((clone.key, clone.source_uuid) for clone in plan.clones() if not past.is_planned(clone.key))
        await manifest.write_plan(plan, new)
        await clone_all(
            plan,
            found,
            api=WatchedApi(client, world.witness, process),
            journal=WatchedJournal(manifest, world.witness, process),
            past=past,
            clock=clock,
            limits=world.limits,
            stop=stop,
        )
    except RunStoppedError as stopped:
        if stopped.exit_code is not ExitCode.UNFINISHED:
            raise
        return str(stopped)
    finally:
        if process.alive:
            await client.close()
    return stop.reason


def _open(world: World, process: Process, clock: VirtualClock) -> Manifest:
    async def in_thread(work: Callable[[], None]) -> None:
        process.require_alive()
        await asyncio.sleep(0.0005 + 0.002 * world.random.random())
        process.step("thread")
        work()

    files = ProcessFiles(world.disk, process)
    return open_manifest(process.manifest, HEADER, files=files, in_thread=in_thread, clock=clock.time)
