"""The client against the embedded node over a socket: every credential, every call around the clone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from batch.model import Clone
from batch.simulator.options import ADMIN_UUID, SESSION, NodeAccessKey, NodeAccount, NodeOptions, Source
from batch.simulator.server import run_server
from batch.zstack import Client, CloneModelServiceAction, QueryApi, connect
from batch.zstack.answers import Absent, Accepted, Done, Duplicate, Found, Refused, Running, Unknown
from batch.zstack.queries import Ownership
from batch.zstack.settings import AccessKeyAuth, Auth, PasswordAuth, SessionAuth, Settings
from tests.zstack.wire_server import RESOURCE, SOURCE, VirtualClock, delete_service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TENANT = NodeAccount("7" * 32, "tenant")
OPTIONS = NodeOptions(
    latency=(0.0, 0.0),
    check_seconds=0.0,
    accounts=(TENANT,),
    access_keys=(NodeAccessKey("AKID", "key-secret"),),
    sources=(Source(SOURCE, "example", fields={"type": "Endpoint"}),),
)
JOBS = [f"{number:012x}4abc8{number:015x}" for number in range(1, 10)]
CLONE = Clone("k", SOURCE, RESOURCE, b'{"params":{"resourceUuid":"%s","name":"n"}}' % RESOURCE.encode(), "d" * 32)
AUTHS: list[Auth] = [SessionAuth(SESSION), PasswordAuth("admin", "password"), AccessKeyAuth("AKID", "key-secret")]


class FastClock(VirtualClock):
    """Does not wait, and returns the node's time."""

    def time(self) -> float:
        return time.time()


async def _ended(client: Client, job: str) -> object:
    answer: object = Running()
    while isinstance(answer, Running):
        answer = await client.poll(job)
    return answer


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with run_server(OPTIONS) as server:
        yield server.url


@pytest.mark.parametrize("auth", AUTHS, ids=lambda auth: type(auth).__name__)
async def test_a_clone_with_every_credential(url: str, auth: Auth) -> None:
    """Preflight, submit, duplicate, poll and find work with a session, a password and an AccessKey."""
    async with await connect(Settings(url, auth)) as client:
        await client.preflight()
        assert client.version == (5, 5, 22)
        assert await client.find(RESOURCE) == Absent()
        assert await client.poll(JOBS[0]) == Unknown()
        assert await client.submit(CLONE, JOBS[0]) == Accepted(1800.0)
        assert await client.submit(CLONE, JOBS[0]) == Duplicate()
        done = await _ended(client, JOBS[0])
        assert isinstance(done, Done)
        assert done.service is not None
        assert (done.service.uuid, done.service.name) == (RESOURCE, "n")
        found = await client.find(RESOURCE)
        assert isinstance(found, Found)
        assert await client.submit(CLONE, JOBS[1]) == Accepted(1800.0)
        used = await _ended(client, JOBS[1])
        assert isinstance(used, Refused)
        assert used.error.code == "SYS.1000"


async def test_queries_and_changes_on_the_node(url: str) -> None:
    """APIs, clock, permission, query, owner and sharing work on the node; deleting a service twice succeeds twice."""
    async with await connect(Settings(url, SessionAuth(SESSION)), clock=FastClock()) as client:
        query_api = QueryApi(client)
        assert "APICloneModelServiceMsg" in await query_api.support_apis()
        assert await query_api.server_time() is not None
        assert await query_api.check_permission() is True
        result = await CloneModelServiceAction(uuid=SOURCE, name="made", resourceUuid=RESOURCE).call(client)
        assert result.inventory is not None
        named = [service.uuid async for service in query_api.query(["name=made"], ["name"])]
        assert named == [RESOURCE]
        uuids = [service.uuid async for service in query_api.services([RESOURCE, SOURCE, "f" * 32])]
        assert sorted(uuids) == sorted([RESOURCE, SOURCE])
        ownership = Ownership(client)
        await ownership.change_owner(RESOURCE, TENANT.uuid)
        await ownership.share_resource([RESOURCE], [ADMIN_UUID])
        await delete_service(client, RESOURCE)
        await delete_service(client, RESOURCE)
        assert await client.find(RESOURCE) == Absent()
