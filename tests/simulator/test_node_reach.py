"""Who reaches a served node: no web page, no other host, and nobody with a well-known password."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from aiohttp import web

from batch.simulator.__main__ import with_random_credentials
from batch.simulator.options import ADMIN_UUID, SESSION, NodeAccount, NodeOptions
from batch.simulator.script import ScriptError, read_script
from batch.simulator.server import TOKEN_HEADER, NodeServer, run_server
from batch.simulator.wire import is_loopback
from tests.simulator.simulator_bench import SERVICES, SOURCE, job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FAST: Final = NodeOptions(latency=(0.0, 0.0), check_seconds=0.0)
AUTH: Final = {"Authorization": f"OAuth {SESSION}", "Content-Type": "application/json"}


@pytest.fixture
async def server() -> AsyncIterator[NodeServer]:
    async with run_server(FAST) as served:
        yield served


async def ask(server: NodeServer, path: str, body: str | None = None, **headers: str) -> int:
    """GET a page of the node, or POST ``body``; return the status. ``_`` stands for ``-`` in the names of headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url, method = f"{server.node.origin}{path}", "GET" if body is None else "POST"
    data = None if body is None else body.encode("latin-1")
    async with aiohttp.ClientSession() as client, client.request(method, url, data=data, headers=named) as answer:
        await answer.read()
        return answer.status


@pytest.mark.parametrize("page", ["/__ledger", "/__control", "/__anything"])
async def test_own_pages_need_the_token(server: NodeServer, page: str) -> None:
    """Ledger and controls answer nobody without the token of this very node, whatever else is right."""
    for given in ({}, {"X_Node_Token": ""}, {"X_Node_Token": server.token[:-1]}, {"X_Node_Token": "é" * 32}):
        assert await ask(server, page, **given) == 403
        assert await ask(server, page, "{}", Content_Type="application/json", **given) == 403
    assert await ask(server, page, X_Node_Token=server.token) != 403
    async with run_server(FAST) as other:
        assert other.token != server.token
        assert await ask(server, page, X_Node_Token=other.token) == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_controls_are_json(server: NodeServer, kind: str) -> None:
    """A request that a page may send without a preflight is no control, and changes nothing."""
    order, headers = '{"expire_sessions": true}', {"X_Node_Token": server.token, "Content_Type": kind}
    assert await ask(server, "/__control", order, **headers) == 415
    assert await ask(server, "/__control", order, Origin="https://evil.example", **headers) == 403
    assert server.ledger()["sessions_open"] == 1


@pytest.mark.parametrize("path", ["/__ledger", "/zstack/v1/ai/model-services", "/zstack"])
@pytest.mark.parametrize(
    "foreign",
    [
        {"Host": "evil.example:8080"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "192.0.2.1"},
        {"Host": "[::ffff:192.0.2.1]:80"},
        {"Host": "127.0.0.1@evil.example"},
        {"Host": "[127.0.0.1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
async def test_no_foreign_page_reaches_the_node(server: NodeServer, path: str, foreign: dict[str, str]) -> None:
    """On loopback a request whose Host or Origin names another machine is refused, the API's too."""
    assert await ask(server, path, X_Node_Token=server.token, **AUTH, **foreign) in {400, 403}
    assert server.ledger()["calls"] == {}


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "127.8.8.8:80", "[::1]:8080"])
async def test_names_of_this_machine_are_accepted(server: NodeServer, host: str) -> None:
    """The node is reached by any name and port of loopback, as through a tunnel, and by its own pages."""
    assert await ask(server, "/__ledger", X_Node_Token=server.token, Host=host) == 200
    assert await ask(server, "/__ledger", X_Node_Token=server.token, Host=host, Origin=f"http://{host}") == 200
    assert await ask(server, "/zstack/v1/ai/model-services", Host=host, **AUTH) == 200


ABSURD: Final = (
    '{"restart": 1e308}',
    '{"restart": 1e999}',
    '{"restart": -1}',
    '{"restart": NaN}',
    '{"restart": Infinity}',
    '{"restart": true}',
    '{"restart": "2"}',
    '{"restart": null}',
    '{"restart": 3601}',
    '{"restart": 1' + "0" * 400 + "}",
    '{"restart": 1, "sources": ["../x"]}',
    '{"restart": 1, "sources": "abc"}',
    '{"restart": 1, "sources": [1]}',
    '{"restart": 1, "expire_sessions": "yes"}',
    '{"restart": 1, "faults": {"version": 1, "faults": [{"fault": "slow", "seconds": 1e308}]}}',
    '{"restart": 1, "faults": {"version": 1, "faults": [{"fault": "slow", "seconds": -Infinity}]}}',
    "[" * 100_000,
    "\x80",
    "",
)


@pytest.mark.parametrize("order", ABSURD, ids=lambda order: order[:40])
async def test_invalid_controls_change_nothing(server: NodeServer, order: str) -> None:
    """A number out of range, or any other garbage, is answered with 400, and no part of its request is executed."""
    headers = {"X_Node_Token": server.token, "Content_Type": "application/json"}
    assert await ask(server, "/__control", order, **headers) == 400
    books = server.ledger()
    assert (books["sessions_open"], books.get("restarts", 0)) == (1, 0)
    assert await ask(server, "/zstack/v1/ai/model-services", **AUTH) == 200


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "1e308", "1000000001", "1" + "0" * 5000])
def test_invalid_numbers_of_a_script_are_refused(number: str) -> None:
    """A fault script's numbers are finite and at most a thousand million; the error has their place."""
    for text in (f"node: {{latency: [0.0, {number}]}}", f"faults: [{{fault: slow, seconds: {number}}}]"):
        with pytest.raises(ScriptError, match="nasty.yaml:"):
            read_script(f"version: 1\n{text}\n", name="nasty.yaml")


