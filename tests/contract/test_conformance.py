"""One contract in two environments: the served node over a socket, and the in-memory network of the simulation.

The real client plays every scenario in both; the answers must be the same, and must be those written here.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest

from batch.clock import SystemClock
from batch.errors import ZcloneError
from batch.model import Clone
from batch.simulator.faults import Fault, FaultKind, FaultRule
from batch.simulator.node import Node
from batch.simulator.options import SESSION, NodeAccessKey, NodeAccount, NodeOptions, Source
from batch.simulator.server import run_server
from batch.zstack import Client, QueryApi
from batch.zstack.answers import Done, Found, NoAnswer, NotSent, Refused, Running
from batch.zstack.queries import Ownership
from batch.zstack.settings import AccessKeyAuth, Auth, PasswordAuth, SessionAuth, Settings
from batch.zstack.wire import NoRateGate
from tests.simulation.network import SimHttp
from tests.simulation.process import Process
from tests.simulation.virtual import VirtualClock, VirtualLoop, run_virtual, virtual_gate
from tests.simulation.witness import Witness
from tests.simulation.world import World
from tests.zstack.wire_server import delete_service

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batch.clock import Clock
    from batch.simulator.wire import Request
    from batch.zstack.wire import Outcome, Transport

    Make = Callable[[Auth], Client]
    Chapter = Callable[["Stage"], Awaitable[list[object]]]

SOURCE: Final = "d76744cb53f9378abf42b907df3efb6e"
PRIVATE: Final = "21cb9f654e9d3feab962ce3f5eec5796"
UUIDS: Final = [f"{number:012x}4abc8{number:015x}" for number in range(1, 30)]
JOBS: Final = [f"{number:012x}4def9{number:015x}" for number in range(1, 30)]
TENANT: Final = NodeAccount("7" * 32, "tenant", quota=1)
ADMIN: Final = PasswordAuth("admin", "password")
URL: Final = "http://127.0.0.1:1/zstack"
OPTIONS: Final = NodeOptions(
    latency=(0.0, 0.0),
    check_seconds=0.0,
    locale="en_US",
    invent_sources=False,
    accounts=(TENANT,),
    access_keys=(NodeAccessKey("AKID", "key-secret"),),
    sources=(
        Source(SOURCE, "example", fields={"type": "Endpoint", "requestCpu": 2}),
        Source(PRIVATE, "private", to_public=False),
    ),
)


class Unwatched(Witness):
    """The contract has more calls than a run makes, and judges them itself."""

    def called(self, process: Process, request: Request, at: float) -> None:
        """Ignore the call."""

    def answered(self, process: Process, request: Request, outcome: Outcome) -> None:
        """Ignore the answer."""


class FastClock(SystemClock):
    """Real time with short waits."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.005))


@dataclass(frozen=True)
class Stage:
    """The environment of a scenario."""

    node: Node
    make: Make
    clock: Clock


def clone(number: int = 0, *, source: str = SOURCE, tags: tuple[str, ...] = (), **params: object) -> Clone:
    body = {"params": {"resourceUuid": UUIDS[number], **params}, "systemTags": list(tags)}
    return Clone("k", source, UUIDS[number], json.dumps(body).encode(), "d" * 32)


async def ended(client: Client, job: str, clock: Clock) -> object:
    answer: object = Running()
    for _ in range(40):
        answer = await client.poll(job)
        if not isinstance(answer, Running):
            break
        await clock.sleep(0.01)
    return answer


async def cloned(stage: Stage, client: Client, what: Clone, job: str) -> list[object]:
    """Send, send again, poll to the end and look up."""
    first = await client.submit(what, job)
    again = await client.submit(what, job)
    return [first, again, await ended(client, job, stage.clock), await attempt(client.find(what.resource_uuid))]


async def a_clone(stage: Stage) -> list[object]:
    client = stage.make(SessionAuth(SESSION))
    await client.preflight()
    before = [client.version, await client.find(UUIDS[0]), await client.poll(JOBS[0])]
    made = await cloned(stage, client, clone(name="例 <a='b'>", requestCpu=4, userTags=["x"]), JOBS[0])
    taken = await cloned(stage, client, clone(name="other"), JOBS[1])
    return [*before, *made, *taken]


def with_auth(auth: Auth) -> Chapter:
    async def script(stage: Stage) -> list[object]:
        client = stage.make(auth)
        await client.preflight()
        received = await cloned(stage, client, clone(name="n"), JOBS[0])
        await client.close()
        counts = stage.node.report(stage.clock.time(), clones=False, times=False)
        return [*received, *client.warnings, counts["calls"].get("login", 0), counts["calls"].get("logout", 0)]

    return script


