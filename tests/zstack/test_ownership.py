"""Handing clones over: ZStack's answers become values, and a hand-over already done is distinguished from a refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batch.errors import CallCutError
from batch.model import CallKind
from batch.simulator.options import NodeAccount, NodeOptions, Source
from batch.simulator.server import run_server
from batch.zstack import CloneModelServiceAction, QueryApi, connect
from batch.zstack.answers import NoAnswer, Refused
from batch.zstack.queries import Ownership
from batch.zstack.settings import PasswordAuth, Settings
from tests.zstack.test_against_node import FastClock
from tests.zstack.wire_server import RESOURCE, SOURCE, CountingGate, Seen, WireServer, answer, client_of, error

if TYPE_CHECKING:
    from batch.zstack.client import Client

TENANT, FULL = NodeAccount("7" * 32, "tenant"), NodeAccount("8" * 32, "full", quota=0)
OPTIONS = NodeOptions(
    latency=(0.0, 0.0), check_seconds=0.0, accounts=(TENANT, FULL), sources=(Source(SOURCE, "example"),)
)


async def make_clone(client: Client) -> Ownership:
    await client.preflight()
    result = await CloneModelServiceAction(uuid=SOURCE, resourceUuid=RESOURCE).call(client)
    assert result.inventory is not None
    return Ownership(client)


async def test_a_hand_over_already_done_is_done() -> None:
    """A clone may be shared again and given again to its owner: the server's refusal of that is no failure."""
    async with (
        run_server(OPTIONS) as server,
        await connect(Settings(server.url, PasswordAuth("admin", "password")), clock=FastClock()) as client,
    ):
        ownership = await make_clone(client)
        assert [await ownership.share(RESOURCE, [FULL.uuid]) for _ in range(2)] == [None, None]
        assert [await ownership.give(RESOURCE, TENANT.uuid) for _ in range(2)] == [None, None]
        assert (await QueryApi(client).owners([RESOURCE]))[RESOURCE].uuid == TENANT.uuid
        (row,) = server.node.ledger.json()["clones"]
        assert (row["given"], row["shared"]) == (1, [FULL.uuid])


async def test_a_refusal_keeps_its_code() -> None:
    """No quota, or a missing account or clone: ZStack's own code is returned."""
    async with (
        run_server(OPTIONS) as server,
        await connect(Settings(server.url, PasswordAuth("admin", "password")), clock=FastClock()) as client,
    ):
        ownership = await make_clone(client)
        results = [
            await ownership.give(RESOURCE, FULL.uuid),
            await ownership.give(RESOURCE, "9" * 32),
            await ownership.share("6" * 32, [TENANT.uuid]),
        ]
        assert [one.error.code if isinstance(one, Refused) else one for one in results] == [
            "ID.1003",
            "SYS.1003",
            "SYS.1003",
        ]


async def test_a_hand_over_without_any_answer_is_unknown() -> None:
    """If neither the change nor the query for the owner has an answer, that is reported."""

    def handler(seen: Seen) -> bytes:
        return answer(202, {}) if seen.method == "POST" else answer(503, "<html>proxy</html>")

    async with WireServer(handler) as server, client_of(server.url, clock=FastClock()) as client:
        assert isinstance(await Ownership(client).give(RESOURCE, TENANT.uuid), NoAnswer)
        refusing = WireServer(lambda seen: answer(503, error("ID.1004")))
    async with refusing as server, client_of(server.url, clock=FastClock()) as client:
        found = await Ownership(client).give(RESOURCE, TENANT.uuid)
        assert isinstance(found, Refused)
        assert found.error.code == "ID.1004"


async def test_a_call_cut_by_a_stop_is_not_repeated() -> None:
    """A query or a side job whose turn was cut is abandoned at once, and is no refusal."""
    gate = CountingGate(cut=(CallKind.QUESTION,))
    async with WireServer(lambda _: answer(200, {})) as server, client_of(server.url, gate=gate) as client:
        with pytest.raises(CallCutError):
            await Ownership(client).share(RESOURCE, [TENANT.uuid])
        with pytest.raises(CallCutError):
            await QueryApi(client).owners([RESOURCE])
        assert server.seen == []
