"""Sessions that end during a run: the real engine and client against the served node."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from batch.clock import SystemClock
from batch.engine import Gate, Stop, clone_all, hard_cap
from batch.engine.survey import survey
from batch.errors import RunStoppedError
from batch.model import Clone, Limits, Plan, State
from batch.simulator.faults import Fault, FaultKind, FaultRule
from batch.simulator.options import NodeOptions
from batch.simulator.server import run_server
from batch.zstack import Client, connect
from batch.zstack.settings import PasswordAuth, Settings
from tests.engine.scripted_api import MemoryJournal, MemoryPast

if TYPE_CHECKING:
    from batch.simulator.server import NodeServer

QUICK = NodeOptions(latency=(0.0, 0.0), check_seconds=0.0)
EXPIRIES = 10
WORKERS = 50
BETWEEN = 110
"""POSTs between two expiries: more than are under way at once, so that no two coincide."""


class Leaping(SystemClock):
    """Real time, in which two hours pass with each expiry: sessions die of age."""

    def __init__(self, server: NodeServer) -> None:
        super().__init__()
        self._server = server

    def monotonic(self) -> float:
        return super().monotonic() + 7200.0 * self._server.node.ledger.faults["expire_sessions"]


def plan(name: str, first: int, count: int) -> Plan:
    return Plan(name, "default", name, count, lambda: (clone(number) for number in range(first, first + count)))


def clone(number: int) -> Clone:
    uuid, source = f"{number:012x}4abc8{number:015x}", f"{number:012x}4def8{number:015x}"
    body = json.dumps({"params": {"resourceUuid": uuid}}).encode()
    return Clone(f"t{number}", source, uuid, body, f"{number:032x}", {})


async def run(work: Plan, client: Client, gate: Gate, clock: SystemClock, *, workers: int) -> MemoryPast:
    past = MemoryPast(MemoryJournal())
    await clone_all(
        work,
        survey(work, past),
        api=client,
        journal=past.journal,
        past=past,
        clock=clock,
        limits=Limits(rate=10_000.0, concurrency=workers),
        stop=Stop(),
        polls=gate.polls,
    )
    return past


def open_gate(clock: SystemClock) -> Gate:
    return Gate(10_000.0, cap=hard_cap(10_000.0), clock=clock)


async def connected(server: NodeServer, gate: Gate, clock: SystemClock) -> Client:
    settings = Settings(server.url, PasswordAuth("admin", "password"))
    client = await connect(settings, gate=gate, clock=clock)
    await client.preflight()
    return client


async def test_ten_expiries_under_fifty_workers_of_the_engine() -> None:
    """A password run across 10 expiries with 50 workers makes 11 logins, fails no target and charges no attempt."""
    dies = FaultRule(
        Fault(FaultKind.EXPIRE_SESSIONS),
        requests=frozenset(range(BETWEEN, (EXPIRIES + 1) * BETWEEN, BETWEEN)),
    )
    count = (EXPIRIES + 1) * BETWEEN
    async with run_server(replace(QUICK, faults=(dies,))) as server:
        clock = Leaping(server)
        gate = open_gate(clock)
        client = await connected(server, gate, clock)
        past = await run(plan("expiring", 0, count), client, gate, clock, workers=WORKERS)
        await client.close()
        books = server.ledger()
    assert books["faults"] == {"expire_sessions": EXPIRIES}
    assert books["calls"]["login"] == EXPIRIES + 1
    assert books["calls"]["logout"] == 1
    assert past.counts == {State.CLONED: count}
    assert books["clones_made"] == count
    assert {record.attempt for record in past.journal.records if record.state is State.SENT} == {1}
    assert client.warnings == ()


async def test_two_runners_that_end_each_others_sessions() -> None:
    """Two runs of one account with unique sessions end within three logins each, both with a clear message."""
    async with run_server(replace(QUICK, unique_sessions=True)) as server:
        clock = SystemClock()
        gates = [open_gate(clock) for _ in range(2)]
        clients = [await connected(server, gate, clock) for gate in gates]
        ends = await asyncio.gather(
            *(
                run(plan(f"runner-{number}", number * 1000, 200), client, gate, clock, workers=4)
                for number, (client, gate) in enumerate(zip(clients, gates, strict=True))
            ),
            return_exceptions=True,
        )
        for client in clients:
            await client.close()
        books = server.ledger()
    assert books["calls"]["login"] == sum(client.generation for client in clients)
    assert any(isinstance(end, RunStoppedError) for end in ends)
    for end, client in zip(ends, clients, strict=True):
        assert client.generation <= 3
        assert isinstance(end, MemoryPast | RunStoppedError)
        message = str(end) if isinstance(end, RunStoppedError) else " ".join(client.warnings)
        assert "one session per user (enable.unique.session)" in message
        if isinstance(end, MemoryPast):
            assert end.counts == {State.CLONED: 200}
    assert books["clones_made"] == len({row["uuid"] for row in books["clones"]})
