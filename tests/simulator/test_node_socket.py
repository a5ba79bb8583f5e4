"""The node behind a socket: bytes, resets, restarts, the process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from batch.simulator.faults import FaultKind
from batch.simulator.options import SESSION, NodeOptions, Source
from batch.simulator.server import TOKEN_HEADER, NodeServer, run_server, serve
from batch.simulator.state import StateError
from tests.simulator.simulator_bench import CLONE, SERVICES, SOURCE, hit, job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FAST = NodeOptions(latency=(0.0, 0.0), check_seconds=0.0)
AUTH = {"Authorization": f"OAuth {SESSION}", "Content-Type": "application/json;charset=UTF-8"}
FOREGROUND = """
import asyncio, sys
from pathlib import Path
from batch.simulator.options import NodeOptions
from batch.simulator.__main__ import run_forever
asyncio.run(run_forever(NodeOptions(), state=Path(sys.argv[1])))
"""


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=AUTH) as session:
        yield session


def own(server: NodeServer) -> dict[str, str]:
    """Return the headers that the node's own pages need; aiohttp sets JSON itself."""
    return {TOKEN_HEADER: server.token, "Content-Type": "application/json"}


async def _post(client: aiohttp.ClientSession, url: str, number: int = 1, hook: str = "") -> tuple[int, bytes]:
    body = b'{"params":{"resourceUuid":"%s"}}' % CLONE.encode()
    how = {"X-Job-UUID": job(number)} | ({"X-Web-Hook": hook} if hook else {})
    async with client.post(f"{url}{SERVICES}/{SOURCE}", data=body, headers=how) as answer:
        return answer.status, await answer.read()


async def _poll(client: aiohttp.ClientSession, url: str, number: int = 1) -> int:
    async with client.get(f"{url}/v1/api-jobs/{job(number)}") as answer:
        await answer.read()
        return answer.status


async def _until(client: aiohttp.ClientSession, url: str, status: int) -> None:
    while await _poll(client, url) != status:  # noqa: ASYNC110 - another process ends the wait
        await asyncio.sleep(0.01)


async def test_the_example_of_the_api_page_is_accepted(client: aiohttp.ClientSession) -> None:
    """POST, poll and query over a socket, without a Content-Type in the answers."""
    async with run_server(FAST) as server:
        async with client.post(f"{server.url}{SERVICES}/{SOURCE}", json={"params": {"name": "例"}}) as answer:
            assert answer.status == 202
            assert "Content-Type" not in answer.headers
            assert "JSESSIONID" in answer.headers["Set-Cookie"]
            location = (await answer.json(content_type=None))["location"]
        assert location.startswith(f"{server.url}/v1/api-jobs/")
        async with client.get(location) as answer:
            assert (await answer.json(content_type=None))["inventory"]["name"] == "例"
        assert server.ledger()["clones_made"] == 1


@pytest.mark.parametrize("kind", [FaultKind.DROP, FaultKind.LOST_REPLY, FaultKind.DELAYED])
async def test_a_reset_closes_the_connection(client: aiohttp.ClientSession, kind: FaultKind) -> None:
    """The client's connection breaks without an answer."""
    async with run_server(replace(FAST, faults=hit(kind, seconds=0.01))) as server:
        with pytest.raises(aiohttp.ClientConnectionError):
            await _post(client, server.url)
        assert await _poll(client, server.url, 2) == 404


async def test_a_cut_body_breaks_off(client: aiohttp.ClientSession) -> None:
    """The header promises more than comes."""
    async with run_server(replace(FAST, faults=hit(FaultKind.TRUNCATED))) as server:
        with pytest.raises(aiohttp.ClientPayloadError):
            await _post(client, server.url)
        assert await _poll(client, server.url) == 200


async def test_late_requests_are_answered_late(client: aiohttp.ClientSession) -> None:
    """A waiting client gets the answer of the late execution, an impatient one does not stop it."""
    async with run_server(replace(FAST, faults=hit(FaultKind.LATE, requests=None, seconds=0.05))) as server:
        assert (await _post(client, server.url))[0] == 202
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await _post(client, server.url, 2)
        while await _poll(client, server.url, 2) == 404:  # noqa: ASYNC110 - the node's own clock ends the wait
            await asyncio.sleep(0.01)


async def test_proxy_pages_are_html(client: aiohttp.ClientSession) -> None:
    """502 with a page and its content type."""
    async with run_server(replace(FAST, faults=hit(FaultKind.PROXY, status=502))) as server:
        status, body = await _post(client, server.url)
        assert (status, body.startswith(b"<html>")) == (502, True)


async def test_a_restart_refuses_connections_and_comes_back(client: aiohttp.ClientSession) -> None:
    """While down nothing listens; afterwards the same port answers."""
    async with run_server(FAST) as server:
        assert await _poll(client, server.url) == 404
        control = f"{server.url.removesuffix('/zstack')}/__control"
        async with client.post(control, json={"restart": 0.2}, headers=own(server)) as answer:
            assert answer.status == 200
        await asyncio.sleep(0.05)
        with pytest.raises(aiohttp.ClientConnectionError):
            await _poll(client, server.url)
        await asyncio.sleep(0.25)
        assert await _poll(client, server.url) == 404


