"""The transport: what is sent, where it goes, and the result of every kind of failure."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import aiohttp
import pytest

from batch.errors import UnreachableError
from batch.model import CallKind
from batch.zstack import client_http
from batch.zstack.answers import Absent, Accepted, NoAnswer, NotSent, Running, is_cut
from batch.zstack.client_http import JSON_TYPE
from batch.zstack.settings import PasswordAuth
from batch.zstack.wire import LARGEST, HttpReply
from tests.zstack.wire_server import (
    CLONE,
    JOB,
    RESOURCE,
    SESSION,
    CountingGate,
    Seen,
    WireServer,
    answer,
    client_of,
    error,
)

if TYPE_CHECKING:
    from batch.zstack.classify import Language

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, asyncio.Event], Awaitable[None]]

ACCEPTED = answer(202, {"location": f"http://10.0.0.1/zstack/v1/api-jobs/{JOB}", "apiTimeout": 1000})


def node(seen: Seen) -> bytes:
    if seen.method == "POST":
        return ACCEPTED
    if "/api-jobs/" in seen.target:
        return answer(202, {})
    if "/actions" in seen.target:
        return answer(200, {"version": "5.3.46"})
    return answer(200, {"inventories": []})


async def test_what_is_sent() -> None:
    """The POST carries body, charset, job uuid and session; the poll carries no credentials; each passes the gate."""
    gate = CountingGate()
    async with WireServer(node) as server, client_of(server.url, gate=gate) as client:
        assert await client.submit(CLONE, JOB) == Accepted(1.0)
        assert await client.poll(JOB) == Running()
        assert await client.find(RESOURCE) == Absent()
    post, poll, find = server.seen
    assert post.target == f"/zstack/v1/ai/model-services/{CLONE.source_uuid}"
    assert post.body == CLONE.body
    assert post.headers["content-type"] == JSON_TYPE == "application/json;charset=UTF-8"
    assert post.headers["x-job-uuid"] == JOB
    assert post.headers["authorization"] == f"OAuth {SESSION}"
    assert post.headers["accept-encoding"] == "identity"
    assert poll.target == f"/zstack/v1/api-jobs/{JOB}"
    assert "authorization" not in poll.headers
    assert find.target == f"/zstack/v1/ai/model-services/{RESOURCE}"
    assert gate.passed == 3


LOGIN = PasswordAuth("admin", "password")


@pytest.mark.parametrize(("language", "tag"), [("en", "en-US"), ("zh", "zh-CN")])
async def test_every_call_carries_the_operators_language(language: Language, tag: str) -> None:
    """Version, login, POST, poll, lookup and logout request errors in the operator's language."""

    def handle(seen: Seen) -> bytes:
        return answer(200, {"inventory": {"uuid": SESSION}}) if "/accounts/" in seen.target else node(seen)

    async with WireServer(handle) as server:
        async with client_of(server.url, LOGIN, language=language) as client:
            await client.preflight()
            await client.submit(CLONE, JOB)
            await client.poll(JOB)
            await client.find(RESOURCE)
        assert [seen.headers.get("accept-language") for seen in server.seen] == [tag] * 6


async def test_a_cut_wait_makes_no_call() -> None:
    """A call whose wait at the gate was cut is not sent, and its answer says so; one whose turn came is."""
    gate = CountingGate(cut=(CallKind.CLONE,))
    async with WireServer(node) as server, client_of(server.url, gate=gate) as client:
        assert is_cut(await client.submit(CLONE, JOB))
        assert await client.poll(JOB) == Running()
        gate.cut = (CallKind.CLONE, CallKind.POLL, CallKind.QUESTION)
        assert is_cut(await client.poll(JOB))
        assert is_cut(await client.find(RESOURCE))
    assert [seen.method for seen in server.seen] == ["GET"]


