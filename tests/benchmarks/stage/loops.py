"""The scripts one would write instead of zclone: ``python -m tests.benchmarks.stage.loops NAME URL ROWS WORKERS``.

None of them has a journal, a rate or retries. All make the same requests: X-Job-UUID, resourceUuid, JSON both ways.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aiohttp
from yarl import URL

from batch.engine.job_times import JobTimes
from tests.benchmarks.stage.eventloop import run
from tests.crash.stage import SESSION

if TYPE_CHECKING:
    from collections.abc import Iterator

try:
    _orjson = import_module("orjson")
    loads, dumps = _orjson.loads, _orjson.dumps
except ImportError:

    def dumps(value: Any) -> bytes:
        return json.dumps(value).encode()

    loads = json.loads

_HEADERS = {"Authorization": f"OAuth {SESSION}", "Content-Type": "application/json;charset=UTF-8"}
_SERVICES = "/v1/ai/model-services/"


def _request(line: bytes) -> tuple[str, bytes]:
    row = loads(line)
    return row["uuid"], dumps({"params": {**row["params"], "resourceUuid": uuid4().hex}})


class _Polls:
    """Waits before polls as long as zclone does, so that only the cost differs, not the policy."""

    def __init__(self) -> None:
        self._times = JobTimes()

    async def end(self, session: aiohttp.ClientSession, url: str) -> Any:
        """Poll the job until it has ended, and return its answer."""
        began, target = time.monotonic(), URL(url, encoded=True)
        running_at = 0.0
        while True:
            due = self._times.age_at(0.5, running_at=running_at)
            await asyncio.sleep(max(0.02, began + due - time.monotonic()))
            age = time.monotonic() - began
            async with session.get(target, allow_redirects=False) as response:
                answer = loads(await response.read())
            if response.status == 200:
                self._times.note_end(running_at, age)
                self._times.refresh()
                return answer
            self._times.note_running(running_at, age)
            running_at = age


async def tuned(url: str, lines: Iterator[bytes], workers: int) -> None:
    """The fastest loop with aiohttp, as measured."""
    connector = aiohttp.TCPConnector(limit=0)
    polls = _Polls()

    async def worker(session: aiohttp.ClientSession) -> None:
        for line in lines:
            uuid, body = _request(line)
            job = uuid4().hex
            target = URL(url + _SERVICES + uuid, encoded=True)
            async with session.post(target, data=body, headers={"X-Job-UUID": job}, allow_redirects=False) as response:
                answer = loads(await response.read())
            if response.status == 202:
                answer = await polls.end(session, f"{url}/v1/api-jobs/{job}")
            assert answer["inventory"]["uuid"]

    async with aiohttp.ClientSession(
        connector=connector,
        headers=_HEADERS,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        gc.freeze()
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(worker(session))


async def naive(url: str, lines: Iterator[bytes], workers: int) -> None:
    """A task for every target behind a semaphore, the obvious first version."""
    turn = asyncio.Semaphore(workers)

    async def clone(session: aiohttp.ClientSession, row: dict[str, Any]) -> None:
        body = {"params": {**row["params"], "resourceUuid": uuid4().hex}}
        headers = {**_HEADERS, "X-Job-UUID": uuid4().hex}
        async with turn, session.post(url + _SERVICES + row["uuid"], json=body, headers=headers) as response:
            response.raise_for_status()
            assert (await response.json(content_type=None))["inventory"]["uuid"]

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(clone(session, json.loads(line)) for line in lines))


def threads(url: str, lines: Iterator[bytes], workers: int) -> None:
    """Threads with a requests.Session each."""
    own = threading.local()
    requests = import_module("requests")

    def clone(line: bytes) -> None:
        if not hasattr(own, "session"):
            own.session = requests.Session()
        row = json.loads(line)
        body = {"params": {**row["params"], "resourceUuid": uuid4().hex}}
        headers = {**_HEADERS, "X-Job-UUID": uuid4().hex}
        answer = own.session.post(url + _SERVICES + row["uuid"], json=body, headers=headers)
        answer.raise_for_status()
        assert answer.json()["inventory"]["uuid"]

    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(clone, lines):
            pass


def main(name: str, url: str, rows: str, workers: str) -> None:
    """Clone every row."""
    with open(rows, "rb") as lines:  # noqa: PTH123 - an iterator of bytes is all that is wanted
        if name == "threads":
            threads(url, lines, int(workers))
        elif name == "naive":
            asyncio.run(naive(url, lines, int(workers)))
        else:
            run(tuned(url, lines, int(workers)))


if __name__ == "__main__":
    main(*sys.argv[1:])
