"""The listener for web hooks: the server POSTs the end of a job to a secret path (zstack/README.md 7).

Every request is answered 200, as the server repeats any other 14 times; the engine decides on its effect. The path is
new in each process and appears in no log line.
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
"""Maximum bytes of a body; the job of a larger one is polled."""
_READ_TIME: Final = 10.0
"""Seconds within which a body must be read."""
_TOKEN_BYTES: Final = 16
_SILENT: Final = logging.Logger("webhook", logging.CRITICAL + 1)  # noqa: LOG001 - not configurable from elsewhere
"""aiohttp's log of a malformed request contains its path."""


class Receiver(Protocol):
    """Receives web hooks."""

    def knows(self, job_uuid: str) -> bool:
        """Return whether a web hook of that job should be read."""

    def receive(self, job_uuid: str, hook: Done | NoAnswer) -> object:
        """Process a web hook."""


class HookListener:
    """An async context that listens; ``url`` is the URL that the server calls."""

    def __init__(self, host: str, port: int, *, base: str | None, receiver: Receiver) -> None:
        """Prepare to listen; ``port`` 0 selects a free one.

        ``base``: the URL under which the server reaches it, None for host and port.
        """
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
        """Start to listen. Raises UsageError where that is impossible."""
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
        # A proxy may have prefixed a path of its own.
        path = request.rel_url.raw_path.rpartition("/")[2]
        return hmac.compare_digest(path.encode(), self.token.encode())


async def _read(request: web.Request) -> bytes | None:
    """Return the body; None where it is too long, too slow or cut off."""
    try:
        async with asyncio.timeout(_READ_TIME):
            return await request.read()
    except Exception:  # noqa: BLE001 - whatever is wrong with it, the job is polled
        return None
