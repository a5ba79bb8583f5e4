"""The only door to the network: one aiohttp session, one endpoint, every call through the gate.

No redirect is followed, no proxy or .netrc is read, no cookie but the server's own JSESSIONID goes back, no call is
silently sent twice, and no exception of aiohttp leaves this module (their reprs carry the Authorization header).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from batch.errors import UsageError
from batch.zstack.answers import NoAnswer, NotSent
from batch.zstack.classify import safe_text
from batch.zstack.decode import LARGEST, BadReplyError, inflate
from batch.zstack.settings import is_link_local
from batch.zstack.wire import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.zstack.settings import Settings
    from batch.zstack.wire import Gate, Outcome

JSON_TYPE: Final = "application/json;charset=UTF-8"
"""Without the charset the server reads bodies as Latin-1 (wire: section 1)."""
_TIMEOUT: Final = aiohttp.ClientTimeout(total=60, connect=10, sock_connect=10, sock_read=30)
_KEEP_ALIVE = 4.0
"""Seconds, below what servers and proxies keep: a POST on a connection that is just being closed is an ambiguity."""
_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)
_FAILED = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


class Http:
    """One endpoint. Make it inside a running event loop, and close it."""

    def __init__(self, settings: Settings, gate: Gate) -> None:
        """Raise UsageError where the CA file cannot be read."""
        self._base = settings.url
        self._gate = gate
        self._cookie: str | None = None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                ssl=_tls(settings),
                keepalive_timeout=_KEEP_ALIVE,
                resolver=_Resolver(),
                ttl_dns_cache=60,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "zclone"},
            timeout=_TIMEOUT,
            trust_env=False,
            auto_decompress=False,
        )
        # aiohttp sends GET, PUT and DELETE again by itself when a kept connection was dropped: past the gate, and a
        # login or a DELETE twice.
        self._session._retry_connection = False  # noqa: SLF001 - no public switch; a test watches that it works

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
        try:
            async with self._session.request(
                method,
                URL(self._base + path, encoded=True),
                data=body,
                headers=self._headers(headers, body),
                allow_redirects=False,
            ) as response:
                return await self._read(response)
        except _NOT_SENT as error:
            return NotSent(_not_sent(error))
        except BadReplyError as error:
            return NoAnswer(str(error))
        except _FAILED as error:
            return NoAnswer(_lost(error), is_push_back=isinstance(error, TimeoutError))

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    def _headers(self, headers: Mapping[str, str] | None, body: bytes | None) -> dict[str, str]:
        made = dict(headers) if headers is not None else {}
        if body is not None:
            made["Content-Type"] = JSON_TYPE
        if self._cookie is not None:
            made["Cookie"] = self._cookie
        return made

    async def _read(self, response: aiohttp.ClientResponse) -> Reply:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > LARGEST:
                raise BadReplyError(f"the answer is larger than {LARGEST} bytes")
        headers = response.headers
        self._keep_cookie(response)
        return Reply(
            response.status,
            inflate(bytes(body), headers.get("Content-Encoding", "")),
            headers.get("Date"),
            headers.get("Retry-After"),
        )

    def _keep_cookie(self, response: aiohttp.ClientResponse) -> None:
        """Without it the server makes an HTTP session of its own for every single call (wire: section 1)."""
        for text in response.headers.getall("Set-Cookie", ()):
            name, _, value = text.partition(";")[0].strip().partition("=")
            if name == "JSESSIONID" and len(value) <= 128 and value.isascii() and value.replace(".", "").isalnum():
                self._cookie = f"JSESSIONID={value}"


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
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is not HTTP"
    return f"the connection was lost ({type(error).__name__})"
