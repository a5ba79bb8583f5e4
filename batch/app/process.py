"""A process that runs for long: its event loop, its signals, and the control socket beside its manifest.

The first signal stops gracefully, the second exits at once. ``zclone control`` connects to the socket.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import stat
import time
from asyncio import to_thread
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from batch.app.control import LONGEST_LINE, TIMEOUT, peer_uid, read_request, socket_address
from batch.app.messages import warn
from batch.errors import ExitCode, RunStoppedError, UsageError, ZcloneError
from batch.manifest.kinds import ControlledLine
from batch.text import to_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from batch.app.control import ControlRequest
    from batch.app.prepare import Setup
    from batch.engine import Stop
    from batch.engine.control import Controls
    from batch.manifest import Manifest

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_REPEAT_WINDOW: Final = 1.0
"""Seconds within which a repeated signal counts once: GNU timeout signals both the process and its group."""
_ROUNDS_TO_ACCEPT: Final = 4
"""Event loop iterations from a connection to its handler; a server closed in between leaves the connection open."""
_STDERR: Final = 2


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop factory if the extra [speed] is installed, else None for asyncio's default."""
    try:
        return import_module("uvloop").new_event_loop  # type: ignore[no-any-return]
    except ImportError:
        return None


@contextmanager
def on_signal(stop: Callable[[str], None]) -> Iterator[None]:
    """Call ``stop`` with the name of the first SIGINT, SIGTERM or SIGHUP; exit at once on a second one.

    A repetition of the first signal within a second is ignored. A signal that was ignored when the block began, as
    SIGHUP is under nohup, stays ignored. The exit does no cleanup: the manifest is always valid, and a cleanup could
    hang.
    """
    loop = asyncio.get_running_loop()
    first: tuple[int, float] | None = None

    # Process-level handlers, not the loop's: a second signal must interrupt a long synchronous step too.
    def receive(number: int, _frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = (number, now)
            loop.call_soon_threadsafe(stop, signal.Signals(number).name)
        elif number != first[0] or now - first[1] >= _REPEAT_WINDOW:
            _write_exit_notice()
            os._exit(ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED)

    before = {number: signal.signal(number, receive) for number in _ENDING if not _is_ignored(number)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_exit_notice() -> None:
    """Write a notice to the terminal if that does not block: nothing may delay the exit."""
    try:
        if os.isatty(_STDERR) and select.select([], [_STDERR], [], 0)[1]:
            os.write(_STDERR, b"\nLeft.\n")
    except (OSError, ValueError):
        return


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


@asynccontextmanager
async def listen(
    setup: Setup,
    manifest: Manifest,
    controls: Controls,
    *,
    stop: Stop,
    calls: Callable[[], int],
    waves: Sequence[int],
) -> AsyncIterator[None]:
    """Serve requests while the block runs; if the socket cannot be created, warn and continue without it.

    ``calls``: number of calls made so far; ``waves``: number of targets per wave.
    """
    report = lambda: {"stopping": stop.requested, "calls": calls(), "waves": list(waves)}  # noqa: E731 - too short
    handler, server = _RequestHandler(setup, manifest, controls, stop, report), None
    try:
        bound = _bind(manifest.path)
        server = await asyncio.start_unix_server(handler.serve, sock=bound, limit=LONGEST_LINE)
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


def _unlink(manifest: Path) -> None:
    with suppress(OSError), socket_address(manifest) as address:
        Path(address).unlink()


def _bind(manifest: Path) -> socket.socket:
    """Create the socket, with mode 0600 from the start. The holder of the manifest's lock owns its name."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(bound.fileno(), 0o600)
        with socket_address(manifest) as address:
            with suppress(FileNotFoundError):
                if stat.S_ISSOCK(Path(address).lstat().st_mode):
                    # Left behind by a killed process.
                    Path(address).unlink()
            bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


class _RequestHandler:
    """Applies control requests to a run, one at a time."""

    def __init__(
        self, setup: Setup, manifest: Manifest, controls: Controls, stop: Stop, report: Callable[[], dict[str, Any]]
    ) -> None:
        self._setup = setup
        self._manifest = manifest
        self._controls = controls
        self._stop = stop
        self._report = report
        self._turn = asyncio.Lock()
        self._busy: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Cancel the requests that are not answered yet."""
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request in a task of its own."""
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)
        # A callback, because a task cancelled before its first step runs no finally block.
        task.add_done_callback(lambda _: writer.close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected = writer.get_extra_info("socket")
        try:
            if peer_uid(connected) in {os.geteuid(), 0}:
                async with asyncio.timeout(TIMEOUT):
                    answer = await self._answer(await reader.readline())
                    writer.write(to_json(answer).encode() + b"\n")
                    await writer.drain()
        except (OSError, ValueError, TimeoutError):
            # The peer is gone, slow, or not zclone: the run continues.
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
        return {**self._in_force(), **self._report(), "rate_in_force": self._controls.rate_in_force, "note": note}

    async def _apply(self, request: ControlRequest) -> str:
        """Apply, record and log a request; return a note for the operator. Raises ZcloneError."""
        note, rate, concurrency = "", request.rate, request.concurrency
        is_over = self._stop.requested and not (self._stop.is_draining and request.word not in {"pause", "resume"})
        if is_over and request.texts:
            raise RunStoppedError(f"the run is ending: {self._stop.reason}", self._stop.code)
        if request.word == "reload":
            from batch import jobfile
            from batch.app.prepare import limits_of

            job = await to_thread(jobfile.load, self._setup.job.path)
            limits = limits_of(job.limits, self._setup.options)
            rate, concurrency = limits.rate, limits.concurrency
            names = ("max_failures", "attempts", "timeout", "deadline", "waves")
            others = [name for name in names if getattr(job.limits, name) != getattr(self._setup.job.limits, name)]
            note = f"not changed while a process runs: {', '.join(others)}" if others else ""
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