async def a_dead_session(stage: Stage) -> list[object]:
    """Dies twice; the account opens a new one each time and the given session cannot."""
    client, given = stage.make(ADMIN), stage.make(SessionAuth(SESSION))
    await client.preflight()
    received: list[object] = []
    for number in range(2):
        stage.node.expire_sessions()
        received += [await client.submit(clone(number), JOBS[number]), await ended(client, JOBS[number], stage.clock)]
        await client.renew()
        received += await cloned(stage, client, clone(number), JOBS[10 + number])
    return [*received, client.generation, await attempt(given.find(UUIDS[0]))]


async def refused_credentials(stage: Stage) -> list[object]:
    wrong = (PasswordAuth("admin", "wrong"), SessionAuth("0" * 32), AccessKeyAuth("AKID", "wrong"))
    received = [await attempt(stage.make(auth).preflight()) for auth in (*wrong, AccessKeyAuth("NONE", "wrong"))]
    dead = stage.make(SessionAuth("0" * 32))
    return [*received, await dead.submit(clone(), JOBS[0]), await ended(dead, JOBS[0], stage.clock)]


async def auxiliary(stage: Stage) -> list[object]:
    client = stage.make(ADMIN)
    query_api = QueryApi(client)
    await client.preflight()
    asked: list[object] = [
        sorted(await query_api.support_apis()),
        abs((await query_api.server_time() or 0) - stage.clock.time()) < 60,
        await query_api.check_permission(),
    ]
    made = [await cloned(stage, client, clone(number, name=f"n{number}"), JOBS[number]) for number in range(3)]
    found = [service async for service in query_api.query(["name~=n%"], ["name"])]
    batch = [service.uuid async for service in query_api.services([*UUIDS[:4], SOURCE])]
    return [*asked, *made, [shape(Found(service)) for service in found], sorted(batch)]


async def ownership(stage: Stage) -> list[object]:
    """The clone is the caller's; it is given away, shared, refused to others, deleted twice."""
    client, tenant = stage.make(ADMIN), stage.make(PasswordAuth("tenant", "password"))
    await client.preflight()
    await tenant.preflight()
    ownership_api, theirs = Ownership(client), Ownership(tenant)
    received = await cloned(stage, client, clone(), JOBS[0])
    received += [await tenant.find(UUIDS[0]), await attempt(delete_service(tenant, UUIDS[0]))]
    await ownership_api.share_resource([UUIDS[0]], [TENANT.uuid])
    received += [await tenant.find(UUIDS[0]), await attempt(theirs.change_owner(UUIDS[0], TENANT.uuid))]
    await ownership_api.change_owner(UUIDS[0], TENANT.uuid)
    received += await cloned(stage, tenant, clone(1), JOBS[1])  # over the quota
    received += await cloned(stage, tenant, clone(2, source=PRIVATE), JOBS[2])
    await delete_service(tenant, UUIDS[0])
    await delete_service(client, UUIDS[0])
    return [*received, await client.find(UUIDS[0]), *await cloned(stage, client, clone(), JOBS[3])]


async def refused_requests(stage: Stage) -> list[object]:
    client = stage.make(SessionAuth(SESSION))
    wrong: list[dict[str, Any]] = [
        {"requestCpu": 4.5},
        {"type": "endpoint"},
        {"resourceUuid": "x"},
        {"name": "x" * 256},
        {"tagUuids": [""]},
    ]
    received: list[object] = []
    for number, params in enumerate(wrong):
        received += await cloned(stage, client, clone(**params), JOBS[number])
    received += await cloned(stage, client, clone(source="0" * 32), JOBS[10])
    received += await cloned(stage, client, clone(), "short")
    received += await cloned(stage, client, clone(tags=("ephemeral::validationOnly",)), JOBS[11])
    return received + await cloned(stage, client, clone(tags=("no::such",)), JOBS[12])


async def an_old_server(stage: Stage) -> list[object]:
    client = stage.make(SessionAuth(SESSION))
    await client.preflight()
    return [client.version, *await cloned(stage, client, clone(supportDistributed=True, requestCpu=3), JOBS[0])]


async def fighting_logins(stage: Stage) -> list[object]:
    """With unique sessions the second login ends the first."""
    one, other = stage.make(ADMIN), stage.make(ADMIN)
    await one.preflight()
    await other.preflight()
    received: list[object] = []
    for number in range(5):
        received += [await attempt(one.find(UUIDS[0])), await attempt(other.find(UUIDS[0])), number]
    await one.close()
    await other.close()
    logins = stage.node.report(stage.clock.time(), clones=False, times=False)["calls"]["login"]
    return [*received, logins, one.warnings, other.warnings]


def with_fault(on: str = "submit") -> Chapter:
    async def script(stage: Stage) -> list[object]:
        client = stage.make(SessionAuth(SESSION))
        received = await cloned(stage, client, clone(name="n"), JOBS[0])
        if on == "query":
            received.append(await client.find(UUIDS[0]))
        return received

    return script


