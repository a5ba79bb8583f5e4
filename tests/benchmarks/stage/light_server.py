"""A server that answers clone requests as fast as Python can, so that the client under test is the slow half.

It has the wire's formats and none of its rules: no credentials, no checks, no faults. ``GET /__figures`` reports its
counts, by its own clock. ``python -m tests.benchmarks.stage.light_server [SECONDS [SPREAD]]``: with seconds every clone
is an api job of that length, drawn up to SPREAD (a share) shorter or longer; without, the answer comes with the POST.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from typing import cast

from tests.benchmarks.stage.eventloop import run

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_JOB = re.compile(rb"\r\nx-job-uuid: *(\w+)", re.IGNORECASE)
_RESOURCE = re.compile(rb'"resourceUuid": ?"([0-9a-f]{32})"')
_NAME = re.compile(rb'"name": ?"([^"\\]*)"')
_SERVICES = b"/zstack/v1/ai/model-services/"
_JOBS = b"/zstack/v1/api-jobs/"
_REASONS = {200: b"OK", 202: b"Accepted", 404: b"Not Found"}
_IMAGES = [
    {
        "uuid": uuid,
        "cpuArchitecture": architecture,
        "vmImageUuid": uuid[::-1],
        "dockerImage": f"registry.example.com/{architecture}/myimage:latest",
        "createDate": "Nov 25, 2025 11:51:50 AM",
        "lastOpDate": "Nov 25, 2025 11:51:50 AM",
    }
    for uuid, architecture in (
        ("c13336388d574fec824752525ae05a21", "x86_64"),
        ("46c0e4bb46e849059e6d6bc8881d86f3", "aarch64"),
    )
]
_INVENTORY = {
    "uuid": "@uuid@",
    "name": "@name@",
    "description": "Example description for modelService",
    "yaml": "services:\n  - ports:\n      - 3000\n  livez: /l\nenv:\n  - key:value\npython:\n  version: 3.10\n",
    "requestCpu": 4,
    "requestMemory": 1024,
    "modelCenterUuid": "432c5fdd49374bb0a2fd7877f0a877cf",
    "type": "Endpoint",
    "system": False,
    "installPath": "/example/install/path",
    "pythonVersion": "3.8.10",
    "startCommand": "python3 app.py",
    "supportDistributed": True,
    "modelServiceImages": _IMAGES,
    "createDate": "Nov 25, 2025 11:51:50 AM",
    "lastOpDate": "Nov 25, 2025 11:51:50 AM",
}
_BEFORE, _BETWEEN, _AFTER = re.split(rb"@\w+@", json.dumps({"inventory": _INVENTORY}).encode())


def _inventory(resource: bytes, name: bytes) -> bytes:
    return _BEFORE + resource + _BETWEEN + name + _AFTER


class Book:
    """What the server received."""

    def __init__(self, seconds: float | None, spread: float) -> None:
        self._seconds = seconds
        self._spread = spread
        self._random = random.Random(1)
        self._jobs: dict[bytes, tuple[bytes, float]] = {}
        self._drawn = 0.0
        self.port = 0
        self.posts = self.polls = 0
        self.first = self.last = self.ended = 0.0
        self.late: list[float] = []

    def post(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        """Clone at once, or start a job."""
        now = time.monotonic()
        self.posts += 1
        self.first = self.first or now
        self.last = self.ended = now
        resource, name = _RESOURCE.search(body), _NAME.search(body)
        uuid = resource[1] if resource else b"%032x" % self.posts
        answer = _inventory(uuid, name[1] if name else b"example")
        if self._seconds is None:
            return 200, answer
        given = _JOB.search(head)
        job = given[1] if given else uuid
        seconds = self._seconds * self._random.uniform(1 - self._spread, 1 + self._spread)
        self._drawn += seconds
        self._jobs[job] = answer, now + seconds
        location = b"http://127.0.0.1:%d%s%s" % (self.port, _JOBS, job)
        return 202, b'{"location":"%s","apiTimeout":1800000}' % location

    def poll(self, job: bytes) -> tuple[int, bytes]:
        """Answer a poll; the first answer that the job ended is when the client noticed."""
        now = time.monotonic()
        self.polls += 1
        known = self._jobs.get(job)
        if known is None:
            return 404, b"the job has been expired"
        answer, end = known
        if now < end:
            return 202, b"{}"
        self.late.append(now - end)
        self.ended = now
        return 200, answer

    def figures(self) -> bytes:
        """Return all counts and times, in seconds."""
        fields = {
            "posts": self.posts,
            "polls": self.polls,
            "seconds": self.last - self.first,
            "makespan": self.ended - self.first,
            "drawn": self._drawn,
            "late": sorted(self.late),
            "processor": time.process_time(),
        }
        return json.dumps(fields).encode()


class Connection(asyncio.Protocol):
    """One kept connection; requests may arrive in pieces or several at a time."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        data = self._rest + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(data, 0, end + 1)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(data) < whole:
                break
            status, body = self._answer(data[:end], data[end + 4 : whole])
            assert self._transport is not None
            reason = _REASONS[status]
            self._transport.write(b"HTTP/1.1 %d %s\r\nContent-Length: %d\r\n\r\n%b" % (status, reason, len(body), body))
            data = data[whole:]
        self._rest = data

    def _answer(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        method, path, _ = head.split(b" ", 2)
        if method == b"POST" and path.startswith(_SERVICES):
            return self._book.post(head, body)
        if path.startswith(_JOBS):
            return self._book.poll(path[len(_JOBS) :])
        if path == b"/__figures":
            return 200, self._book.figures()
        if method == b"GET":
            return 200, b'{"inventories":[],"total":0}'
        if path.endswith(b"/login"):
            return 200, b'{"inventory":{"uuid":"b86c9016b4f24953a9edefb53ca0678c"}}'
        return 200, b'{"version":"5.5.22"}' if b"getVersion" in body else b"{}"


async def serve(seconds: float | None, spread: float) -> None:
    """Serve on a free port, which is printed, until the process is ended."""
    book = Book(seconds, spread)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(book), "127.0.0.1", 0, backlog=2048)
    book.port = server.sockets[0].getsockname()[1]
    print(book.port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    numbers = [float(text) for text in sys.argv[1:]]
    run(serve(numbers[0] if numbers else None, numbers[1] if len(numbers) > 1 else 0.0))
