"""Replaces the socket: latency, lost answers, and requests that arrive although their sender was killed."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from batch.model import CallKind
from batch.simulator.wire import Drop, Later, Request, Response
from batch.zstack.answers import NOT_ADMITTED, NoAnswer, NotSent
from batch.zstack.wire import HttpReply
from tests.simulation.virtual import EPOCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.engine import Gate
    from batch.zstack.wire import Outcome
    from tests.simulation.process import Process
    from tests.simulation.virtual import VirtualLoop
    from tests.simulation.world import World

_BASE: Final = "/zstack"
"""The node's context path."""
_NOISE: Final = (
    b"",
    b"null",
    b"[]",
    b'"accepted"',
    b"[" * 100_000,
    b'{"location":' * 5_000,
    b"1" * 5_000,
    b'{"inventory":NaN',
    b"\xff\xfe{\x00}\x00",
    b"<html><title>welcome</title></html>",
)
"""No answer of ZStack; the empty one stands for random bytes."""
_READ_BY_BODY: Final = {200, 202, 503}
"""Statuses without meaning but for their body."""
_PATIENCE: Final = 30.0
"""Seconds the client waits for an answer."""


class _Noise(HttpReply):
    """An answer without meaning."""


class SimHttp:
    """The Transport of one process; what it has sent arrives even if the process is killed first."""

    def __init__(self, world: World, process: Process, gate: Gate, loop: VirtualLoop) -> None:
        self._world = world
        self._process = process
        self._gate = gate
        self._loop = loop

    def _kills(self, request: Request) -> bool:
        """Return whether the answer is about the clone that kills processes: its POST, its job, or a lookup of it."""
        uuid = self._world.killer_uuid
        if uuid is None:
            return False
        jobs = {post.job for story in self._world.witness.stories.values() for post in story.posts.get(uuid, ())}
        return uuid in request.path or uuid.encode() in request.body or request.path.rpartition("/")[2] in jobs

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
        self._process.heard_noise = False
        if not await self._gate.wait(kind, job_uuid):
            return NOT_ADMITTED
        self._process.step(f"call {method}")
        witness = self._world.witness
        witness.addressed(self._process, path)
        request = self._request(method, path, body, headers)
        witness.called(self._process, request, self._loop.time())
        if kind is CallKind.CLONE:
            self._check_record(request)
        outcome = await self._send(request)
        if self._kills(request):
            self._process.die()
        self._process.heard_noise = isinstance(outcome, _Noise) and outcome.status in _READ_BY_BODY
        witness.answered(self._process, request, outcome)
        return outcome

    async def _send(self, request: Request) -> Outcome:
        inbox: list[Response | Drop | Later | None] = []
        there, back = (0.001 + 0.05 * self._world.random.random() ** 3 for _ in range(2))
        self._world.at(self._loop.time() + there, lambda: inbox.append(self._deliver(request)))
        return await self._answer(inbox, there, back)

    def _deliver(self, request: Request) -> Response | Drop | Later | None:
        """Pass the request to the node, even from a dead sender; None if the node does not listen."""
        world = self._world
        if EPOCH + world.now < world.node.down_until:
            return None
        if world.hooks is not None and "x-web-hook" in request.headers:
            world.hooks.saw(request)
        delivery = world.node.receive(request, EPOCH + world.now)
        world.say(f"{request.method} {request.path} -> {_shown(delivery)}")
        return delivery

    def _request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None) -> Request:
        parts = urlsplit(path)
        named = {name.lower(): value for name, value in (headers or {}).items()}
        if body is not None:
            named["content-type"] = "application/json;charset=UTF-8"
        query = tuple(parse_qsl(parts.query, keep_blank_values=True))
        return Request(method, _BASE + unquote(parts.path), query, named, body or b"")

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._world.advance(self._loop.time())
        self._process.step("network")

    async def _answer(self, inbox: list[Response | Drop | Later | None], there: float, back: float) -> Outcome:
        await self._wait(there + 1e-9)
        delivery = inbox[0]
        if delivery is None:
            return NotSent("connection refused")
        if isinstance(delivery, Later):
            wait = delivery.due - EPOCH - self._loop.time()
            await self._wait(min(max(0.0, wait) + 1e-6, _PATIENCE))
            delivery = delivery.outcome
        if delivery is None:
            return NoAnswer("no answer in time", is_push_back=True)
        if isinstance(delivery, Drop):
            await self._wait(min(delivery.delay, _PATIENCE))
            return NoAnswer("the connection was lost")
        await self._wait(min(delivery.delay + back, _PATIENCE))
        if delivery.delay >= _PATIENCE:
            return NoAnswer("no answer in time", is_push_back=True)
        if delivery.cut is not None:
            return NoAnswer("the answer was cut off")
        named = {name.lower(): value for name, value in delivery.headers}
        reply = HttpReply(delivery.status, delivery.body, None, named.get("retry-after"))
        return self._garbled(reply)

    def _garbled(self, reply: HttpReply) -> HttpReply:
        """Sometimes answer something that ZStack never would: no engine may believe it, or fail because of it."""
        random = self._world.random
        if not self._world.garbled or random.random() >= self._world.garbled:
            return reply
        body = random.choice(_NOISE) or random.randbytes(random.randint(1, 400))
        return _Noise(reply.status, body, None, reply.retry_after)

    def _check_record(self, request: Request) -> None:
        """I4 and I14: each POST has a durable record of the same uuids and digest, and none follows a failed write."""
        world, job = self._world, request.headers["x-job-uuid"]
        uuid = json.loads(request.body)["params"].get("resourceUuid", "")
        digest = next((clone.digest for clone in world.versions.values() if clone.body == request.body), "no such body")
        file = world.disk.files.get(self._process.manifest)
        synced = file.synced if file is not None and file.is_named else b""
        wanted = [f'"{name}":"{value}"'.encode() for name, value in _ids(job, uuid, digest)]
        # The last lines first: a POST follows its record closely.
        if not any(all(part in line for part in wanted) for line in reversed(synced.splitlines())):
            world.witness.broken.append(f"I4: POST {job} without a durable record of its ids and digest")
        if self._loop.time() > self._process.failed_at:
            world.witness.broken.append(f"I14: POST {job} after the journal failed")

    async def close(self) -> None:
        return None


def _ids(job: str, uuid: str, digest: str) -> tuple[tuple[str, str], ...]:
    return ("state", "sent"), ("job_uuid", job), ("resource_uuid", uuid), ("digest", digest)


def _shown(delivery: Response | Drop | Later) -> str:
    if isinstance(delivery, Response):
        return f"{delivery.status} {delivery.body[:200]!r} {delivery.delay:.6f} {delivery.cut}"
    return f"{type(delivery).__name__}"