async def test_strange_source_uuids_stay_one_segment() -> None:
    """A source uuid can never lead to another path, and an empty one never becomes another API."""
    async with WireServer(node) as server, client_of(server.url) as client:
        for source in ("../../accounts", "a/b?c#d", ".."):
            await client.submit(type(CLONE)("k", source, RESOURCE, b"{}", ""), JOB)
        with pytest.raises(ValueError, match="empty"):
            await client.submit(type(CLONE)("k", "", RESOURCE, b"{}", ""), JOB)
    prefix = "/zstack/v1/ai/model-services/"
    assert [seen.target.removeprefix(prefix) for seen in server.seen] == [
        "%2E%2E%2F%2E%2E%2Faccounts",
        "a%2Fb%3Fc%23d",
        "%2E%2E",
    ]


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _reset(writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def _break_off(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, {"a": "long body"})[:-3])
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("lose", [_end, _reset, _break_off])
@pytest.mark.parametrize("answered", [0, 1], ids=["fresh", "kept"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
@pytest.mark.parametrize("body", [None, b"{}", b"x" * (1 << 20)], ids=["none", "small", "large"])
async def test_a_lost_connection_is_never_retried(
    method: str, body: bytes | None, answered: int, lose: Callable[[asyncio.StreamWriter], Awaitable[None]]
) -> None:
    """One call is one request: for every verb, a connection lost after it was sent counts as unanswered.

    The same holds on a new connection and on one that was kept, closed and reset, before and within the answer.
    """
    seen = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        for number in range(answered + 1):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            seen += 1
            if number < answered:
                writer.write(answer(200, {}))
        await lose(writer)

    gate = CountingGate()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, client_of(url, gate=gate) as client:
        for _ in range(answered):
            assert isinstance(await client.call(method, "/v1/x", body=body), HttpReply)
        lost = await client.call(method, "/v1/x", body=body)
    assert isinstance(lost, NoAnswer)
    assert not lost.is_push_back
    assert seen == gate.passed == answered + 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_a_call_without_a_connection_is_made_once(method: str) -> None:
    """A refused connection is tried once for each call, with any verb, and no byte is sent."""
    gate = CountingGate()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        async with client_of(url, gate=gate) as client:
            assert isinstance(await client.call(method, "/v1/x", body=b"{}"), NotSent)
    assert gate.passed == 1


async def test_calls_share_connections_but_never_after_a_broken_one() -> None:
    """One connection serves many calls; one whose answer broke off or said close is not used again."""
    whole, closing, broken = answer(202, {}), answer(202, {}, Connection="close"), b"no HTTP\r\n\r\n"
    replies = iter([whole, whole, whole, closing, whole, broken, whole])
    async with WireServer(lambda _: next(replies)) as server, client_of(server.url) as client:
        for expected in (1, 1, 1, 1, 2, 2, 3):
            await client.call("GET", "/v1/x")
            assert server.connections == expected


@pytest.mark.parametrize("wait", [0.0, 0.05])
async def test_an_unsolicited_answer_is_not_the_next_calls_answer(wait: float) -> None:
    """What a server sends beyond its answer, with it or while idle, is never taken for the next answer.

    The call that finds it says so; the one after it has a new connection.
    """
    connections, unasked, ended = 0, asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer(200, {"first": connections}))
            await asyncio.sleep(wait)
            writer.write(answer(200, {"unasked": connections}))
            unasked.release()
            await reader.read(-1)
        writer.transport.abort()
        ended.release()

    server = await asyncio.start_server(chatty, "127.0.0.1", 0)
    async with server, client_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        for number in (1, 2, 3):
            reply = await client.call("POST", "/v1/x", body=b"{}")
            if isinstance(reply, NoAnswer):
                assert reply.reason == "the server sent an answer before the request"
                reply = await client.call("POST", "/v1/x", body=b"{}")
            assert isinstance(reply, HttpReply)
            assert json.loads(reply.body) == {"first": number}
            await unasked.acquire()
            # What was written is read in the next rounds of the event loop.
            for _ in range(3):
                await asyncio.sleep(0)
        await client.close()
        for _ in range(connections):
            await ended.acquire()


async def test_half_an_unsolicited_answer_is_never_completed() -> None:
    """The head of an answer sent along with another one, and continued later, is no later call's answer."""
    stale, asked = answer(200, {"stale": 1}), 0
    cut = stale.index(b"Length")

    async def split(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                asked += 1
                writer.write(answer(200, {}) + stale[:cut] if asked == 1 else stale[cut:] + answer(200, {}))
        writer.transport.abort()

    server = await asyncio.start_server(split, "127.0.0.1", 0)
    async with server, client_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        for _ in range(2):
            reply = await client.call("GET", "/v1/x")
            assert not isinstance(reply, HttpReply) or json.loads(reply.body) == {}
    assert asked == 2


async def test_a_large_request_may_be_refused_before_it_is_read() -> None:
    """A server that refuses by the head and leaves the body unread is answered at once."""
    ended = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(413, "too large"))
        await ended.wait()
        writer.transport.abort()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=1024)
    async with server, client_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        reply = await client.call("POST", "/v1/x", body=b"x" * (16 << 20))
        ended.set()
    assert isinstance(reply, HttpReply)
    assert reply.status == 413


