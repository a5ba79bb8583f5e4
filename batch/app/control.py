"""``zclone control``: change the limits of a running process through a socket beside its manifest.

A question and an answer are one line of JSON each. Both ends ask the kernel who the other one is (SO_PEERCRED).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import socket
import stat
import struct
import time
from asyncio import to_thread
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from batch import jobfile
from batch.app.messages import warn
from batch.app.prepare import limits_of
from batch.errors import RunStoppedError, UsageError, ZcloneError
from batch.jobfile.units import read_rate
from batch.manifest import is_held, summary
from batch.manifest.kinds import ControlledLine
from batch.text import to_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from batch.app.prepare import Setup
    from batch.engine import Stop
    from batch.engine.control import Controls
    from batch.manifest import Manifest

_WORDS: Final = ("pause", "resume", "drain", "reload")
_MOST_CONCURRENCY: Final = 10_000
_LONGEST_PATH: Final = 107
"""Bytes of a unix socket's path."""
_LONGEST_LINE: Final = 1 << 16
_TIMEOUT: Final = 30.0
"""Seconds that the other end may take."""
_ROUNDS_TO_ACCEPT: Final = 4
"""Rounds of the event loop from a connection to the handler; a server closed in between leaves the connection open."""


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """What an operator asks for, read and checked."""

    texts: tuple[str, ...]
    rate: float | None = None
    """Calls a second."""
    concurrency: int | None = None
    word: str = ""
    """One of pause, resume, drain and reload, or empty."""


def read_request(texts: Sequence[str]) -> ControlRequest:
    """Read what is asked for, such as ``rate=40/s``, ``concurrency=32`` and ``pause``. Raises UsageError."""
    rate, concurrency, word = None, None, ""
    for text in texts:
        name, _, value = text.partition("=")
        if name == "rate" and rate is None:
            try:
                rate = read_rate(value)
            except ValueError as error:
                raise UsageError(f"rate: {error}") from None
        elif name == "concurrency" and concurrency is None:
            if not re.fullmatch("[1-9][0-9]{0,4}", value) or int(value) > _MOST_CONCURRENCY:
                raise UsageError(f"concurrency: must be a number from 1 to {_MOST_CONCURRENCY:,}, not {value!r:.60}")
            concurrency = int(value)
        elif text in _WORDS and not word:
            word = text
        else:
            raise UsageError(
                f"{text!r:.60} is not for zclone control, or given twice: rate=40/s concurrency=32 {' | '.join(_WORDS)}"
            )
    if word == "reload" and (rate is not None or concurrency is not None):
        raise UsageError("reload takes the limits of the job file: leave out rate and concurrency")
    return ControlRequest(tuple(texts), rate, concurrency, word)


@asynccontextmanager
async def listen(setup: Setup, manifest: Manifest, controls: Controls, *, stop: Stop) -> AsyncIterator[None]:
    """Answer requests while the block runs; where no socket can be made, warn and run without."""
    handler, server = _RequestHandler(setup, manifest, controls, stop), None
    try:
        bound = _bind(manifest.path)
        server = await asyncio.start_unix_server(handler.serve, sock=bound, limit=_LONGEST_LINE)
    except OSError as error:
        warn([f"zclone control cannot reach this process: no socket beside the manifest ({error.strerror or error})"])
    try:
        yield
    finally:
        if server is not None:
            _unlink(manifest.path)
            for _ in range(_ROUNDS_TO_ACCEPT):
                await asyncio.sleep(0)
            server.close()
            await handler.close()


@contextmanager
def _address(manifest: Path) -> Iterator[str]:
    """Yield the path of the socket beside ``manifest``, through the folder's descriptor where it is too long."""
    folder = manifest.absolute().parent
    name = f".zclone-{hashlib.sha256(os.fsencode(manifest.name)).hexdigest()[:16]}.sock"
    if len(os.fsencode(folder / name)) <= _LONGEST_PATH:
        yield str(folder / name)
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{name}"
    finally:
        os.close(handle)


def _unlink(manifest: Path) -> None:
    with suppress(OSError), _address(manifest) as address:
        Path(address).unlink()


def _bind(manifest: Path) -> socket.socket:
    """Make the socket, for its owner only from its first moment on. Whoever has the manifest's lock owns its name."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(bound.fileno(), 0o600)
        with _address(manifest) as address:
            with suppress(FileNotFoundError):
                if stat.S_ISSOCK(Path(address).lstat().st_mode):
                    # A process that was killed left it behind.
                    Path(address).unlink()
            bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _peer(connected: socket.socket) -> int:
    """Return the user id of the process at the other end."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(user)


def _is_owner(user: int, manifest: Path) -> bool:
    return user in {manifest.stat().st_uid, 0}


