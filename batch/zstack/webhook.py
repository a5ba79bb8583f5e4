"""The listener for web hooks: the server POSTs the end of a job to a path that nobody can guess (zstack/README.md 7).

Whatever comes is answered 200, as the server repeats anything else 14 times; the engine decides what it is good for.
The path is new in each process and in no log line.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from typing import TYPE_CHECKING, Final, Protocol, Self

from aiohttp import web

from batch.errors import UsageError
from batch.zstack.replies import read_hook

if TYPE_CHECKING:
    from types import TracebackType

    from batch.zstack.answers import Done, NoAnswer

LARGEST_HOOK: Final = 1 << 20
"""Bytes of a body that are read at most; the job of a larger one is polled."""
_READ_TIME: Final = 10.0
"""Seconds that a body may take."""
_TOKEN_BYTES: Final = 16
_SILENT: Final = logging.Logger("webhook", logging.CRITICAL + 1)  # noqa: LOG001 - nobody else may set it up
"""What aiohttp logs of a malformed request has its path."""


class Receiver(Protocol):
    """Who is told of web hooks."""

    def knows(self, job_uuid: str) -> bool:
        """Whether a web hook of that job is worth reading."""

    def receive(self, job_uuid: str, hook: Done | NoAnswer) -> object:
        """Take in a web hook."""


class HookListener:
    """An async context that listens; ``url`` is what the server is asked to call."""

    def __init__(self, host: str, port: int, *, base: str | None, receiver: Receiver) -> None:
        """``port`` 0 takes a free one. ``base``: the URL under which the server reaches it, None for host and port."""
        self._host = host
        self._port = port
        self._base = base
        self._receiver = receiver
        self.token = secrets.token_hex(_TOKEN_BYTES)
        """The path without its slash: a secret."""
        self.url = ""
        self.address = ""
        """Host and port, for people."""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        """Listen. Raises UsageError where that is impossible."""
        app = web.Application(client_max_size=LARGEST_HOOK)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            app, access_log=None, logger=_SILENT, handle_signals=False, shutdown_timeout=0.2, lingering_time=2.0
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            where = f"{self._host}:{self._port}"
            raise UsageError(f"--webhook-listen {where}: cannot listen there: {error.strerror or error}") from None
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.address = f"{host}:{self._runner.addresses[0][1]}"
        self.url = f"{self._base or f'http://{self.address}'}/{self.token}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        job_uuid = request.headers.get("X-Job-UUID", "")
        if request.method == "POST" and self._is_ours(request) and self._receiver.knows(job_uuid):
            body = await _read(request)
            if body is not None:
                self._receiver.receive(job_uuid, read_hook(body, request.headers.get("X-Job-Success", "")))
        return web.Response()

    def _is_ours(self, request: web.Request) -> bool:
        # A proxy may have put a path of its own before it.
        path = request.rel_url.raw_path.rpartition("/")[2]
        return hmac.compare_digest(path.encode(), self.token.encode())


async def _read(request: web.Request) -> bytes | None:
    """Return the body; None where it is too long, too slow or broke off."""
    try:
        async with asyncio.timeout(_READ_TIME):
            return await request.read()
    except Exception:  # noqa: BLE001 - whatever is wrong with it, the job is polled
        return None
