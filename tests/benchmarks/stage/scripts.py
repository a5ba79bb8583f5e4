"""Scripts as people write them: ``python -m tests.benchmarks.stage.scripts NAME URL ROWS WORKERS RATE [TRIES]``.

Each clone is a POST, then a poll every second until its job has ended, as the vendor's SDK does it, all behind a rate
limiter. None of them has a journal. With TRIES above 1 what fails in any way is sent again, as a new request.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
from asyncio_throttle import Throttler  # type: ignore[attr-defined] # its documented place

from tests.crash.stage import SESSION

_HEADERS = {"Authorization": f"OAuth {SESSION}", "Content-Type": "application/json;charset=UTF-8"}
_SERVICES = "/v1/ai/model-services/"
_POLL_EVERY = 1.0


async def gather(url: str, rows: list[dict[str, Any]], workers: int, rate: float, tries: int) -> int:
    """``asyncio.gather`` and a semaphore; return how many clones failed."""
    turn, throttler = asyncio.Semaphore(workers), Throttler(int(rate))

    async def settle(session: aiohttp.ClientSession, row: dict[str, Any]) -> bool:
        for _ in range(tries):
            with suppress(aiohttp.ClientError):
                await clone(session, row)
                return True
        return False

    async def clone(session: aiohttp.ClientSession, row: dict[str, Any]) -> None:
        job = uuid4().hex
        body = {"params": {**row["params"], "resourceUuid": uuid4().hex}}
        async with turn:
            async with throttler:
                await _answer(session.post(url + _SERVICES + row["uuid"], json=body, headers={"X-Job-UUID": job}))
            status = 202
            while status == 202:
                await asyncio.sleep(_POLL_EVERY)
                async with throttler:
                    status = await _answer(session.get(f"{url}/v1/api-jobs/{job}"))

    async with aiohttp.ClientSession(headers=_HEADERS) as session:
        return (await asyncio.gather(*(settle(session, row) for row in rows))).count(False)


async def _answer(call: Any) -> int:
    async with call as response:
        await response.read()
        response.raise_for_status()
        return int(response.status)


def threads(url: str, rows: list[dict[str, Any]], workers: int, rate: float, tries: int) -> int:
    """A thread for each clone in flight, with requests; return how many clones failed."""
    requests, own, turn, last = import_module("requests"), threading.local(), threading.Lock(), [0.0]

    def wait() -> None:
        with turn:
            time.sleep(max(0.0, last[0] + 1 / rate - time.monotonic()))
            last[0] = time.monotonic()

    def clone(row: dict[str, Any]) -> None:
        if not hasattr(own, "session"):
            own.session = requests.Session()
            own.session.headers.update(_HEADERS)
        job, body = uuid4().hex, {"params": {**row["params"], "resourceUuid": uuid4().hex}}
        wait()
        own.session.post(url + _SERVICES + row["uuid"], json=body, headers={"X-Job-UUID": job}).raise_for_status()
        status = 202
        while status == 202:
            time.sleep(_POLL_EVERY)
            wait()
            response = own.session.get(f"{url}/v1/api-jobs/{job}")
            response.raise_for_status()
            status = response.status_code

    def settle(row: dict[str, Any]) -> bool:
        for _ in range(tries):
            with suppress(requests.RequestException):
                clone(row)
                return True
        return False

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(settle, rows)).count(False)


def main(name: str, url: str, file: str, workers: str, rate: str, tries: str = "1") -> int:
    """Clone every row; return 1 where any clone failed."""
    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    if name == "threads":
        failed = threads(url, rows, int(workers), float(rate), int(tries))
    else:
        failed = asyncio.run(gather(url, rows, int(workers), float(rate), int(tries)))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
