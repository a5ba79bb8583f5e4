"""The world around the engine in one thread and one seed: node, network, disk, and processes that die in it.

The engine, plan digests, manifest, gate and client are the real ones; only the socket, the disk, the clock and chance
are ours. Same seed, same trace, byte for byte.
"""

from __future__ import annotations

import asyncio
import heapq
import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from batch.engine import Gate, Stop, clone_all
from batch.errors import RunStoppedError, ZcloneError
from batch.manifest import Header, Manifest, open_manifest
from batch.model import Clone, Limits, Plan, State
from batch.simulator.node import Node
from batch.simulator.options import NodeOptions
from batch.simulator.wire import Drop, Later, Reply, Request
from batch.zstack.answers import NoAnswer, NotSent
from batch.zstack.client import Client
from batch.zstack.settings import PasswordAuth, Settings
from batch.zstack.wire import Reply as ClientReply
from tests.simulation.disk import ProcessFiles, SimDisk
from tests.simulation.process import Killed, Process
from tests.simulation.virtual import EPOCH, VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batch.zstack.wire import Outcome

MANIFEST = Path("/sim/job.manifest.jsonl")
"""Only a name on the simulated disk."""
BASE = "/zstack"
"""The node's context path."""
CLIENT_TIMEOUT = 30.0


def planned(count: int) -> list[Clone]:
    """``count`` Clones with bodies of their own, as plan.expand shapes them."""
    made = []
    for number in range(count):
        uuid = f"{number + 1:012x}4abc8{number + 1:015x}"
        params = {"name": f"clone-{number}", "requestCpu": 4, "resourceUuid": uuid}
        body = json.dumps({"params": params}, separators=(",", ":")).encode()
        made.append(Clone(f"t{number}", f"{number + 1:032x}", uuid, body, f"{number + 1:032x}", params))
    return made


@dataclass
class World:
    """Everything that outlives a process."""

    seed: int
    clones: list[Clone]
    options: NodeOptions
    limits: Limits = field(default_factory=lambda: Limits(rate=50.0, concurrency=4, timeout=20.0))
    now: float = 0.0
    trace: list[str] = field(default_factory=list)
    disk: SimDisk = field(default_factory=SimDisk)
    broken: list[str] = field(default_factory=list)
    """Invariants found broken while something happened."""

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.node = Node(self.options, now=EPOCH)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0

    def say(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now:.6f} {text}")

    def at(self, due: float, action: Callable[[], None]) -> None:
        """Do something at a time, whether or not the process that asked for it still lives."""
        self._order += 1
        heapq.heappush(self._agenda, (due, self._order, action))

    def advance(self, now: float) -> None:
        """Let everything due happen."""
        while self._agenda and self._agenda[0][0] <= now:
            due, _, action = heapq.heappop(self._agenda)
            self.now = max(self.now, due)
            self.node.advance(EPOCH + self.now)
            action()
        self.now = max(self.now, now)
        self.node.advance(EPOCH + self.now)

    def plan(self) -> Plan:
        """What the job asks for."""
        return Plan("sim", "default", "0" * 32, len(self.clones), lambda: iter(self.clones), "inputs")


class SimHttp:
    """Stands for the socket: latency, and requests that arrive although their sender died."""

    def __init__(self, world: World, process: Process, gate: Gate, loop: VirtualLoop) -> None:
        self._world = world
        self._process = process
        self._gate = gate
        self._loop = loop

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        sends_clone: bool = False,
    ) -> Outcome:
        if not sends_clone:
            await self._gate.wait()
        elif not await self._gate.wait_to_send():
            return NotSent("the run stopped sending", is_held_back=True)
        self._process.step(f"call {method}")
        world = self._world
        if sends_clone:
            self._check_record(headers or {}, body or b"")
        inbox: list[Reply | Drop | Later | None] = []
        there, back = (0.001 + 0.05 * world.random.random() ** 3 for _ in range(2))
        request = self._request(method, path, body, headers)
        world.at(self._loop.time() + there, lambda: inbox.append(self._deliver(request)))
        return await self._answer(inbox, there, back)

    def _deliver(self, request: Request) -> Reply | Drop | Later | None:
        """Hand the request to the node, dead sender or not; None where nobody listens."""
        world = self._world
        if EPOCH + world.now < world.node.down_until:
            return None
        delivery = world.node.receive(request, EPOCH + world.now)
        world.say(f"{request.method} {request.path} -> {_shown(delivery)}")
        return delivery

    def _request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None) -> Request:
        parts = urlsplit(path)
        named = {name.lower(): value for name, value in (headers or {}).items()}
        if body is not None:
            named["content-type"] = "application/json;charset=UTF-8"
        query = tuple(parse_qsl(parts.query, keep_blank_values=True))
        return Request(method, BASE + unquote(parts.path), query, named, body or b"")

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._world.advance(self._loop.time())
        self._process.step("network")

    async def _answer(self, inbox: list[Reply | Drop | Later | None], there: float, back: float) -> Outcome:
        await self._wait(there + 1e-9)
        delivery = inbox[0]
        if delivery is None:
            return NotSent("connection refused")
        if isinstance(delivery, Later):
            wait = delivery.due - EPOCH - self._loop.time()
            await self._wait(min(max(0.0, wait) + 1e-6, CLIENT_TIMEOUT))
            delivery = delivery.outcome
        if delivery is None:
            return NoAnswer("no answer in time")
        if isinstance(delivery, Drop):
            await self._wait(min(delivery.delay, CLIENT_TIMEOUT))
            return NoAnswer("the connection was lost")
        await self._wait(min(delivery.delay + back, CLIENT_TIMEOUT))
        if delivery.delay >= CLIENT_TIMEOUT:
            return NoAnswer("no answer in time")
        if delivery.cut is not None:
            return NoAnswer("the answer broke off")
        named = {name.lower(): value for name, value in delivery.headers}
        return ClientReply(delivery.status, delivery.body, None, named.get("retry-after"))

    def _check_record(self, headers: Mapping[str, str], body: bytes) -> None:
        """No POST without a record of the same J and R on the synced prefix, and none after a failed write."""
        job = headers["X-Job-UUID"]
        uuid = json.loads(body)["params"]["resourceUuid"]
        file = self._world.disk.files.get(MANIFEST)
        synced = file.synced if file is not None and file.is_named else b""
        lines = [line for line in synced.splitlines() if job.encode() in line and b'"sent"' in line]
        if not any(uuid.encode() in line for line in lines):
            self._world.broken.append(f"POST {job} without a durable record")
        if self._loop.time() > self._process.poisoned_at:
            self._world.broken.append(f"POST {job} after the journal failed")

    async def close(self) -> None:
        return None


