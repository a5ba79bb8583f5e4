"""Rows of the conformance table: requests over a socket, and what the last answer must be.

A row's number is the section of the wire description whose fact it states.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from batch.simulator.options import SESSION, NodeAccessKey, NodeAccount, NodeOptions, Source
from batch.simulator.server import run_server

SERVICES: Final = "/v1/ai/model-services"
SOURCE: Final = "d76744cb53f9378abf42b907df3efb6e"
OTHER: Final = "21cb9f654e9d3feab962ce3f5eec5796"
PRIVATE: Final = "3b0f1a2c4d5e6f708192a3b4c5d6e7f8"
CLONE: Final = "90d425a802ff44eeb530f21587633700"
NOBODY: Final = "0" * 32
TENANT: Final = NodeAccount("7" * 32, "tenant", password="tenant-password", quota=1)
IMAGE: Final = "1d919fda666b3bdcb5f4925f1cf17c71"
CENTER: Final = "5c91e7c2d8f04b6f9a1b2c3d4e5f6071"
SPEC: Final = "6d02f8d3e9a14c7f8b2c3d4e5f607182"
TAG: Final = "7e13a9e4fab24d8f9c3d4e5f60718293"
GROUP: Final = "8f24bae5abc34e9f8d4e5f6071829304"
OPTIONS: Final = NodeOptions(
    latency=(0.0, 0.0),
    check_seconds=0.0,
    locale="en_US",
    invent_sources=False,
    accounts=(TENANT,),
    access_keys=(NodeAccessKey("AKID", "key-secret"),),
    tags=(TAG,),
    sources=(
        Source(SOURCE, "alpha", fields={"type": "Endpoint", "requestCpu": 2, "zoneUuid": "z" * 32}),
        Source(OTHER, "beta", fields={"type": "App", "requestCpu": 1}),
        Source(PRIVATE, "private", to_public=False),
        Source(IMAGE, "arm", kind="ImageVO", fields={"architecture": "aarch64"}),
        Source(CENTER, "center", kind="ModelCenterVO"),
        Source(SPEC, "A100", kind="GpuDeviceSpecVO"),
        Source(GROUP, "serving", kind="ModelServiceInstanceGroupVO", fields={"modelServiceUuid": SOURCE}),
    ),
)
NOW: Final = "now"
"""A Date header of the moment it is sent."""
_PATIENCE: Final = 5.0
"""Seconds a job may take."""


@dataclass(frozen=True)
class Ask:
    """A literal request for the socket."""

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    is_poll: bool = False
    """Repeat while the answer is 202, or a legacy result that is being processed."""


@dataclass(frozen=True)
class Answer:
    """Status, headers in lower case and body of an answer."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Has:
    """Equals a text that has all of these parts."""

    parts: tuple[str, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and all(part in other for part in self.parts)

    def __hash__(self) -> int:
        return hash(self.parts)


class Absent:
    """Equals a missing member."""


@dataclass(frozen=True)
class Row:
    """One fact: after all ``asks`` the last answer has this status and body."""

    section: str
    fact: str
    asks: tuple[Ask, ...]
    status: int
    body: Any = None
    """A text, a Has, or members of the JSON by their dotted paths."""
    switches: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Name of the row."""
        return f"{self.section} {self.fact}"


def row(section: str, fact: str, *asks: Ask, is_: tuple[int, Any], **switches: Any) -> Row:
    """Make a row."""
    return Row(section, fact, asks, is_[0], is_[1], switches)


def ask(line: str, body: Any = None, *, session: str | None = SESSION, **headers: str) -> Ask:
    """Make a request of ``GET /v1/…``; a body that is not bytes is written as JSON."""
    method, _, path = line.partition(" ")
    sent = {"Content-Type": "application/json;charset=UTF-8"}
    if session is not None:
        sent["Authorization"] = f"OAuth {session}"
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return Ask(method, path if path.startswith("/zstack") else f"/zstack{path}", data, tuple(sent.items()))


def bare(request: Ask, *names: str) -> Ask:
    """Leave headers out of a request."""
    return replace(request, headers=tuple(pair for pair in request.headers if pair[0] not in names))


def clone(params: Any = None, *, source: str = SOURCE, job: int = 1, tags: Any = None, **headers: str) -> Ask:
    """Make a clone request under a numbered job."""
    body = {"params": params or {}, **(tags or {})}
    return ask(f"POST {SERVICES}/{source}", body, X_Job_UUID=job_uuid(job), **headers)


def job_uuid(number: int = 1) -> str:
    return f"{number:032d}"


def poll(job: int = 1, **headers: str) -> Ask:
    """Poll a job to its end, without credentials."""
    return replace(ask(f"GET /v1/api-jobs/{job_uuid(job)}", session=None, **headers), is_poll=True)


def look(uuid: str = CLONE, **how: Any) -> Ask:
    return ask(f"GET {SERVICES}/{uuid}", **how)


def login(name: str = "admin", password: str = "password") -> Ask:
    body = {"logInByAccount": {"accountName": name, "password": hashlib.sha512(password.encode()).hexdigest()}}
    return ask("PUT /v1/accounts/login", body, session=None)


def member(value: Any, path: str) -> Any:
    """Walk into JSON; ``Absent`` if a step is missing, ``#`` is the length of a list."""
    for step in path.split("|"):
        if step == "#":
            return len(value)
        key: Any = int(step) if isinstance(value, list) and step.lstrip("-").isdigit() else step
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return Absent
    return value


async def play(one: Row) -> Answer:
    """Send a row's requests to a new node; return its last answer."""
    async with run_server(replace(OPTIONS, **one.switches)) as server:
        answer = Answer(0, {}, "")
        for request in one.asks:
            answer = await _settled(server.url, request)
        return answer


async def _settled(url: str, request: Ask) -> Answer:
    end = asyncio.get_running_loop().time() + _PATIENCE
    while True:
        answer = await send(url, request)
        is_running = answer.status == 202 or '"Processing"' in answer.body
        if not request.is_poll or not is_running or asyncio.get_running_loop().time() > end:
            return answer
        await asyncio.sleep(0.01)


def _date() -> str:
    """Write the time of day in the node's zone, by the name that older servers read."""
    return time.strftime("%a, %d %b %Y %H:%M:%S CST", time.gmtime(time.time() + OPTIONS.utc_offset))


async def send(url: str, request: Ask) -> Answer:
    """Write one request to a new connection and read the whole answer."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    lines = [f"{request.method} {request.path} HTTP/1.1", f"Host: {address.netloc}", "Connection: close"]
    lines += [f"{name}: {value if value != NOW else _date()}" for name, value in request.headers]
    lines.append(f"Content-Length: {len(request.body)}")
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + request.body)
    await writer.drain()
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    first, *rest = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return Answer(int(first.split()[1]), headers, body.decode())


def check(one: Row, answer: Answer) -> None:
    """Compare the last answer of a row with what the row says."""
    assert answer.status == one.status, answer
    if not isinstance(one.body, dict):
        assert one.body is None or answer.body == one.body, answer.body
        return
    for path, wanted in one.body.items():
        found = answer.headers.get(path[1:], Absent) if path.startswith("@") else member(answer.json, path)
        assert found is Absent if wanted is Absent else found == wanted, (path, found, answer.body)