@dataclass(frozen=True)
class Scenario:
    """A scenario, the node it runs on, and the kinds of answers it must have, in order."""

    name: str
    script: Chapter
    options: NodeOptions
    kinds: str


def scenario(name: str, script: Chapter, kinds: str, **switches: Any) -> Scenario:
    return Scenario(name, script, replace(OPTIONS, **switches), kinds)


def faulty(kind: FaultKind, kinds: str, *, on: str = "submit", **fault: Any) -> Scenario:
    rule = FaultRule(Fault(kind, **fault), on=on, requests=frozenset({1}))
    name = "-".join((on, kind.value, *map(str, fault.values())))
    return Scenario(name, with_fault(on), replace(OPTIONS, faults=(rule,)), kinds)


MADE: Final = "Accepted Duplicate Done Found"
DYING: Final = f"Accepted ID.1001 {MADE} Accepted ID.1001 {MADE} 3 LoginLostError"
STORIES: Final = [
    scenario("clone", a_clone, f"(5,5,22) Absent Unknown {MADE} Accepted Duplicate SYS.1000 Found"),
    scenario("session", with_auth(SessionAuth(SESSION)), f"{MADE} 0 0"),
    scenario("password", with_auth(ADMIN), f"{MADE} 1 1"),
    scenario("access-key", with_auth(AccessKeyAuth("AKID", "key-secret")), f"{MADE} 0 0"),
    scenario("dead-session", a_dead_session, DYING),
    scenario("newer-codes", a_dead_session, DYING, global_error_codes=True),
    scenario("credentials", refused_credentials, f"{'UnreachableError ' * 4}Accepted ID.1001"),
    scenario("auxiliary", auxiliary, "list True True list list list list list"),
    scenario(
        "ownership",
        ownership,
        f"{MADE} Absent CallFailedError Found CallFailedError Accepted Duplicate ID.1003 Absent "
        "Accepted Duplicate SYS.1006 Absent Absent Accepted Duplicate SYS.1000 Absent",
    ),
    scenario("ownership-zh", ownership, "", locale="zh_CN"),
    scenario(
        "refused",
        refused_requests,
        f"{'HTTP.400 HTTP.400 Unknown Absent '}"
        f"{'Accepted Duplicate SYS.1007 Absent ' * 2}Accepted Duplicate SYS.1000 Absent "
        "Accepted Duplicate SYS.1003 Absent Accepted Duplicate SYS.1003 Absent "
        "HTTP.400 HTTP.400 Unknown Absent Accepted Duplicate Done Absent Accepted Duplicate SYS.1007 Absent",
    ),
    scenario(
        "newer-server",
        a_clone,
        f"(5,5,22) Absent Unknown {MADE} Accepted Duplicate SYS.1000 Found",
        global_error_codes=True,
        newer_codes=True,
        unique_images=True,
        management_url="https://vip.example.com",
        requests_per_minute=12_000,
    ),
    scenario("newer-access-key", with_auth(AccessKeyAuth("AKID", "key-secret")), f"{MADE} 0 0", newer_access_keys=True),
    scenario("newer-denials", ownership, "", newer_codes=True, global_error_codes=True),
    scenario("old-server", an_old_server, f"(5,3,20) {MADE}", version="5.3.20"),
    scenario("unique-sessions", fighting_logins, "", unique_sessions=True),
    faulty(FaultKind.DROP, "NoAnswer Accepted Done Found"),
    faulty(FaultKind.LOST_REPLY, "NoAnswer Duplicate Done Found"),
    faulty(FaultKind.TRUNCATED, "NoAnswer Duplicate Done Found"),
    faulty(FaultKind.PROXY, "NoAnswer Duplicate Done Found", status=502),
    faulty(FaultKind.PROXY, "NoAnswer Accepted Done Found", status=503, executed=False),
    faulty(FaultKind.PROXY, "NoAnswer Accepted Done Found", status=504, executed=False),
    faulty(FaultKind.RATE_LIMITED, "NoAnswer Accepted Done Found", seconds=1),
    faulty(FaultKind.ERROR_500, "HTTP.500 Duplicate Done Found"),
    faulty(FaultKind.HTML_500, "NoAnswer Accepted Done Found"),
    faulty(FaultKind.ORPHAN, "Accepted Duplicate Running Absent"),
    faulty(FaultKind.ORPHAN_500, "HTTP.500 Duplicate Running Absent"),
    faulty(FaultKind.RESULT_LOST, "Accepted Duplicate Running Found"),
    faulty(FaultKind.FAIL, "Accepted Duplicate SYS.1015 Absent", code="SYS.1006", cause="SYS.1015"),
    faulty(FaultKind.FAIL_CREATED, "Accepted Duplicate SYS.1001 Found", code="SYS.1001"),
    faulty(FaultKind.FOREIGN_LOCATION, MADE),
    faulty(FaultKind.EXPIRE_SESSIONS, "Accepted Duplicate ID.1001 LoginLostError"),
    faulty(FaultKind.DROP, "Accepted Duplicate NoAnswer Found", on="poll"),
    faulty(FaultKind.HTML_500, "Accepted Duplicate NoAnswer Found", on="poll"),
    faulty(FaultKind.PROXY, "Accepted Duplicate NoAnswer Found", on="poll", status=503, executed=False),
    faulty(FaultKind.RATE_LIMITED, "Accepted Duplicate NoAnswer Found", on="poll", seconds=1),
    faulty(FaultKind.TRUNCATED, "Accepted Duplicate Done NoAnswer Found", on="query"),
    faulty(FaultKind.LOST_REPLY, "Accepted Duplicate Done NoAnswer Found", on="query"),
    faulty(FaultKind.PROXY, "Accepted Duplicate Done NoAnswer Found", on="query", status=502),
]