class _RequestHandler:
    """Applies requests to a run, one at a time."""

    def __init__(self, setup: Setup, manifest: Manifest, controls: Controls, stop: Stop) -> None:
        self._setup = setup
        self._manifest = manifest
        self._controls = controls
        self._stop = stop
        self._turn = asyncio.Lock()
        self._busy: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Leave whoever still waits for an answer."""
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question in a task of its own."""
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)
        # Also where the task is cancelled before it began.
        task.add_done_callback(lambda _: writer.close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected = writer.get_extra_info("socket")
        try:
            if _peer(connected) in {os.geteuid(), 0}:
                async with asyncio.timeout(_TIMEOUT):
                    answer = await self._answer(await reader.readline())
                    writer.write(to_json(answer).encode() + b"\n")
                    await writer.drain()
        except (OSError, ValueError, TimeoutError):
            # The other end is gone, slow, or no zclone: the run goes on.
            pass

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            texts = json.loads(line)["request"]
            request = read_request([str(text) for text in texts])
        except (ValueError, KeyError, TypeError, RecursionError):
            return {"error": "not a request of zclone control"}
        except UsageError as error:
            return {"error": str(error)}
        async with self._turn:
            try:
                note = await self._apply(request)
            except ZcloneError as error:
                return {"error": str(error)}
        return {**self._in_force(), "stopping": self._stop.requested, "note": note}

    async def _apply(self, request: ControlRequest) -> str:
        """Apply, record and log a request; return a note for the operator. Raises ZcloneError."""
        note, rate, concurrency = "", request.rate, request.concurrency
        is_over = self._stop.requested and not (self._stop.is_draining and request.word not in {"pause", "resume"})
        if is_over and request.texts:
            raise RunStoppedError(f"the run is ending: {self._stop.reason}", self._stop.code)
        if request.word == "reload":
            job = await to_thread(jobfile.load, self._setup.job.path)
            limits = limits_of(job.limits, self._setup.options)
            rate, concurrency = limits.rate, limits.concurrency
            names = ("max_failures", "attempts", "timeout", "deadline", "waves")
            others = [name for name in names if getattr(job.limits, name) != getattr(self._setup.job.limits, name)]
            note = f"not changed in a process that runs: {', '.join(others)}" if others else ""
        if rate is not None:
            self._controls.set_rate(rate)
        if concurrency is not None:
            self._controls.set_concurrency(concurrency)
        if request.word == "pause":
            self._controls.pause()
        elif request.word == "resume":
            self._controls.resume()
        elif request.word == "drain":
            self._controls.drain()
        if request.texts:
            await self._record(" ".join(request.texts))
        return note

    async def _record(self, order: str) -> None:
        force = self._in_force()
        structlog.get_logger().info("run.controlled", order=order, **force)
        line = ControlledLine(
            time.time(), order, force["rate"], force["concurrency"], force["paused"], force["draining"]
        )
        await self._manifest.commit_operation(line)

    def _in_force(self) -> dict[str, Any]:
        controls = self._controls
        return {
            "rate": controls.rate,
            "concurrency": controls.concurrency,
            "paused": controls.is_paused,
            "draining": self._stop.is_draining,
        }


def is_stopping(manifest: Path) -> bool:
    """Whether the process that runs ends, after a signal for example; False where none says so within a second."""
    with suppress(ZcloneError, ValueError):
        return control_run(manifest, (), timeout=1.0).get("stopping") is True
    return False


def control_run(manifest: Path, texts: Sequence[str], *, timeout: float = _TIMEOUT) -> dict[str, Any]:
    """Send a request to the process that runs; return its answer: rate, concurrency, paused, draining, stopping, note.

    Raises UsageError where no process answers within ``timeout`` seconds, or it refuses.
    """
    read_request(texts)
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with connected:
        connected.settimeout(timeout)
        try:
            with _address(manifest) as address:
                connected.connect(address)
        except OSError as error:
            raise UsageError(_refusal(manifest, error)) from None
        if not _is_owner(_peer(connected), manifest):
            raise UsageError(f"{manifest}: the process that listens beside it is not of the manifest's owner")
        line = b""
        with suppress(OSError):
            connected.sendall(to_json({"request": list(texts)}).encode() + b"\n")
            line = connected.makefile("rb").readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise RunStoppedError(f"{manifest}: the process ended, or is of another user, and answered nothing", None)
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise UsageError(str(answer["error"]))
    return answer


def _refusal(manifest: Path, error: OSError) -> str:
    """Return why no process answers, and what to do."""
    started = summary(manifest).started
    if not is_held(manifest):
        return f"{manifest}: no process runs; zclone run takes --rate and --concurrency"
    if started is not None and started.remote is not None:
        return (
            f"{manifest}: the run goes on on Temporal, workflow {started.remote.workflow_id}: its workers set the rate "
            "(zclone worker --rate), and zclone run --engine temporal --cancel ends it"
        )
    return f"{manifest}: the process cannot be changed while it begins or ends: try again ({error.strerror or error})"
