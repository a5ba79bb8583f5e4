"""The listener for web hooks over real sockets: what it reads, what it answers, and what it never reveals."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import pytest

from batch.errors import UsageError
from batch.zstack import webhook
from batch.zstack.answers import Done, NoAnswer
from batch.zstack.replies import read_hook
from batch.zstack.webhook import LARGEST_HOOK, HookListener
from tests.zstack.wire_server import CLONE, WireServer, answer, client_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

JOB = "9e7a2b5c1d3f4a6b8c0d2e4f6a8b0c1d"
UUID = "90d425a802ff44eeb530f21587633700"
BODY = json.dumps({"inventory": {"uuid": UUID, "name": "x"}}).encode()
TRUE = {"X-Job-UUID": JOB, "X-Job-Success": "true"}


@dataclass
class Memory:
    """Stores what is received about the one job that it knows."""

    received: list[Done | NoAnswer] = field(default_factory=list)

    def knows(self, job_uuid: str) -> bool:
        return job_uuid == JOB

    def receive(self, job_uuid: str, hook: Done | NoAnswer) -> None:
        assert job_uuid == JOB
        self.received.append(hook)


@asynccontextmanager
async def listening(host: str = "127.0.0.1", base: str | None = None) -> AsyncIterator[tuple[HookListener, Memory]]:
    """Listen on a free port."""
    memory = Memory()
    async with HookListener(host, 0, base=base, receiver=memory) as listener:
        yield listener, memory


async def send(url: str, body: bytes, headers: dict[str, str], method: str = "POST") -> int:
    """Send one hook and return the status."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=io.BytesIO(body), headers=headers) as reply,
    ):
        assert await reply.read() == b""
        return reply.status


async def test_a_success_is_reported_with_its_service() -> None:
    """The right path and a job in flight: what the job made, and 200."""
    async with listening() as (listener, memory):
        assert await send(listener.url, BODY, TRUE) == 200
    (hook,) = memory.received
    assert isinstance(hook, Done)
    assert hook.service is not None
    assert (hook.service.uuid, hook.service.name) == (UUID, "x")


@pytest.mark.parametrize(
    ("what", "method", "headers"),
    [
        ("another path", "POST", TRUE),
        ("another job", "POST", {**TRUE, "X-Job-UUID": UUID}),
        ("no job", "POST", {"X-Job-Success": "true"}),
        ("GET", "GET", TRUE),
        ("PUT", "PUT", TRUE),
        ("too long", "POST", TRUE),
    ],
)
async def test_anything_else_is_answered_200_and_ignored(what: str, method: str, headers: dict[str, str]) -> None:
    """The server then sends it once, and a guesser learns nothing."""
    async with listening() as (listener, memory):
        url = listener.url[:-1] + ("0" if listener.url[-1] != "0" else "1") if what == "another path" else listener.url
        body = b" " * LARGEST_HOOK + BODY if what == "too long" else BODY
        assert await send(url, body, headers, method) == 200
        assert memory.received == []
        assert await send(listener.url, BODY, TRUE) == 200
        assert len(memory.received) == 1


async def test_an_endless_body_delays_no_other_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that stalls, or breaks off, is dropped, and others are received meanwhile."""
    monkeypatch.setattr(webhook, "_READ_TIME", 0.2)
    async with listening() as (listener, memory):
        host, _, port = listener.address.rpartition(":")
        head = f"POST /{listener.token} HTTP/1.1\r\nHost: x\r\nX-Job-UUID: {JOB}\r\nX-Job-Success: true\r\n"
        for is_left in (False, True):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
            await writer.drain()
            assert await send(listener.url, BODY, TRUE) == 200
            if not is_left:
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
    assert len(memory.received) == 2


@pytest.mark.parametrize(
    ("body", "success", "ends"),
    [
        (b"", "true", True),
        (b"{}", "true", True),
        (b"  \n", "true", True),
        (BODY, "false", True),
        (b'{"error": {"code": "SYS.1006"}}', "false", True),
        (b"<html>", "false", True),
        (b"<html>", "true", False),
        (b"null", "true", False),
        (b'{"inventory": {"name": "x"}}', "true", False),
        (b'{"error": {"code": "SYS.1006"}}', "true", False),
        (BODY, "", False),
        (BODY, "TRUE", False),
        (BODY, "1", False),
        (b"\xff\xfe", "true", False),
        (b"[" * 100_000, "true", False),
    ],
)
def test_a_hook_without_a_service_is_an_end_or_nothing(body: bytes, success: str, *, ends: bool) -> None:
    """A failure and an empty body say that the job ended, whatever else is in them; the rest is ignored."""
    hook = read_hook(body, success)
    assert hook == Done(None) if ends else isinstance(hook, NoAnswer)


async def test_the_path_is_new_each_time_and_has_128_bits() -> None:
    """It cannot be guessed, and an earlier one reveals nothing."""
    async with listening() as (one, _), listening() as (two, _):
        assert one.token != two.token
        assert len(bytes.fromhex(one.token)) == 16


async def test_the_url_is_that_of_a_named_proxy() -> None:
    """The path follows the proxy's own, and is found again after whatever it leaves of that."""
    async with listening(base="https://hooks.example.com/zclone") as (listener, memory):
        assert listener.url == f"https://hooks.example.com/zclone/{listener.token}"
        assert listener.token not in listener.address
        for path in (listener.token, f"zclone/{listener.token}"):
            assert await send(f"http://{listener.address}/{path}", BODY, TRUE) == 200
        assert len(memory.received) == 2


async def test_an_address_of_ipv6() -> None:
    """It is in brackets in the URL."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        async with listening("::1") as (listener, memory):
            assert listener.url.startswith("http://[::1]:")
            assert await send(listener.url, BODY, TRUE) == 200
            assert len(memory.received) == 1
    except UsageError:
        pytest.skip("no IPv6 here")


async def test_a_port_in_use_is_reported() -> None:
    """Nothing is sent if ends cannot be received."""
    async with listening() as (listener, _):
        port = int(listener.address.rpartition(":")[2])
        with pytest.raises(UsageError, match=f"--webhook-listen 127.0.0.1:{port}: cannot listen there"):
            await HookListener("127.0.0.1", port, base=None, receiver=Memory()).__aenter__()


async def test_the_path_is_in_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever arrives, bytes that are not HTTP among it, nothing of the path is logged."""
    caplog.set_level(logging.DEBUG)
    async with listening() as (listener, _):
        host, _, port = listener.address.rpartition(":")
        await send(listener.url, BODY, TRUE)
        for line in (f"POST /{listener.token} HTTP/9\r\n\r\n", f"POST /{listener.token}\x00 HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(line.encode())
            await reader.read()
            writer.close()
        assert listener.token not in caplog.text


async def test_each_clone_post_requests_it_and_no_other_call() -> None:
    """X-Web-Hook is on every POST of a clone, on no poll and no lookup, and on none without a listener."""
    async with WireServer(lambda _: answer(404, "no")) as server, client_of(server.url) as client:
        await client.submit(CLONE, JOB)
        client.web_hook = "http://127.0.0.1:9100/path"
        await client.submit(CLONE, JOB)
        await client.poll(JOB)
        await client.find(UUID)
        hook_headers = [seen.headers.get("x-web-hook") for seen in server.seen]
    assert hook_headers[:4] == [None, "http://127.0.0.1:9100/path", None, None]