async def attempt(call: Awaitable[object]) -> object:
    try:
        return await call
    except ZcloneError as failed:
        return failed


async def guarded(script: Chapter, stage: Stage) -> list[object]:
    """Run a scenario; the error that stops it is its last answer."""
    try:
        return await script(stage)
    except ZcloneError as failed:
        return [failed]


def shape(answer: object) -> object:
    """Return what must be equal: everything but the texts of broken connections, addresses and times."""
    if isinstance(answer, Done | Found) and answer.service is not None:
        return type(answer).__name__, answer.service.uuid, answer.service.name, undated(dict(answer.service.fields))
    if isinstance(answer, NoAnswer):
        return "NoAnswer", answer.retry_after
    if isinstance(answer, NotSent):
        return "NotSent", answer.is_held_back
    if isinstance(answer, Refused):
        return "Refused", answer.error
    if isinstance(answer, Exception):
        return type(answer).__name__, str(answer)
    return [shape(part) for part in answer] if isinstance(answer, list) else answer


def undated(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: undated(inner) for name, inner in value.items() if name not in {"createDate", "lastOpDate"}}
    return [undated(inner) for inner in value] if isinstance(value, list) else value


def kind(answer: object) -> str:
    if isinstance(answer, Refused):
        return answer.error.code
    return str(answer).replace(" ", "") if isinstance(answer, bool | int | tuple) else type(answer).__name__


async def over_a_socket(received: Scenario) -> list[object]:
    async with run_server(received.options) as server:
        clients: list[Client] = []

        def make(auth: Auth) -> Client:
            settings = Settings(server.url, auth)
            clients.append(Client(settings, gate=NoRateGate(), clock=FastClock(), language="en"))
            return clients[-1]

        try:
            return await guarded(received.script, Stage(server.node, make, FastClock()))
        finally:
            for client in clients:
                await client.close()


def in_memory(received: Scenario) -> list[object]:
    loop = VirtualLoop()
    world = World(1, [], received.options)
    world.witness = Unwatched(world.limits, {}, world.is_made)
    clock = VirtualClock(loop, Random(1))

    def make(auth: Auth) -> Client:
        gate = virtual_gate(10_000.0, loop)
        http: Transport = SimHttp(world, Process(clock=loop.time), gate, loop)
        return Client(Settings(URL, auth), gate=gate, clock=clock, language="en", http=http)

    assert isinstance(world.node, Node)
    return run_virtual(loop, guarded(received.script, Stage(world.node, make, clock)))


@pytest.mark.parametrize("received", STORIES, ids=lambda received: received.name)
def test_both_environments_answer_alike(received: Scenario) -> None:
    """The client gets the same answers from the served node over a socket and from the simulation's network."""
    served, simulated = asyncio.run(over_a_socket(received)), in_memory(received)
    assert not received.kinds or [kind(answer) for answer in served] == received.kinds.split()
    assert [shape(answer) for answer in served] == [shape(answer) for answer in simulated]


def test_unique_sessions_end_with_a_message_in_both_environments() -> None:
    """Of two clients that end each other's sessions one is stopped; both report why, within three logins each."""
    (fight,) = [received for received in STORIES if received.name == "unique-sessions"]
    for answers in (asyncio.run(over_a_socket(fight)), in_memory(fight)):
        *_, logins, first, second = answers
        assert logins == 6
        assert "enable.unique.session" in str(answers[-6])
        for warnings in (first, second):
            assert "enable.unique.session" in str(warnings)


def test_every_fault_has_its_scenario() -> None:
    """Every kind of fault that needs no clock is part of the contract."""
    received = {rule.fault.kind for one in STORIES for rule in one.options.faults}
    with_a_clock = "slow late delayed twice restart fail_then_create two_runs purged row_missing"
    assert {kind.value for kind in FaultKind} - {kind.value for kind in received} == set(with_a_clock.split())
