"""Random runs rolled back by the real code over the embedded node, while processes die, calls fail and others work.

Each DELETE is checked at the moment it is sent: it must be recorded, and nothing may speak against it that the server
would have shown ten seconds ago. At the end, without faults, what is left must be what ought to be.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from dataclasses import dataclass, field
from math import inf
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from batch.app import rollback
from batch.app.run_access import LockedRun
from batch.engine import Stop
from batch.engine.control import DeadlineGate
from batch.errors import RunStoppedError
from batch.manifest import Header, open_manifest
from batch.manifest.files import Disk
from batch.manifest.kinds import ConnectedLine
from batch.manifest.targets import open_targets
from batch.model import CallKind, Clone, Limits, Plan, Record, State
from batch.plan import regenerate, resource_uuid
from batch.plan.identity import clone_digest, encode_body
from batch.simulator.faults import Fault, FaultKind, FaultRule
from batch.simulator.node import Node
from batch.simulator.options import ADMIN_UUID, SESSION, NodeOptions
from batch.simulator.wire import Drop, Later, Request, Response
from batch.zstack.answers import NOT_ADMITTED, NoAnswer, NotSent
from batch.zstack.client import Client
from batch.zstack.settings import SessionAuth, Settings
from batch.zstack.wire import HttpReply
from tests.simulation.process import Killed, Process
from tests.simulation.virtual import EPOCH, VirtualClock, VirtualLoop, end_tasks, virtual_gate

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from pathlib import Path

    from batch.app.rollback import RollbackResult
    from batch.manifest import Manifest
    from batch.zstack.wire import Outcome

_Result = TypeVar("_Result")

JOB: Final = "j"
SOURCE: Final = "d" * 32
KINDS: Final = (
    *["plain"] * 6,
    "foreign",
    "open",
    "unrecorded",
    "changed",
    "touched",
    "used",
    "edited",
    "removed",
    "gone",
    "renewed",
    "spoiled",
    "spoiled",
)
"""The kinds of targets; ``spoiled``: it is changed, or comes into use, during the rollback."""
OURS: Final = frozenset({"plain", "renewed", "gone", "spoiled"})
"""Those that neither record nor server protects from deletion, at first."""
FRESH: Final = 10.5
"""Seconds: a lookup may be ten old, and its answer was under way."""
_PATIENCE: Final = 30.0
_LIVES: Final = 5
"""Processes; the last one is disturbed only by what others do."""
_FAULTS: Final = (
    FaultKind.DROP,
    FaultKind.LOST_REPLY,
    FaultKind.LATE,
    FaultKind.DELAYED,
    FaultKind.TWICE,
    FaultKind.ORPHAN,
    FaultKind.RESULT_LOST,
    FaultKind.ROW_MISSING,
    FaultKind.PURGED,
    FaultKind.RESTART,
    FaultKind.PROXY,
)


@dataclass
class Target:
    """A target of the run, and the fate of its clone."""

    key: str
    kind: str
    generation: int
    spoiled_at: float = inf
    """Virtual seconds from which a lookup shows why it must not be deleted."""

    @property
    def uuid(self) -> str:
        return resource_uuid(JOB, "default", self.key, generation=self.generation)

    def clone(self, *, cpu: int = 2) -> Clone:
        """Return the request that made it, or with another ``cpu`` the one of an edited job file."""
        uuid = self.uuid
        body = encode_body({"name": self.key, "requestCpu": cpu, "resourceUuid": uuid}, (), ())
        digest = clone_digest(SOURCE, body)
        return Clone(self.key, SOURCE, uuid, body, digest, {"name": self.key, "requestCpu": cpu})


@dataclass
class World:
    """The node, the manifest, and everybody at work on them."""

    random: Random
    path: Path
    loop: VirtualLoop
    targets: list[Target] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        options = NodeOptions(seed=self.random.randrange(1 << 30), latency=(0.05, 2.0), locale="en_US", utc_offset=0.0)
        self.node = Node(options, now=EPOCH)

    @property
    def now(self) -> float:
        return self.loop.now

    def receive(self, request: Request) -> Response | Drop | Later | None:
        """Pass a request to the node; None if it is down."""
        at = EPOCH + self.now
        return None if at < self.node.down_until else self.node.receive(request, at)

    def row_is_there(self, uuid: str) -> bool:
        return self.node._context.resources.find_service(uuid) is not None

    def is_occupied(self, uuid: str) -> bool:
        return uuid in self.node._context.resources.rows

    def tamper(self, **order: object) -> None:
        self.node.tamper(dict(order), EPOCH + self.now)

    def make(self, target: Target) -> None:
        """Let the node make a clone."""
        headers = {"authorization": f"OAuth {SESSION}", "x-job-uuid": f"{self.random.getrandbits(128):032x}"}
        path = f"/zstack/v1/ai/model-services/{SOURCE}"
        self.receive(Request("POST", path, (), headers, target.clone().body))
        self.node.drain()
        assert self.row_is_there(target.uuid)

    def spoil(self, target: Target) -> None:
        """Let somebody change a clone, or start something on it."""
        if not self.row_is_there(target.uuid):
            return
        target.spoiled_at = self.now
        if self.random.random() < 0.5:
            self.tamper(groups={target.uuid: [f"{self.random.getrandbits(128):032x}"]})
        else:
            self.tamper(change={target.uuid: {"requestCpu": 9}})


class Http:
    """The Transport of one process: what it has sent arrives even if the process is killed first."""

    def __init__(self, world: World, process: Process, gate: DeadlineGate) -> None:
        self._world = world
        self._process = process
        self._gate = gate

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        kind: CallKind = CallKind.QUESTION,
        job_uuid: str = "",
    ) -> Outcome:
        if not await self._gate.wait(kind, job_uuid):
            return NOT_ADMITTED
        self._process.step("call")
        world, parts = self._world, urlsplit(path)
        named = {name.lower(): value for name, value in (headers or {}).items()}
        query = tuple(parse_qsl(parts.query, keep_blank_values=True))
        request = Request(method, "/zstack" + unquote(parts.path), query, named, body or b"")
        if method == "DELETE":
            watch(world, request)
        inbox: list[Response | Drop | Later | None] = []
        world.loop.call_later(there := 0.001 + 0.05 * world.random.random() ** 3, _deliver, world, request, inbox)
        return await self._answer(inbox, there)

    async def _answer(self, inbox: list[Response | Drop | Later | None], there: float) -> Outcome:
        await self._wait(there + 1e-6)
        delivery = inbox[0]
        if isinstance(delivery, Later):
            await self._wait(min(max(0.0, delivery.due - EPOCH - self._world.now) + 1e-6, _PATIENCE))
            delivery = delivery.outcome or Drop()
        if delivery is None:
            return NotSent("connection refused")
        await self._wait(min(delivery.delay + 0.01, _PATIENCE))
        if isinstance(delivery, Drop) or delivery.cut is not None:
            return NoAnswer("the connection was lost")
        return HttpReply(delivery.status, delivery.body)

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._world.node.advance(EPOCH + self._world.now)
        self._process.step("network")

    async def close(self) -> None:
        """Nothing is open."""


def _deliver(world: World, request: Request, inbox: list[Response | Drop | Later | None]) -> None:
    inbox.append(world.receive(request))


def watch(world: World, request: Request) -> None:
    """Check a DELETE at the moment it is sent."""
    uuid, job = request.path.rpartition("/")[2], request.headers["x-job-uuid"]
    target = next((one for one in world.targets if one.uuid == uuid), None)
    if target is None:
        world.problems.append(f"{uuid} is deleted, and is no clone of this run")
        return
    if target.kind not in OURS:
        world.problems.append(f"{target.key} is deleted, and is {target.kind}")
    if target.spoiled_at < world.now - FRESH:
        world.problems.append(f"{target.key} is deleted {world.now - target.spoiled_at:.1f} s after it was spoiled")
    if not any(line.get("job_uuid") == job and line.get("deleting") == target.key for line in lines(world.path)):
        world.problems.append(f"{target.key} is deleted, and that is not on record")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    yield from map(json.loads, path.read_bytes().splitlines())


def make_world(random: Random, path: Path, loop: VirtualLoop) -> World:
    """Draw a run that has ended, and the fates of its clones since."""
    world = World(random, path, loop)
    for number in range(random.randint(3, 9)):
        kind = random.choice(KINDS)
        world.targets.append(Target(f"k{number}", kind, generation=int(kind == "renewed")))
    for target in world.targets:
        world.make(target)
    return world


async def write_run(world: World) -> None:
    """Write the manifest of the run that made the clones."""
    manifest = _open(world, Process())
    manifest.note_operation(ConnectedLine(EPOCH, ADMIN_UUID, 10.0))
    plan = Plan(JOB, "default", "0" * 32, len(world.targets), lambda: iter(()))
    await manifest.write_plan(plan, ((one.key, SOURCE) for one in world.targets))
    for target in world.targets:
        for record in _records(target):
            manifest.note(record)
    await manifest.close(0)


def _records(target: Target) -> Iterator[Record]:
    at, clone, kind = EPOCH, target.clone(), target.kind
    for generation in range(target.generation):
        uuid = resource_uuid(JOB, "default", target.key, generation=generation)
        yield Record(State.SENT, target.key, at, 1, SOURCE, uuid, "1" * 32, clone.digest, open_jobs=())
        yield Record(State.CLONED, target.key, at, 1, clone_uuid=uuid)
        yield Record(State.UNDONE, target.key, at, 1, resource_uuid=uuid, clone_uuid=uuid)
        yield Record(State.PLANNED, target.key, at, 0)
    if kind != "unrecorded":
        yield Record(State.SENT, target.key, at, 1, SOURCE, clone.resource_uuid, "2" * 32, clone.digest, open_jobs=())
    if kind != "open":
        foreign = True if kind == "foreign" else None
        yield Record(State.CLONED, target.key, at + 2, 1, clone_uuid=clone.resource_uuid, made_elsewhere=foreign)


def happen(world: World) -> None:
    """Let others be at work: before and during the rollback."""
    random, targets = world.random, world.targets
    world.tamper(delete=[one.uuid for one in targets if one.kind == "gone"])
    world.tamper(change={one.uuid: {"requestCpu": 7} for one in targets if one.kind == "changed"})
    world.tamper(change={one.uuid: {"description": "mine"} for one in targets if one.kind == "touched"})
    world.tamper(groups={one.uuid: [f"{random.getrandbits(128):032x}"] for one in targets if one.kind == "used"})
    for target in targets:
        if target.kind == "spoiled":
            world.loop.call_later(random.choice([0.5, 5.0, 20.0, 200.0]) * random.random(), world.spoil, target)


def plan_now(world: World) -> Plan:
    """Return the plan of the current job file."""
    kept = [one for one in world.targets if one.kind != "removed"]
    clones = [one.clone(cpu=4 if one.kind == "edited" else 2) for one in kept]
    return Plan(JOB, "default", "0" * 32, len(clones), lambda: iter(clones))


def _open(world: World, process: Process) -> Manifest:
    header = Header(JOB, "default", "http://node/zstack", simulated=False, tool="t", created_at=EPOCH)

    async def in_turn(work: Callable[[], None]) -> None:
        process.step("write")
        work()
        process.step("written")

    return open_manifest(world.path, header, files=QuickDisk(), in_thread=in_turn, clock=lambda: EPOCH + world.now)


async def inline(work: Callable[..., Any], *arguments: Any) -> Any:
    """Replace ``to_thread``, as there are no threads on a virtual loop; an answer takes a while."""
    result = work(*arguments)
    if isinstance(result, Agreement):
        await asyncio.sleep(result.seconds)
    return result


@dataclass(frozen=True)
class Agreement:
    """Yes, after some seconds."""

    seconds: float


class QuickDisk(Disk):
    """Keeps what is written as a killed process leaves it: nothing is cut, so nothing has to be synced."""

    def sync(self, handle: int) -> None:
        """Leave it to the kernel."""

    def sync_directory(self, path: Path) -> None:
        """Leave it to the kernel."""


async def roll_back(world: World, process: Process, *, faults: tuple[FaultRule, ...]) -> RollbackResult | None:
    """Let one process roll the run back; None if it was killed, or could not continue."""
    world.node.set_faults(NodeOptions(seed=world.random.randrange(1 << 30), faults=faults))
    manifest, clock = _open(world, process), VirtualClock(world.loop, world.random)
    gate = virtual_gate(world.random.choice([3.0, 10.0, 100.0]), world.loop)
    passage, settings = DeadlineGate(gate, clock), Settings("http://node/zstack", SessionAuth(SESSION))
    client = Client(settings, gate=passage, clock=clock, language="en", http=Http(world, process, passage))
    server = SimpleNamespace(client=_returns(client), clock=clock, gate=gate)
    stop, done, thought = Stop(), None, Agreement(world.random.choice([0.0, 0.0, 15.0, 100.0]))
    job = SimpleNamespace(limits=Limits(concurrency=world.random.choice([1, 3])))
    try:
        with open_targets(world.path) as targets:
            run = LockedRun(cast("Any", job), world.path, targets, manifest, cast("Any", server), stop)
            done = await rollback.roll_back_plan(run, plan_now(world), lambda _: cast("Any", thought))
    except RunStoppedError:
        pass
    finally:
        if process.alive:
            await manifest.close(4)
        else:
            # The kernel closes the files of a killed process, and releases its lock.
            manifest._writer.close()
    return done


def _returns(client: Client) -> Callable[[], Coroutine[None, None, Client]]:
    async def returned() -> Client:
        return client

    return returned


def draw_faults(random: Random) -> tuple[FaultRule, ...]:
    """Draw the faults of one process."""
    rules = []
    for kind in random.sample(_FAULTS, random.choice([0, 1, 2])):
        fault = Fault(kind, seconds=random.choice([0.5, 5.0, 40.0]), status=502)
        on = random.choice(["delete", "delete", "poll", "any"])
        rules.append(FaultRule(fault, on=on, probability=random.choice([0.1, 0.5]), times=4))
    return tuple(rules)


def check_end(world: World, done: RollbackResult | None) -> None:
    """Return what is wrong at the end of a process without faults."""
    say = world.problems.append
    if done is None or not done.is_done:
        say("a rollback that nothing disturbs comes to no end")
        return
    with open_targets(world.path) as targets:
        generations = regenerate(plan_now(world), targets.undone)
        for target in world.targets:
            ordinal = targets.find(target.key)
            assert ordinal is not None
            is_undone = targets.read(ordinal).state is State.UNDONE
            is_there = world.row_is_there(target.uuid)
            if is_undone and is_there:
                say(f"{target.key} is undone, and is there")
            if target.kind in OURS and target.spoiled_at == inf and not is_undone:
                say(f"{target.key} is {target.kind}, and is not undone")
            if is_there and target.key not in {**done.left, **done.unknown}:
                say(f"{target.key} is there, and is not named")
        for clone in generations.clones():
            state = targets.read(cast("int", targets.find(clone.key))).state
            if state is State.UNDONE and world.is_occupied(clone.resource_uuid):
                say(f"{clone.key} is to be made anew as {clone.resource_uuid}, which is occupied")


def broken_promises(seed: int, path: Path) -> list[str]:
    """Play one schedule and return the broken promises."""
    path.unlink(missing_ok=True)
    random, loop = Random(seed), VirtualLoop()
    world = make_world(random, path, loop)
    with pytest.MonkeyPatch.context() as patch, closing(loop):
        patch.setattr(rollback, "to_thread", inline)
        _live(loop, write_run(world))
        _live(loop, asyncio.sleep(60.0))
        happen(world)
        for life in range(1, _LIVES + 1):
            is_last = life == _LIVES
            process = Process(die_at=None if is_last else random.randint(1, 80))
            # The last process comes when no DELETE of an earlier one can be executed any more.
            _live(loop, asyncio.sleep(4_000.0 if is_last else random.choice([0.1, 5.0, 60.0, 2_500.0])))
            world.node.advance(EPOCH + world.now)
            faults = () if is_last else draw_faults(random)
            done = _live(loop, roll_back(world, process, faults=faults))
            if is_last:
                check_end(world, done)
            elif random.random() < 0.3:
                world.node.restart(EPOCH + world.now, seconds=1.0)
    return world.problems


def _live(loop: VirtualLoop, work: Coroutine[None, None, _Result]) -> _Result | None:
    """Run to the end, or to the process's; what is under way arrives all the same."""
    try:
        return loop.run_until_complete(work)
    except Killed:
        return None
    finally:
        end_tasks(loop)