@dataclass
class Ended:
    """How a process ended."""

    status: str
    """done, stopped, killed or error."""
    counts: Mapping[State, int] = field(default_factory=dict)
    error: str = ""


def run_process(world: World, process: Process, *, stop_after: float | None = None) -> Ended:
    """One incarnation of the command from start to end, or to its death."""
    loop = VirtualLoop(world.now)
    clock = VirtualClock(loop, world.random)
    process.clock = loop.time
    world.say("start")
    try:
        return run_virtual(loop, _command(world, process, loop, clock, stop_after))
    except Killed:
        return Ended("killed")
    finally:
        process.alive = False
        world.now = max(world.now, loop.now)
        world.say(f"end after {process.steps} steps")


async def _command(
    world: World, process: Process, loop: VirtualLoop, clock: VirtualClock, stop_after: float | None
) -> Ended:
    stop = Stop()
    if stop_after is not None:
        loop.call_later(stop_after, stop.request, "signal")
    try:
        manifest = _open(world, process, clock)
    except ZcloneError as error:
        return Ended("error", {}, str(error))
    gate = Gate(world.limits.rate, clock=clock)
    stop.on_request(gate.stop_sending)
    client = _client(world, process, gate, loop, clock)
    status, told = "done", ""
    try:
        try:
            await _clone(world, client, manifest, clock, stop)
        except RunStoppedError as stopped:
            status, told = "stopped", str(stopped)
        await client.close()
        await manifest.close(0)
    except ZcloneError as error:
        status, told = "error", str(error)
    if stop.requested and status == "done":
        status = "stopped"
    return Ended(status, dict(manifest.past.counts), told)


async def _clone(world: World, client: Client, manifest: Manifest, clock: VirtualClock, stop: Stop) -> None:
    plan = world.plan()
    await manifest.write_plan(plan, ((clone.key, clone.source_uuid) for clone in plan.clones()))
    await client.preflight()
    await clone_all(plan, api=client, journal=manifest, past=manifest.past, clock=clock, limits=world.limits, stop=stop)


def _open(world: World, process: Process, clock: VirtualClock) -> Manifest:
    async def in_thread(work: Callable[[], None]) -> None:
        await asyncio.sleep(0.0005 + 0.002 * world.random.random())
        process.step("thread")
        work()

    header = Header("sim", "default", "http://node.example/zstack", simulated=False)
    return open_manifest(
        MANIFEST, header, files=ProcessFiles(world.disk, process), in_thread=in_thread, clock=clock.time
    )


class _ClientClock(VirtualClock):
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _client(world: World, process: Process, gate: Gate, loop: VirtualLoop, clock: VirtualClock) -> Client:
    settings = Settings("http://node.example/zstack", PasswordAuth("admin", "password"))
    own = _ClientClock(loop, world.random)
    return Client(settings, gate=gate, clock=own, language="en", http=SimHttp(world, process, gate, loop))


def _shown(delivery: Reply | Drop | Later) -> str:
    if isinstance(delivery, Reply):
        return f"{delivery.status} {delivery.body[:200]!r} {delivery.delay:.6f} {delivery.cut}"
    return f"{type(delivery).__name__}"


__all__ = ["Ended", "World", "planned", "run_process"]
