"""The only door to the network: one aiohttp connector, one endpoint, every call through the gate.

A call is made on the connector's connections and not through a ClientSession, whose redirects, cookies, proxies and
silent second tries are not wanted here and would double the cost of a call. Connecting, TLS, name resolution and the
parser are aiohttp's. No exception of aiohttp leaves this module (their reprs carry the Authorization header).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http import HttpProcessingError
from yarl import URL

from batch.errors import UsageError
from batch.zstack.answers import NoAnswer, NotSent
from batch.zstack.classify import safe_text
from batch.zstack.decode import LARGEST, BadReplyError, inflate
from batch.zstack.settings import is_link_local
from batch.zstack.wire import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import StreamReader
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from multidict import CIMultiDictProxy

    from batch.zstack.settings import Settings
    from batch.zstack.wire import Gate, Outcome

JSON_TYPE: Final = "application/json;charset=UTF-8"
"""Without the charset the server reads bodies as Latin-1 (wire: section 1)."""
_CONNECT: Final = aiohttp.ClientTimeout(connect=10, sock_connect=10)
_SILENCE: Final = 30.0
"""Seconds after which the head of an answer must be there."""
_TOTAL: Final = 60.0
"""Seconds of a whole call, once it is connected."""
_KEEP_ALIVE = 4.0
"""Seconds, below what servers and proxies keep: a POST on a connection that is just being closed is an ambiguity."""
_FAILED = (aiohttp.ClientError, HttpProcessingError, OSError, TimeoutError)


class Http:
    """One endpoint. Make it inside a running event loop, and close it."""

    def __init__(self, settings: Settings, gate: Gate) -> None:
        """Raise UsageError where the CA file cannot be read."""
        url = URL(settings.url)
        self._gate = gate
        self._loop = asyncio.get_running_loop()
        self._prefix = url.raw_path.rstrip("/")
        self._always = (
            f"Host: {url.host_port_subcomponent}\r\n"
            "Accept: application/json\r\nAccept-Encoding: identity\r\nUser-Agent: zclone\r\n"
        )
        """Headers of every call."""
        self._cookie = ""
        self._idle: list[tuple[Connection, float]] = []
        """Kept connections and since when; the connector's own book-keeping would cost a tenth of a call."""
        self._awaited: dict[ResponseHandler, float] = {}
        """Who is to answer until when."""
        self._watch: asyncio.TimerHandle | None = None
        self._connector = aiohttp.TCPConnector(limit=0, ssl=_tls(settings), resolver=_Resolver(), ttl_dns_cache=60)
        self._peer = aiohttp.ClientRequest("GET", url, loop=self._loop)
        """Tells the connector where connections lead; it is never sent."""

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        sends_clone: bool = False,
    ) -> Outcome:
        """One call: ``path`` is percent-encoded and starts with /v1. ``sends_clone``: give way when sending stopped."""
        if not sends_clone:
            await self._gate.wait()
        elif not await self._gate.wait_to_send():
            return NotSent("the run stopped sending", is_held_back=True)
        request = self._head(method, path, body, headers) + (body or b"")
        try:
            connection = self._kept() or await self._connector.connect(self._peer, traces=[], timeout=_CONNECT)
        except (*_FAILED, UnicodeError) as error:
            # A name that cannot even be asked for is a UnicodeError.
            return NotSent(_not_sent(error))
        return await self._exchange(connection, request)

    async def close(self) -> None:
        """Close all connections."""
        if self._watch is not None:
            self._watch.cancel()
        while self._idle:
            self._idle.pop()[0].close()
        await self._connector.close()

    def _kept(self) -> Connection | None:
        """Return the connection that was used last, if it may still be used; those that may not are closed."""
        now = self._loop.time()
        while self._idle:
            connection, since = self._idle.pop()
            protocol = connection.protocol
            # What came unasked since then would be taken for the next answer.
            if protocol is not None and now - since <= _KEEP_ALIVE and not protocol.should_close:
                return connection
            _abandon(connection)
        return None

    async def _exchange(self, connection: Connection, request: bytes) -> Outcome:
        """Send on a connection that is this call's own; it is kept only after a whole answer."""
        reply: Reply | None = None
        try:
            reply = await self._talk(connection, request)
        except BadReplyError as error:
            return NoAnswer(str(error))
        except _FAILED as error:
            return NoAnswer(_lost(error), is_push_back=isinstance(error, TimeoutError))
        finally:
            if reply is None or reply.status < 200:
                _abandon(connection)
            else:
                self._idle.append((connection, self._loop.time()))
        return reply

    async def _talk(self, connection: Connection, request: bytes) -> Reply:
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None or transport.is_closing():
            raise ConnectionResetError
        began = self._loop.time()
        # A parser for each call: no half of an answer that nobody asked for is ever completed by the next.
        protocol.set_response_params(read_until_eof=True, auto_decompress=False)
        transport.write(request)
        # A large request is still being sent, and may be refused before all of it is.
        self._await_answer(protocol, began + (_TOTAL if protocol.writing_paused else _SILENCE))
        try:
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != 101:
                message, content = await protocol.read()
        finally:
            del self._awaited[protocol]
        whole = content.read_nowait() if content.is_eof() else await _whole(content, began + _TOTAL)
        headers = message.headers
        if "Set-Cookie" in headers:
            self._keep_cookie(headers)
        encoding = headers.get("Content-Encoding")
        plain = whole if encoding is None else inflate(whole, encoding)
        return Reply(message.code, plain, headers.get("Date"), headers.get("Retry-After"))

    def _await_answer(self, protocol: ResponseHandler, until: float) -> None:
        """Bound the wait for an answer's head: one timer serves all calls, since one for each is a cost of each."""
        self._awaited[protocol] = until
        if self._watch is None:
            self._watch = self._loop.call_later(_SILENCE, self._give_up)

    def _give_up(self) -> None:
        """Wake who waited long enough, and look again when the next one has."""
        now = self._loop.time()
        left = [until for until in self._awaited.values() if until > now]
        # Never later than a call that begins now may have to be woken.
        self._watch = self._loop.call_at(min(*left, now + _SILENCE), self._give_up) if left else None
        for protocol, until in self._awaited.items():
            if until <= now:
                protocol.set_exception(TimeoutError())

    def _head(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None) -> bytes:
        """Return the request up to its body; made here, since a writer and a dict of headers for each call cost 10 us.

        Raises ValueError for what would end its line.
        """
        if not path.startswith("/") or " " in path or not _is_plain(path):
            raise ValueError(f"{path!r} is no path of a request")
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._always}{self._cookie}"
        for name, value in (headers or {}).items():
            if not _is_plain(value):
                raise ValueError(f"the header {name} has characters that no header can carry")
            head += f"{name}: {value}\r\n"
        if body is not None:
            head += f"Content-Type: {JSON_TYPE}\r\n"
        if body is not None or method != "GET":
            head += f"Content-Length: {len(body or b'')}\r\n"
        return f"{head}\r\n".encode("ascii")

    def _keep_cookie(self, headers: CIMultiDictProxy[str]) -> None:
        """Without it the server makes an HTTP session of its own for every single call (wire: section 1)."""
        for text in headers.getall("Set-Cookie", ()):
            name, _, value = text.partition(";")[0].strip().partition("=")
            if name == "JSESSIONID" and len(value) <= 128 and value.isascii() and value.replace(".", "").isalnum():
                self._cookie = f"Cookie: JSESSIONID={value}\r\n"