async def clone_with_hook(server: NodeServer, hook: str) -> None:
    how = {"X_Job_UUID": job(1), "X_Web_Hook": hook}
    path = f"/zstack{SERVICES}/{SOURCE}"
    assert await ask(server, path, '{"params":{}}', **AUTH, **how) == 202


@pytest.mark.parametrize(
    "hook",
    [
        "http://192.0.2.1/x",
        "http://evil.example/x",
        "http://localhost.evil.example/",
        "http://127.0.0.1@evil.example/",
        "http://[::ffff:192.0.2.1]/",
        "http://[/",
        "//",
    ],
)
async def test_web_hooks_reach_this_machine_only(server: NodeServer, hook: str) -> None:
    """A web hook to another host is not called, and counted as refused; the clone is made all the same."""
    await clone_with_hook(server, hook)
    while not server.ledger().get("hooks_refused"):  # noqa: ASYNC110 - the node's own clock ends the wait
        await asyncio.sleep(0.01)
    assert server.ledger()["clones_made"] == 1


async def test_a_hooks_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect in answer to a web hook is no success; with the option any host is called."""
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def listen(request: web.BaseRequest) -> web.Response:
        await heard.put(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    runner = web.ServerRunner(web.Server(listen))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    async with run_server(replace(FAST, hook_tries=2, hook_pause=0.01)) as server:
        await clone_with_hook(server, f"http://127.0.0.1:{port}/first")
        assert [await heard.get(), await heard.get()] == ["/first", "/first"]
    async with run_server(replace(FAST, hook_tries=1, hooks_anywhere=True)) as server:
        find = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *rest, **named: find("127.0.0.1", *rest, **named))
        await clone_with_hook(server, f"http://hook.example:{port}/second")
        assert await heard.get() == "/second"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("192.0.2.1", False),
        ("::", False),
        ("0.0.0.0", False),
        ("", False),
        ("localhost.evil", False),
        (None, False),
    ],
)
def test_loopback_is_an_address_or_localhost(address: str | None, *, near: bool) -> None:
    """Only ``localhost`` is accepted as a name of this machine: DNS decides where others lead."""
    assert is_loopback(address) == near


def test_random_credentials_replace_all_known_ones() -> None:
    """Neither the session of the API page nor the default password works; passwords of a script stay."""
    tenants = (NodeAccount("a" * 32, "default"), NodeAccount("b" * 32, "own", "chosen"))
    first, second = (with_random_credentials(NodeOptions(accounts=tenants)) for _ in range(2))
    admin, default, own = first.accounts
    assert (admin.uuid, admin.name, admin.is_admin, own) == (ADMIN_UUID, "admin", True, tenants[1])
    secrets = [first.session, admin.password, default.password]
    assert not set(secrets) & {SESSION, "password", second.session, *(account.password for account in second.accounts)}
    assert len(set(secrets)) == 3
    assert with_random_credentials(NodeOptions(session=None)).session is None


def test_a_node_for_others_warns_and_has_random_credentials(child_env: dict[str, str]) -> None:
    """``simulate --host`` beyond loopback says so on stderr; clients without its session are rejected."""
    command = [sys.executable, "-m", "batch", "simulate", "--port", "0", "--host", "0.0.0.0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=child_env, stdout=pipe, stderr=pipe) as node:
        assert node.stdout is not None
        ready: dict[str, Any] = json.loads(node.stdout.readline())
        port = ready["url"].rpartition(":")[2].partition("/")[0]
        served = ready | {"url": f"http://127.0.0.1:{port}"}
        statuses = asyncio.run(knock(served))
        node.terminate()
        _, warning = node.communicate(timeout=200)
    assert statuses == {"known session": 503, "own session": 200, "container's name": 200, "ledger": 403}
    assert warning.startswith(b"warning: ")
    assert b"0.0.0.0" in warning
    assert ready["password"] != "password"


async def knock(served: dict[str, Any]) -> dict[str, int]:
    url, own = f"{served['url']}/zstack/v1/ai/model-services", {"Authorization": f"OAuth {served['session']}"}
    tried = {
        "known session": (url, AUTH),
        "own session": (url, own),
        "container's name": (url, {**own, "Host": "node:8080"}),
        "ledger": (f"{served['url']}/__ledger", {TOKEN_HEADER: served["token"], "Host": "node:8080"}),
    }
    statuses = {}
    async with aiohttp.ClientSession() as client:
        for name, (call, headers) in tried.items():
            async with client.get(call, headers=headers) as answer:
                statuses[name] = answer.status
    return statuses