async def test_control_and_ledger_are_for_tests(client: aiohttp.ClientSession) -> None:
    """Faults, sources and sessions can be set over the socket; garbage is reported."""
    async with run_server(FAST) as server:
        origin = server.url.removesuffix("/zstack")
        script = {"version": 1, "faults": [{"fault": "rate_limited", "seconds": 3}]}
        order: dict[str, Any] = {"faults": script, "sources": [CLONE], "expire_sessions": True}
        async with client.post(f"{origin}/__control", json=order, headers=own(server)) as answer:
            assert answer.status == 200
        assert (await _post(client, server.url))[0] == 429
        wrongs: tuple[Any, ...] = ({"explode": 1}, [], {"faults": {"version": 2}}, {"restart": "x"})
        for wrong in wrongs:
            async with client.post(f"{origin}/__control", json=wrong, headers=own(server)) as answer:
                assert (answer.status, "error" in await answer.json()) == (400, True)
        async with client.get(f"{origin}/__ledger?times=false", headers=own(server)) as answer:
            books = await answer.json()
        assert (books["calls"], books["faults"]) == ({"submit": 1}, {"rate_limited": 1})
        assert (books["sessions_open"], "call_times" in books) == (0, False)


async def test_web_hooks_are_called(client: aiohttp.ClientSession) -> None:
    """The poll's body arrives at the hook, repeated until it is accepted."""
    heard: asyncio.Queue[tuple[str | None, bytes]] = asyncio.Queue()

    async def listen(request: web.BaseRequest) -> web.Response:
        await heard.put((request.headers.get("X-Job-Success"), await request.read()))
        return web.Response(status=500 if heard.qsize() == 1 and not seen else 200)

    seen: list[tuple[str | None, bytes]] = []
    runner = web.ServerRunner(web.Server(listen))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    async with run_server(replace(FAST, hook_pause=0.02)) as server:
        await _post(client, server.url, hook=url)
        seen.append(await heard.get())
        seen.append(await heard.get())
    await runner.cleanup()
    assert seen[0] == seen[1]
    assert (seen[0][0], json.loads(seen[0][1])["inventory"]["uuid"]) == ("true", CLONE)


async def test_an_ipv6_host_is_in_brackets() -> None:
    """The url of a node on an IPv6 address has it in brackets, and leads to the node."""
    try:
        server = await serve(FAST, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    try:
        assert server.url == f"http://[::1]:{server.port}/zstack"
        async with aiohttp.ClientSession() as own, own.get(f"{server.url}/v1/management-nodes/actions") as reply:
            assert reply.status < 600
    finally:
        await server.close()


async def test_state_is_kept_between_servers(client: aiohttp.ClientSession, tmp_path: Path) -> None:
    """A second server on the same file knows the job; two at once are refused."""
    state = tmp_path / "node.state"
    first = await serve(NodeOptions(latency=(5.0, 5.0)), state=state)
    await _post(client, first.url)
    await first.close()
    async with run_server(FAST, state=state) as second:
        # Closing finished the job.
        assert await _poll(client, second.url) == 200
        assert second.ledger()["clones_made"] == 1


async def test_a_damaged_state_is_refused_and_released(tmp_path: Path) -> None:
    """The error names the line, and the file can be opened again."""
    state = tmp_path / "node.state"
    state.write_text('{"e":"row" garbage\n')
    for _ in range(2):
        with pytest.raises(StateError, match="node.state:1"):
            await serve(FAST, state=state)


async def _child(*command: str) -> tuple[asyncio.subprocess.Process, dict[str, str]]:
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, *command, stdin=pipe, stdout=pipe)
    assert child.stdout is not None
    return child, json.loads(await child.stdout.readline())


async def test_a_child_ends_with_its_parents_pipe(client: aiohttp.ClientSession, tmp_path: Path) -> None:
    """SIGINT is ignored; the end of stdin finishes what is under way, and SIGKILL loses nothing that was answered."""
    state, faults = tmp_path / "node.state", tmp_path / "faults.yaml"
    faults.write_text("version: 1\nnode: {latency: [0.5, 0.5]}\n", encoding="utf-8")
    command = ("-m", "batch.simulator", str(faults), str(state))
    child, ready = await _child(*command)
    assert ready["session"] == SESSION
    await _post(client, ready["url"])
    child.send_signal(signal.SIGINT)
    assert await _poll(client, ready["url"]) == 202
    assert child.stdin is not None
    child.stdin.close()
    assert await child.wait() == 0
    child, ready = await _child(*command)
    assert await _poll(client, ready["url"]) == 200
    async with client.post(f"{ready['url']}{SERVICES}/{SOURCE}", data=b"", headers={"X-Job-UUID": job(2)}) as answer:
        assert answer.status == 202
    child.kill()
    await child.wait()
    async with run_server(FAST, state=state) as server:
        assert [await _poll(client, server.url, number) for number in (1, 2)] == [200, 202]


async def test_a_foreground_node_ends_by_signal(tmp_path: Path) -> None:
    """SIGTERM and SIGINT shut zclone simulate down cleanly."""
    child, _ = await _child("-c", FOREGROUND, str(tmp_path / "node.state"))
    child.send_signal(signal.SIGINT)
    assert await child.wait() == 0


async def test_a_port_in_use_is_reported() -> None:
    """OSError, and the state file is free again."""
    async with run_server(FAST) as server:
        with pytest.raises(OSError, match="address already in use"):
            await serve(FAST, port=server.port)


def test_sources_and_servers_are_plain_values() -> None:
    """Options compare by value, so that a scenario can be kept and replayed."""
    assert NodeOptions(sources=(Source(SOURCE),)) == NodeOptions(sources=(Source(SOURCE),))
    assert NodeServer.__doc__
