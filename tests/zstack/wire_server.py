"""A server that sends exactly the bytes a test gives, and records exactly the bytes it received."""

from __future__ import annotations

import asyncio
import inspect
import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from batch.model import CallKind, Clone
from batch.zstack.calls import RetryClient
from batch.zstack.client import SERVICES_PATH, Client
from batch.zstack.settings import Auth, SessionAuth, Settings, endpoint_url
from batch.zstack.wire import segment

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from batch.zstack.classify import Language

SESSION = "5e5510" + "a" * 26
JOB = "1" * 12 + "4" + "1" * 3 + "8" + "1" * 15
RESOURCE = "2" * 12 + "4" + "2" * 3 + "8" + "2" * 15
SOURCE = "d76744cb53f9378abf42b907df3efb6e"
CLONE = Clone("key", SOURCE, RESOURCE, b'{"params":{}}', "d" * 32)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as received."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def call(self) -> str:
        """Method and path, without the context path."""
        return f"{self.method} {self.target.removeprefix('/zstack').partition('?')[0]}"

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class VirtualClock:
    """Sleeping moves it."""

    now: float = 1_764_000_000.0
    slept: list[float] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def random(self) -> float:
        return 0.5

    def uuid(self) -> str:
        return uuid.uuid4().hex


@dataclass
class CountingGate:
    """Counts what passes."""

    passed: int = 0
    pauses: list[float] = field(default_factory=list)
    refusals: int = 0
    patience: int = 0
    """After how many refusals of the server's limiter it says that nothing helps."""
    cut: tuple[CallKind, ...] = ()
    """Kinds whose waits are cut."""

    async def wait(self, kind: CallKind, job_uuid: str = "") -> bool:
        self.passed += kind not in self.cut
        return kind not in self.cut

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def slow_down(self) -> bool:
        self.refusals += 1
        return self.refusals < self.patience


class WireServer:
    """Answers each request with the bytes ``handler`` gives; None closes the connection without an answer."""

    def __init__(
        self, handler: Callable[[Seen], bytes | Awaitable[bytes | None] | None], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._handler = handler
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self.seen: list[Seen] = []
        self.connections = 0
        self.closes = False
        """Whether each connection ends after its first answer."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/zstack"

    @property
    def calls(self) -> list[str]:
        return [seen.call for seen in self.seen]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in headers.items()}
        seen = Seen(method, target, headers, await reader.readexactly(int(headers.get("content-length", "0"))))
        self.seen.append(seen)
        made = self._handler(seen)
        data = await made if inspect.isawaitable(made) else made
        if data is None:
            return False
        writer.write(data)
        await writer.drain()
        if self.closes or b"Connection: close" in data.partition(b"\r\n\r\n")[0]:
            writer.close()
            await writer.wait_closed()
            return False
        return True


def answer(status: int, body: object = None, **headers: str) -> bytes:
    """Make an HTTP answer: bytes and texts as they are, anything else as JSON, and no Content-Type, as ZStack."""
    data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    data = b"" if body is None else data
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


def error(code: str, details: str = "", **more: object) -> dict[str, object]:
    """Make an error body of ZStack."""
    return {"error": {"code": code, "description": "some description", "details": details, **more}}


def client_of(
    url: str,
    auth: Auth | None = None,
    *,
    gate: CountingGate | None = None,
    clock: VirtualClock | None = None,
    language: Language = "en",
) -> Client:
    """Make a client of a test's server."""
    settings = Settings(endpoint_url(url), auth or SessionAuth(SESSION))
    return Client(settings, gate=gate or CountingGate(), clock=clock or VirtualClock(), language=language)


async def delete_service(client: Client, uuid: str) -> None:
    """Delete one model service and wait for its end."""
    path = f"{SERVICES_PATH}/{segment(uuid)}?deleteMode=Permissive"
    await RetryClient(client).finish("DeleteModelService", "DELETE", path)
