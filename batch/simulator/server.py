"""The node behind a socket, and who may use its own pages: aiohttp handles I/O, the core decides all answers."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from batch.simulator.control import read_control
from batch.simulator.node import Node
from batch.simulator.script import ScriptError
from batch.simulator.state import StateFile
from batch.simulator.wire import Drop, Later, Request, Response, WebHook, is_loopback, is_loopback_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from batch.simulator.options import NodeOptions
    from batch.simulator.wire import Delivery, Json

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_BODY_LIMIT: Final = 64 * 1024 * 1024
_TICK: Final = 0.01
TOKEN_HEADER: Final = "X-Node-Token"  # noqa: S105 - a header's name
_OWN_PAGES: Final = "/__"
"""Path prefix of the node's own pages, which ZStack does not have: ledger and controls."""
_JSON: Final = "application/json"
_HOOK_TIMEOUT: Final = ClientTimeout(total=10)


class _Answer(web.Response):
    """A reply with exactly the bytes of the node."""

    def __init__(self, reply: Response) -> None:
        super().__init__(status=reply.status, body=reply.body)
        self.is_typed = any(name == "Content-Type" for name, _ in reply.headers)
        for name, value in reply.headers:
            self.headers.add(name, value)


class NodeServer:
    """A running node: ``url`` is its base URL with the context path. Made by ``serve``."""

    def __init__(self, node: Node, clock: Callable[[], float], state: StateFile | None) -> None:
        """Store the parts; use ``serve`` instead."""
        self.node = node
        self.url = ""
        self.port = 0
        self.token = ""  # nosec B105 - drawn when it is served
        """Value of ``X-Node-Token`` for ledger and controls."""
        self._host = ""
        self._clock = clock
        self._state = state
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._hooks: set[asyncio.Task[None]] = set()
        self._restart_task: asyncio.Task[None] | None = None

    async def open(self, host: str, port: int) -> None:
        """Listen; ``port`` 0 takes a free one. Raises OSError."""
        guard = _Guard(host)
        self.token = guard.token
        app = web.Application(client_max_size=_BODY_LIMIT, middlewares=[guard.check])
        app.router.add_route("*", "/__ledger", self._ledger)
        app.router.add_post("/__control", self._control)
        app.router.add_post("/__tamper", self._control)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_response_prepare.append(_strip_headers)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.2)
        await self._runner.setup()
        self._host = host
        await self._listen(port)
        self.node.origin = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self.url = self.node.origin + self.node.options.context_path

    async def close(self) -> None:
        """Stop listening, run all queued actions, release the state file."""
        if self._restart_task is not None:
            self._restart_task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._timer is not None:
            self._timer.cancel()
        self.node.drain()
        for task in self._hooks:
            task.cancel()
        await asyncio.gather(*self._hooks, return_exceptions=True)
        if self._state is not None:
            self._state.close()

    def ledger(self, *, clones: bool = True, times: bool = True) -> Json:
        """Return the ledger as it is now."""
        self.node.advance(self._clock())
        return self.node.report(self._clock(), clones=clones, times=times)

    async def _listen(self, port: int) -> None:
        assert self._runner is not None
        self._site = web.TCPSite(self._runner, self._host, port, reuse_address=True, backlog=1024)
        await self._site.start()
        self.port = self._runner.addresses[-1][1]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        delivery = self.node.receive(await _read(request), self._clock())
        self._schedule_next()
        delivery = await self._wait(delivery)
        if isinstance(delivery, Drop):
            return _abort(request)
        if delivery.cut is not None:
            return await _send_cut(request, delivery)
        return _Answer(delivery)

    async def _wait(self, delivery: Delivery) -> Response | Drop:
        if isinstance(delivery, Later):
            await asyncio.sleep(max(0.0, delivery.due - self._clock()))
            self.node.advance(max(self._clock(), delivery.due))
            self._schedule_next()
            assert delivery.outcome is not None
            return await self._wait(delivery.outcome)
        if delivery.delay > _TICK:
            await asyncio.sleep(delivery.delay)
        return delivery

    def _schedule_next(self) -> None:
        """Set the timer for the next action, send web hooks, and stop listening if the node crashed."""
        for hook in self.node.take_hooks():
            task = asyncio.get_running_loop().create_task(self._call_hook(hook))
            self._hooks.add(task)
            task.add_done_callback(self._hooks.discard)
        if self.node.down_until > self._clock() and self._restart_task is None:
            self._restart_task = asyncio.get_running_loop().create_task(self._go_down())
        due = self.node.next_due
        if self._timer is None and due is not None:
            delay = max(_TICK, due - self._clock())
            self._timer = asyncio.get_running_loop().call_later(min(delay, 0.05), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.node.advance(self._clock())
        self._schedule_next()

    async def _go_down(self) -> None:
        """Refuse connections until the node is up again."""
        assert self._site is not None
        await self._site.stop()
        await asyncio.sleep(self.node.down_until - self._clock())
        await self._listen(self.port)
        self._restart_task = None

    async def _call_hook(self, hook: WebHook) -> None:
        if not (self.node.options.hooks_anywhere or is_loopback_url(hook.url)):
            self.node.ledger.counts["hooks_refused"] += 1
            return
        # The real server trusts every certificate here.
        async with ClientSession(connector=TCPConnector(ssl=False), timeout=_HOOK_TIMEOUT) as session:
            try:
                async with session.post(
                    hook.url, data=hook.body, headers=dict(hook.headers), allow_redirects=False
                ) as answer:
                    ok = 200 <= answer.status < 300
            except (ClientError, TimeoutError, ValueError):
                ok = False
        self.node.hook_answered(hook, self._clock(), ok=ok)
        self._schedule_next()

    async def _ledger(self, request: web.Request) -> web.Response:
        shown = {name: request.query.get(name) != "false" for name in ("clones", "times")}
        return web.json_response(self.ledger(**shown))

    async def _control(self, request: web.Request) -> web.Response:
        """Control the node (restart in seconds, expire_sessions, faults, sources), or change its database."""
        try:
            order = json.loads(await request.read())
            if request.path == "/__tamper":
                self.node.tamper(order, self._clock())
            else:
                read_control(order).apply(self.node, self._clock())
                self._schedule_next()
        except (ValueError, RecursionError, ScriptError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({})


class _Guard:
    """Refuses requests from web pages, other hosts and other users of this machine."""

    def __init__(self, host: str) -> None:
        """``host``: the address that the node listens on; a new token is drawn."""
        self.token = secrets.token_hex(16)
        self._is_local = is_loopback(host)

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer 403 to unauthorised requests, and 415 to a control request that is not JSON."""
        is_own = request.path.startswith(_OWN_PAGES)
        # Beyond loopback the node cannot know its own host names, but its credentials are random.
        if (is_own or self._is_local) and not _is_from_here(request):
            raise web.HTTPForbidden(text="this node answers http://localhost and loopback addresses only")
        if is_own:
            self._require_token(request)
        return await handler(request)

    def _require_token(self, request: web.Request) -> None:
        given = request.headers.get(TOKEN_HEADER, "")
        if not is_loopback(request.remote) or not hmac.compare_digest(given.encode(), self.token.encode()):
            raise web.HTTPForbidden(text=f"send the token of the node's first line of output as {TOKEN_HEADER}")
        if request.method not in {"GET", "HEAD"} and request.content_type != _JSON:
            raise web.HTTPUnsupportedMediaType(text=f"Content-Type must be {_JSON}")


def _is_from_here(request: web.Request) -> bool:
    """Return whether neither Host nor Origin names another machine, since DNS can map a foreign name to this one."""
    origin = request.headers.get("Origin")
    return is_loopback_url(f"//{request.headers.get('Host', '')}") and (origin is None or is_loopback_url(origin))


async def _read(request: web.Request) -> Request:
    return Request(
        method=request.method,
        path=request.path,
        query=tuple(parse_qsl(request.url.raw_query_string, keep_blank_values=True)),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=await request.read(),
    )


async def _strip_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Remove headers that aiohttp adds; the real server sends no content type by default."""
    if isinstance(response, _Answer):
        if not response.is_typed:
            response.headers.popall("Content-Type", None)
        response.headers["Server"] = "Apache-Coyote/1.1"


def _abort(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _send_cut(request: web.Request, reply: Response) -> web.StreamResponse:
    """Send the headers of the whole body, part of the body, then reset the connection."""
    response = web.StreamResponse(status=reply.status)
    response.content_length = len(reply.body)
    await response.prepare(request)
    await response.write(reply.body[: reply.cut])
    await asyncio.sleep(_TICK)
    _abort(request)
    return response


def _wall_clock() -> Callable[[], float]:
    """Return a monotonic clock that starts at the current time, in seconds since the epoch."""
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()


async def serve(
    options: NodeOptions | None = None, *, host: str = "127.0.0.1", port: int = 0, state: Path | None = None
) -> NodeServer:
    """Start a node; close the server when done.

    ``state`` keeps the node's database between starts. Raises StateError when another process holds it or it is
    damaged, OSError when the port is taken.
    """
    clock = _wall_clock()
    file = await asyncio.to_thread(StateFile.open, state) if state is not None else None
    try:
        events, journal = ((), None) if file is None else (file.events(), file.append)
        server = NodeServer(Node(options, now=clock(), events=events, journal=journal), clock, file)
        await server.open(host, port)
    except BaseException:
        if file is not None:
            file.close()
        raise
    return server


@asynccontextmanager
async def run_server(options: NodeOptions | None = None, *, state: Path | None = None) -> AsyncIterator[NodeServer]:
    """Serve a node on a free loopback port for the length of the block."""
    server = await serve(options, state=state)
    try:
        yield server
    finally:
        await server.close()