async def test_interim_answers_are_skipped() -> None:
    """A proxy's 1xx answers are no answer: the final one counts."""
    data = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(202, {})
    async with WireServer(lambda _: data) as server, client_of(server.url) as client:
        assert await client.poll(JOB) == Running()
        assert await client.poll(JOB) == Running()
    assert server.connections == 1


async def interim(number: int, apart: float) -> HttpReply | NotSent | NoAnswer:
    """Call a server that sends so many interim answers, so many seconds apart, before its answer.

    Without a pause each is a thousand.
    """
    ended = asyncio.Event()
    some = b"HTTP/1.1 100 Continue\r\n\r\n" * (1 if apart else 1000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            for _ in range(number):
                writer.write(some)
                await writer.drain()
                await asyncio.sleep(apart)
            writer.write(answer(202, {}))
            await reader.read(-1)
        writer.transport.abort()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        async with client_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
            reply = await client.call("GET", "/v1/x")
        await ended.wait()
    return reply


@pytest.mark.parametrize(("number", "is_read"), [(10, True), (11, False), (1000, False)])
async def test_at_most_ten_interim_answers(*, number: int, is_read: bool) -> None:
    """A call waits out ten consecutive interim answers, and is abandoned at the next."""
    reply = await interim(number, 0.01)
    assert isinstance(reply, HttpReply) is is_read
    assert is_read or reply == NoAnswer("the server sent more than 10 interim answers")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_flood_of_interim_answers_is_abandoned(loop: str) -> None:
    """Of interim answers without a pause a call reads ten pieces of a bounded size, on any event loop."""
    sent = 0

    def flood(listening: socket.socket) -> None:
        nonlocal sent
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            while True:
                sent += connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    async def call(port: int) -> object:
        async with client_of(f"http://127.0.0.1:{port}") as client:
            return await client.call("GET", "/v1/x")

    factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None
    with socket.create_server(("127.0.0.1", 0)) as listening, asyncio.Runner(loop_factory=factory) as runner:
        server = threading.Thread(target=flood, args=(listening,))
        server.start()
        lost = runner.run(call(listening.getsockname()[1]))
        server.join()
    assert lost == NoAnswer("the server sent more than 10 interim answers")
    assert sent < 8 << 20


async def test_interim_answers_count_against_the_time_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that keeps announcing an answer is abandoned when the call's whole time is up."""
    monkeypatch.setattr(client_http, "_TOTAL_TIMEOUT", 0.3)
    assert await interim(8, 0.1) == NoAnswer("no answer in time", is_push_back=True)


@pytest.mark.parametrize("size", [9_000, 60_000])
async def test_a_header_that_is_too_long_is_reported(size: int) -> None:
    """An answer with a header that is too long is refused by that header's name, not as something other than HTTP."""
    data = answer(202, {}, X_Policy="y" * size)
    async with WireServer(lambda _: data) as server, client_of(server.url) as client:
        refused = await client.poll(JOB)
    assert refused == NoAnswer("the answer's header X-Policy is longer than 8,190 characters")


@pytest.mark.parametrize("path", ["/v1/x y", "/v1/x\r\nHost: evil", "v1/x", "/v1/\N{LATIN SMALL LETTER E WITH ACUTE}"])
async def test_no_path_splits_a_request(path: str) -> None:
    """Characters that are not allowed in a request line never reach one."""
    async with WireServer(node) as server, client_of(server.url) as client:
        with pytest.raises(ValueError, match="not the path"):
            await client.call("GET", path)
    assert server.seen == []


async def test_no_header_splits_a_request() -> None:
    """A line break in a header's value is refused, and nothing is sent."""
    async with WireServer(node) as server, client_of(server.url) as client:
        with pytest.raises(ValueError, match="header"):
            await client.call("GET", "/v1/x", headers={"X-Job-UUID": "a\r\nX-Evil: 1"})
        assert await client.poll(JOB) == Running()
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    """A redirect is no answer: neither body nor credentials go to its target."""
    async with WireServer(node) as foreign:
        location = f"{foreign.url}/v1/elsewhere"
        async with (
            WireServer(lambda _: answer(status, None, Location=location)) as server,
            client_of(server.url) as client,
        ):
            assert isinstance(await client.submit(CLONE, JOB), NoAnswer)
            assert isinstance(await client.poll(JOB), NoAnswer)
            assert isinstance(await client.find(RESOURCE), NoAnswer)
            with pytest.raises(UnreachableError, match="redirects are not followed"):
                await client.preflight()
    assert foreign.connections == 0


async def test_no_call_reaches_another_host(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Foreign locations, proxy variables, .netrc and cookies lead no call and no credential to another host."""
    async with WireServer(node) as foreign:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{foreign.port}")
        netrc = f"{tmp_path}/netrc"
        with open(netrc, "w") as file:  # noqa: ASYNC230, PTH123 - a line for the test
            file.write("machine 127.0.0.1 login eve password eve\n")
        monkeypatch.setenv("NETRC", netrc)
        located = answer(
            202, {"location": f"{foreign.url}/v1/api-jobs/{JOB}"}, Set_Cookie="track=1; Domain=.example.com"
        )
        async with (
            WireServer(lambda seen: located if seen.method == "POST" else node(seen)) as server,
            client_of(server.url) as client,
        ):
            await client.preflight()
            assert isinstance(await client.submit(CLONE, JOB), Accepted)
            assert await client.poll(JOB) == Running()
    assert foreign.connections == 0
    assert not any("cookie" in seen.headers for seen in server.seen)
    assert not any("eve" in seen.headers.get("authorization", "") for seen in server.seen)


async def test_only_the_servers_own_session_cookie_is_returned() -> None:
    """JSESSIONID is returned, so that the server makes one HTTP session and not one for each call."""
    cookies = answer(202, {}, Set_Cookie="JSESSIONID=0AB1C2.node1; Path=/zstack; HttpOnly")
    evil = answer(202, {}, Set_Cookie='JSESSIONID=a"b; x')
    async with (
        WireServer(lambda seen: evil if "bad" in seen.target else cookies) as server,
        client_of(server.url) as client,
    ):
        await client.call("GET", "/v1/bad")
        await client.call("GET", "/v1/good")
        await client.call("GET", "/v1/good")
    assert [seen.headers.get("cookie") for seen in server.seen] == [None, None, "JSESSIONID=0AB1C2.node1"]


NOT_HTTP = [
    b"garbage\r\n\r\n",
    b"HTTP/1.1 99999 X\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\nConnection: close\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nZZ\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe",
    b"\x00\x01\x02\r\n\r\n",
]


@pytest.mark.parametrize("data", NOT_HTTP, ids=range(len(NOT_HTTP)))
async def test_broken_answers(data: bytes) -> None:
    """A broken answer to a POST leaves open whether it ran, and says so in one line."""
    async with WireServer(lambda _: data) as server, client_of(server.url) as client:
        lost = await client.submit(CLONE, JOB)
    assert isinstance(lost, NoAnswer)
    assert lost.reason
    assert "\n" not in lost.reason
    assert SESSION not in lost.reason


async def test_huge_answers_are_cut_off() -> None:
    """A body beyond 4 MiB, plain, chunked or compressed, counts as no answer and is not kept."""
    big = b"x" * (LARGEST + 1)
    chunked = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % len(big) + big + b"\r\n0\r\n\r\n"
    bomb = gzip.compress(b"0" * 50_000_000)
    replies = iter([answer(200, big), chunked, answer(200, bomb, Content_Encoding="gzip")])
    async with WireServer(lambda _: next(replies)) as server, client_of(server.url) as client:
        for _ in range(3):
            lost = await client.poll(JOB)
            assert isinstance(lost, NoAnswer)
            assert "larger than" in lost.reason


async def test_endless_answers_are_abandoned() -> None:
    """An endless answer is abandoned soon after 4 MiB, and not read until the timeout."""
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n")
        with contextlib.suppress(OSError):
            while sent < 256 << 20:
                writer.write(b"x" * 65536)
                sent += 65536
                await writer.drain()
        writer.transport.abort()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    async with server, client_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        lost = await client.poll(JOB)
    assert isinstance(lost, NoAnswer)
    assert sent < 32 << 20


async def test_a_dripping_answer_is_abandoned_at_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of one byte now and then never keeps a read waiting: the total timeout ends it, for every call."""
    monkeypatch.setattr(client_http, "_TOTAL_TIMEOUT", 0.4)
    dripped, ended = 0, asyncio.Semaphore(0)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dripped
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 202 X\r\nContent-Length: 100000\r\n\r\n")
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                writer.write(b"{")
                dripped += 1
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.transport.abort()
        ended.release()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server, client_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        lost = [await client.submit(CLONE, JOB), await client.poll(JOB), await client.find(RESOURCE)]
        for _ in lost:
            await ended.acquire()
    assert all(isinstance(answer_, NoAnswer) for answer_ in lost)
    assert dripped >= 3 * 2


async def _drip_a_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: asyncio.Event) -> None:
    reading = asyncio.ensure_future(reader.read(-1))
    writer.write(b"HTTP/1.1 202 X\r\nX: ")
    while not left.is_set():
        writer.write(b"y")
        await writer.drain()
        await asyncio.sleep(0.05)
    await reading


async def _read_nothing(_: asyncio.StreamReader, __: asyncio.StreamWriter, left: asyncio.Event) -> None:
    await left.wait()


@pytest.mark.parametrize("serve", [_drip_a_head, _read_nothing])
async def test_a_server_that_never_finishes_is_abandoned(monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    """Neither a head of one byte now and then nor a large unread request keeps a call waiting for long."""
    monkeypatch.setattr(client_http, "_READ_TIMEOUT", 0.3)
    monkeypatch.setattr(client_http, "_TOTAL_TIMEOUT", 0.3)
    left, ended = asyncio.Event(), asyncio.Event()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await serve(reader, writer, left)
        writer.transport.abort()
        ended.set()

    server = await asyncio.start_server(served, "127.0.0.1", 0, limit=1024)
    async with server, client_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        lost = await client.call("POST", "/v1/x", body=b"x" * (16 << 20))
        left.set()
        await ended.wait()
    assert lost == NoAnswer("no answer in time", is_push_back=True)


async def test_unsolicited_gzip_is_read() -> None:
    """A small compressed answer is read although identity was requested."""
    data = answer(202, gzip.compress(b"{}"), Content_Encoding="gzip")
    async with WireServer(lambda _: data) as server, client_of(server.url) as client:
        assert await client.poll(JOB) == Running()


async def test_any_content_type() -> None:
    """The content decides, not the Content-Type, which ZStack does not send."""
    data = answer(202, {}, Content_Type="text/html")
    async with WireServer(lambda _: data) as server, client_of(server.url) as client:
        assert await client.poll(JOB) == Running()


async def test_closed_port_is_not_sent() -> None:
    """A refused connection means that no byte was sent."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    async with client_of(url) as client:
        assert isinstance(await client.submit(CLONE, JOB), NotSent)
        assert isinstance(await client.find(RESOURCE), NotSent)
        with pytest.raises(UnreachableError, match="cannot reach ZStack"):
            await client.preflight()


async def test_unknown_name_is_not_sent() -> None:
    """A name that does not resolve means that no byte was sent."""
    async with client_of("http://zstack.invalid:8080") as client:
        answer_ = await client.submit(CLONE, JOB)
    assert isinstance(answer_, NotSent)
    assert "resolved" in answer_.reason


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
async def test_an_invalid_name_is_not_sent(host: str) -> None:
    """A name that no resolver accepts means that no byte was sent, like an unknown one."""
    async with client_of(f"http://{host}:8080") as client:
        assert isinstance(await client.submit(CLONE, JOB), NotSent)


async def test_names_leading_to_link_local_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads to link-local addresses, where metadata services live, is refused before connecting."""

    async def resolve(*_: object) -> list[dict[str, object]]:
        return [{"hostname": "zs", "host": "169.254.169.254", "port": 80, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    async with client_of("http://metadata.example:80") as client:
        refused = await client.submit(CLONE, JOB)
    assert isinstance(refused, NotSent)
    assert "link-local" in refused.reason


async def test_silence_ends_in_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts a connection and then says nothing leaves a POST open."""
    monkeypatch.setattr(client_http, "_READ_TIMEOUT", 0.05)

    async def silent(_: Seen) -> bytes:
        await asyncio.sleep(30)
        return b""

    async with WireServer(silent) as server, client_of(server.url) as client:
        assert await client.submit(CLONE, JOB) == NoAnswer("no answer in time", is_push_back=True)


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_pauses_all_calls(status: int) -> None:
    """A 429 or a proxy's 503 with Retry-After pauses the gate for all calls and is reported to the caller."""
    gate = CountingGate()
    data = answer(status, "<html>slow down</html>", Retry_After="7")
    async with WireServer(lambda _: data) as server, client_of(server.url, gate=gate) as client:
        paused = await client.submit(CLONE, JOB)
    assert isinstance(paused, NoAnswer)
    assert paused.retry_after == 7.0
    assert gate.pauses == [7.0]


@pytest.mark.parametrize(("patience", "calls"), [(0, 1), (3, 3), (10**6, 21)])
async def test_calls_refused_by_the_servers_limiter_are_repeated(patience: int, calls: int) -> None:
    """Nothing was executed: polls and lookups are repeated as long as the gate says that it helps, and not forever."""
    gate = CountingGate(patience=patience)
    data = answer(429, "Rate limit exceeded")
    async with WireServer(lambda _: data) as server, client_of(server.url, gate=gate) as client:
        asked = await client.poll(JOB)
    assert isinstance(asked, NotSent)
    assert asked.is_over_limit
    assert len(server.seen) == calls
    assert gate.pauses == []


async def test_a_post_refused_by_the_servers_limiter_is_repeated_by_the_caller() -> None:
    """Its record says when it was sent; the gate is informed all the same."""
    gate = CountingGate(patience=100)
    data = answer(429, "Rate limit exceeded")
    async with WireServer(lambda _: data) as server, client_of(server.url, gate=gate) as client:
        assert await client.submit(CLONE, JOB) == NotSent("HTTP 429: Rate limit exceeded", is_over_limit=True)
    assert len(server.seen) == gate.refusals == 1


async def test_failed_job_with_retry_after_is_a_result() -> None:
    """A 503 with ZStack's error is a result even if a proxy added Retry-After."""
    gate = CountingGate()
    data = answer(503, error("SYS.1003"), Retry_After="7")
    async with WireServer(lambda _: data) as server, client_of(server.url, gate=gate) as client:
        assert not isinstance(await client.poll(JOB), NoAnswer)
    assert gate.pauses == []


async def test_secrets_quoted_by_the_server_are_redacted() -> None:
    """A server that quotes what it was sent cannot put a secret into texts and logs."""
    data = answer(400, f"bad request: Authorization OAuth {SESSION}")
    async with WireServer(lambda _: data) as server, client_of(server.url) as client:
        refused = await client.submit(CLONE, JOB)
    assert SESSION not in repr(refused)
    assert "OAuth [redacted]" in repr(refused)


async def test_preflight_learns_the_version() -> None:
    """Preflight queries the version and checks the session before anything is cloned."""
    async with WireServer(node) as server, client_of(server.url) as client:
        await client.preflight()
        assert client.version == (5, 3, 46)
    assert server.calls == ["PUT /v1/management-nodes/actions", f"GET /v1/ai/model-services/{'0' * 32}"]


async def test_preflight_without_get_version() -> None:
    """A server that does not know GetVersion but is otherwise valid is accepted, its version unknown."""

    def old(seen: Seen) -> bytes:
        return answer(404, "no api mapping to /v1/management-nodes/actions") if "actions" in seen.target else node(seen)

    async with WireServer(old) as server, client_of(server.url) as client:
        await client.preflight()
        assert client.version is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (answer(404, "no api mapping to /v1/x"), "endpoint or context path"),
        (answer(200, "<html>Welcome to the hotel</html>"), "no ZStack"),
        (answer(503, error("SYS.1010")), "not ready"),
        (answer(503, error("ID.1001")), "not ready|session ended"),
        (answer(502, "<html>"), "cannot reach|no answer"),
    ],
)
async def test_preflight_refuses(data: bytes, message: str) -> None:
    """A server that is not ZStack, or rejects the credentials, ends the command before anything is sent."""
    async with WireServer(lambda _: data) as server, client_of(server.url) as client:
        with pytest.raises(UnreachableError, match=message):
            await client.preflight()
    assert not any(call.startswith("POST") for call in server.calls)


async def test_dead_session_at_preflight() -> None:
    """A given session that ended is reported before anything is sent."""

    def dead(seen: Seen) -> bytes:
        return node(seen) if "actions" in seen.target else answer(503, error("ID.1001"))

    async with WireServer(dead) as server, client_of(server.url) as client:
        with pytest.raises(UnreachableError, match="session ended"):
            await client.preflight()


@pytest.mark.parametrize("code", ["SYS.1010", "SYS.1011", "ID.2003"])
@pytest.mark.parametrize("path", ["actions", "model-services"])
async def test_a_server_that_is_not_ready_rejects_no_login(path: str, code: str) -> None:
    """At the version as at the check of the credentials it is said to be not ready, and no retry is promised."""

    def starting(seen: Seen) -> bytes:
        return answer(503, error(code)) if path in seen.target else node(seen)

    async with WireServer(starting) as server, client_of(server.url) as client:
        with pytest.raises(UnreachableError, match=f"is not ready: {code}") as caught:
            await client.preflight()
    assert "login" not in str(caught.value)
    assert "retried" not in str(caught.value)


async def test_preflight_retries_a_proxys_error() -> None:
    """A proxy's error at the first query is retried a few times."""
    replies = iter([answer(502, "<html>"), None])

    def flaky(seen: Seen) -> bytes | None:
        return next(replies, node(seen))

    async with WireServer(flaky) as server, client_of(server.url) as client:
        await client.preflight()
        assert client.version == (5, 3, 46)


async def test_clear_text_is_warned_about() -> None:
    """An http endpoint beyond this machine warns that credentials travel in clear."""
    async with client_of("http://zstack.example.com:8080") as client:
        assert "in clear" in client.warnings[0]
    async with client_of("http://127.0.0.1:8080") as client:
        assert client.warnings == ()
