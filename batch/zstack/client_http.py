"""The only module with network access: one aiohttp session, one endpoint, every call through the gate.

One call is one request: redirects, proxies, foreign cookies and repeats are switched off. No exception of aiohttp
leaves this module (their reprs contain the Authorization header).
"""

from __future__ import annotations

import io
import socket
import ssl
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from batch.errors import UsageError
from batch.model import CallKind
from batch.zstack.answers import NOT_ADMITTED, NoAnswer
from batch.zstack.classify import safe_text
from batch.zstack.client_single_request import LONGEST_LINE, NoReplyError, SingleRequest, no_answer, start_watch
from batch.zstack.settings import is_link_local
from batch.zstack.wire import LARGEST, BadReplyError, HttpReply, inflate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batch.zstack.settings import Settings
    from batch.zstack.wire import Outcome, RateGate

JSON_TYPE: Final = "application/json;charset=UTF-8"
"""Without the charset the server reads bodies as Latin-1 (zstack/README.md 1)."""
_CONNECT_TIMEOUT = 10.0
"""Seconds to connect, TLS included."""
_READ_TIMEOUT = 30.0
"""Seconds without a byte of the answer, once the request is sent."""
_TOTAL_TIMEOUT = 60.0
"""Seconds for a whole call."""
_KEEP_ALIVE: Final = 4.0
"""Idle limit, shorter than the keep-alive of servers and proxies: a POST on a connection that is being closed may be
ambiguous."""
_ONE_PIECE: Final = 1 << 16
"""Bytes of a request's body that are sent in one piece."""
_RECEIVE_BUFFER: Final = 1 << 16
"""Bytes that a connection may receive unread: all of them are parsed before other tasks run."""
_LONGEST_HEADER: Final = 8190
"""Maximum characters of one header's value in an answer."""


class Http:
    """HTTP access to one endpoint. Create it in a running event loop, and close it."""

    def __init__(self, settings: Settings, gate: RateGate) -> None:
        """Prepare the session. Raises UsageError where the CA file cannot be read."""
        self._gate = gate
        self._prefix = str(URL(settings.url)).rstrip("/")
        self._cookie: dict[str, str] = {}
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(start_watch)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                ssl=tls_context(settings),
                resolver=_Resolver(),
                ttl_dns_cache=60,
                keepalive_timeout=_KEEP_ALIVE,
                socket_factory=_socket,
            ),
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "zclone"},
            skip_auto_headers=["Content-Type"],
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=_TOTAL_TIMEOUT, connect=_CONNECT_TIMEOUT, sock_connect=_CONNECT_TIMEOUT, sock_read=_READ_TIMEOUT
            ),
            auto_decompress=False,
            trust_env=False,
            trace_configs=[trace],
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE,
        )

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
        """Make one call: ``path`` is percent-encoded and starts with /v1; NotSent where its wait at the gate was cut.

        Raises ValueError for a path or a header that no request can have.
        """
        headers = {**(headers or {}), **self._cookie}
        _check_request(path, headers)
        if not await self._gate.wait(kind, job_uuid):
            return NOT_ADMITTED
        if body is not None:
            headers["Content-Type"] = JSON_TYPE
        try:
            return await self._exchange(method, path, body, headers)
        except NoReplyError as ended:
            return ended.outcome
        except BadReplyError as error:
            return NoAnswer(str(error))
        except (aiohttp.ClientError, OSError) as error:
            return no_answer(error)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def _exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> HttpReply:
        once = SingleRequest()
        response = await self._session.request(
            method,
            URL(self._prefix + path, encoded=True),
            # aiohttp sends a file in pieces, so that other tasks run meanwhile.
            data=body if body is None or len(body) <= _ONE_PIECE else io.BytesIO(body),
            headers=headers,
            allow_redirects=False,
            middlewares=[once],
            trace_request_ctx=once,
        )
        try:
            _check_headers(response)
            whole = await _whole(response.content)
        finally:
            # An answer that was read to its end has already released its connection.
            response.close()
        fields = response.headers
        self._keep_cookie(fields.getall("Set-Cookie", ()))
        encoding = fields.get("Content-Encoding")
        plain = whole if encoding is None else inflate(whole, encoding)
        return HttpReply(response.status, plain, fields.get("Date"), fields.get("Retry-After"))

    def _keep_cookie(self, cookies: Sequence[str]) -> None:
        """Keep the cookie: without it the server creates an HTTP session for every call (zstack/README.md 1)."""
        for text in cookies:
            name, _, value = text.partition(";")[0].strip().partition("=")
            if name == "JSESSIONID" and len(value) <= 128 and value.isascii() and value.replace(".", "").isalnum():
                self._cookie = {"Cookie": f"JSESSIONID={value}"}


def _check_request(path: str, headers: Mapping[str, str]) -> None:
    if not path.startswith("/") or " " in path or not _is_plain(path):
        raise ValueError(f"{path!r} is not the path of a request")
    for name, value in headers.items():
        if not _is_plain(value):
            raise ValueError(f"the header {name} has characters that are invalid in a header")


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _check_headers(response: aiohttp.ClientResponse) -> None:
    """Raise BadReplyError for a header that is too long."""
    for name, value in response.headers.items():
        if len(value) > _LONGEST_HEADER:
            raise BadReplyError(
                f"the answer's header {safe_text(name, 40)} is longer than {_LONGEST_HEADER:,} characters"
            )


async def _whole(content: aiohttp.StreamReader) -> bytes:
    """Read a body. Raises BadReplyError where it is too large."""
    whole = bytearray()
    async for chunk in content.iter_any():
        whole += chunk
        if len(whole) > LARGEST:
            raise BadReplyError(f"the answer is larger than {LARGEST} bytes")
    return bytes(whole)


def _socket(peer: aiohttp.AddrInfoType) -> socket.socket:
    connection = socket.socket(*peer[:3])
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    return connection


class _Resolver(AbstractResolver):
    """Refuses names that resolve to link-local addresses, as metadata services have; literal addresses pass."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            addresses = await self._resolver.resolve(host, port, family)
        except UnicodeError:
            raise OSError(f"{host} is not a valid host name") from None
        if any(is_link_local(entry["host"]) for entry in addresses):
            raise OSError(f"{host} resolves to a link-local address; give the address itself if that is intended")
        return addresses

    async def close(self) -> None:
        await self._resolver.close()


def tls_context(settings: Settings) -> ssl.SSLContext | bool:
    """Return how certificates are verified; True for http. Raises UsageError where the CA file cannot be used."""
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