def _abandon(connection: Connection) -> None:
    """Close at once: what was not sent yet is not sent any more."""
    if connection.transport is not None:
        connection.transport.abort()
    connection.close()


async def _whole(content: StreamReader, deadline: float) -> bytes:
    """Read a body that comes in pieces. Raises TimeoutError at ``deadline``, BadReplyError where it is too large."""
    whole = bytearray()
    async with asyncio.timeout_at(deadline):
        async for chunk in content.iter_any():
            whole += chunk
            if len(whole) > LARGEST:
                raise BadReplyError(f"the answer is larger than {LARGEST} bytes")
    return bytes(whole)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


class _Resolver(AbstractResolver):
    """Names that lead to the machine's own link are refused: there live metadata services. Literal addresses pass."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if any(is_link_local(entry["host"]) for entry in found):
            raise OSError(f"{host} leads to a link-local address; give the address itself if that is meant")
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _tls(settings: Settings) -> ssl.SSLContext | bool:
    if not settings.url.startswith("https:"):
        return True
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"the CA file {settings.ca_file} cannot be used: {error.strerror or type(error).__name__}"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _not_sent(error: Exception) -> str:
    """Say why without what aiohttp's own text may carry."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "") or "not valid"
        return safe_text(f"the server's certificate is not accepted: {reason}", 300)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "the TLS handshake failed: is the endpoint https, with TLS 1.2 or later?"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return safe_text(f"the endpoint's name cannot be resolved: {error.strerror or error.os_error}", 300)
    if isinstance(error, aiohttp.ClientConnectorError):
        return safe_text(f"cannot connect: {error.strerror}", 300)
    return "cannot connect in time" if isinstance(error, TimeoutError) else "cannot connect"


def _lost(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    if isinstance(error, HttpProcessingError):
        return "the answer is not HTTP"
    return f"the connection was lost ({type(error).__name__})"
