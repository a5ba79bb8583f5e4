"""A server that has imported the product and forks for each command, so that a test's process needs no start-up.

A forked process is like any other: its own pid, directory, environment, streams and signals. Functions take the
arguments of ``zclone``. If the environment changes how Python itself starts (PYTHON*, LANG, LC_*), the forked process
becomes a new interpreter. A forked command has its embedded node forked in the same way. ``CLOCK_JUMPS`` sets the wall
clock of a command forward by so many seconds as soon as the file ``CLOCK_FLAG`` exists; the monotonic clock is
unchanged. A command does not begin before the FIFO ``BEGINS_AT`` is opened, and cannot import ``LACKS``.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, AnyStr, Final, Generic, Literal, Self, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Stream: TypeAlias = Literal["pipe", "stdout", "inherited"]

_AT_START: Final = ("PYTHON", "LANG", "LC_", "LD_", "MALLOC_")
"""Prefixes of the variables that matter when an interpreter starts."""
_JUMPS: Final[list[tuple[float, Path]]] = []
"""By how much the wall clock of this process is set forward once a file exists."""
_SET_PTRACER: Final = 0x59616D61
"""PR_SET_PTRACER of prctl(2)."""
_NODE: Final = "batch.simulator"
_LARGEST_REQUEST: Final = 128 << 10


class Process(Generic[AnyStr]):
    """A forked command: the part of subprocess.Popen's interface that the tests use."""

    def __init__(
        self, control: socket.socket, stdin: IO[AnyStr] | None, stdout: IO[AnyStr], stderr: IO[AnyStr] | None
    ) -> None:
        self.returncode: int | None = None
        self.stdin: IO[AnyStr] | None = stdin
        self.stdout: IO[AnyStr] = stdout
        self.stderr: IO[AnyStr] | None = stderr
        self._control = control
        self._read = {stream.fileno(): bytearray() for stream in (stdout, stderr) if stream}
        self._open = set(self._read)
        self.pid: int = json.loads(control.recv(64))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self.wait()

    def poll(self) -> int | None:
        """Return the exit code; None while the process lives."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code. Raises subprocess.TimeoutExpired."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("zclone", timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[AnyStr, AnyStr]:
        """Close stdin, read the streams to their ends and wait. Raises subprocess.TimeoutExpired, losing nothing."""
        if self.stdin is not None:
            self.stdin.close()
        give_up = None if timeout is None else time.monotonic() + timeout
        while self._open:
            ready = select.select(self._open, [], [], None if give_up is None else max(give_up - time.monotonic(), 0))
            if not ready[0]:
                raise subprocess.TimeoutExpired("zclone", timeout or 0)
            for number in ready[0]:
                data = os.read(number, 1 << 16)
                self._read[number] += data
                self._open -= set() if data else {number}
        self.wait(None if give_up is None else max(give_up - time.monotonic(), 0.1))
        stdout, stderr = self._taken(self.stdout), self._taken(self.stderr)
        self._close()
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _taken(self, stream: IO[AnyStr] | None) -> AnyStr:
        data = io.BytesIO(self._read[stream.fileno()] if stream else b"")
        is_text = isinstance(self.stdout, io.TextIOBase)
        read: Any = io.TextIOWrapper(data, encoding="utf-8").read() if is_text else data.getvalue()
        return cast("AnyStr", read)

    def _close(self) -> None:
        for stream in filter(None, (self.stdin, self.stdout, self.stderr)):
            stream.close()

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._control], [], [], timeout)[0]:
            self.returncode = json.loads(self._control.recv(64))
            self._control.close()
        return self.returncode


def run(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float = 250
) -> subprocess.CompletedProcess[str]:
    """Run ``zclone`` to its end without stdin. Raises subprocess.TimeoutExpired, after the process was killed."""
    with start_text(arguments, cwd=cwd, env=env) as process:
        try:
            stdout, stderr = process.communicate(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(["zclone", *arguments], process.wait(), stdout, stderr)


def start_text(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], new_session: bool = False
) -> Process[str]:
    """Start ``zclone`` without stdin; its output is read as UTF-8."""
    control, _, stdout, stderr = _fork(arguments, cwd, env, new_session=new_session)
    assert stderr is not None
    return Process(control, None, open(stdout, encoding="utf-8"), open(stderr, encoding="utf-8"))  # noqa: PTH123


def start(
    arguments: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stderr: Stream = "pipe",
) -> Process[bytes]:
    """Start ``zclone`` without stdin; ``stderr`` joins stdout, or is the tests' own."""
    control, _, read, error = _fork(arguments, cwd, env, stderr=stderr)
    return Process(
        control,
        None,
        open(read, "rb"),  # noqa: PTH123 - a descriptor
        None if error is None else open(error, "rb"),  # noqa: PTH123
    )


def _fork(
    arguments: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    *,
    has_stdin: bool = False,
    stderr: Stream = "pipe",
    new_session: bool = False,
    outlives: bool = False,
    module: str = "batch",
) -> tuple[socket.socket, int | None, int, int | None]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read_in, write_in = os.pipe() if has_stdin else (os.open(os.devnull, os.O_RDONLY), None)
    read_out, write_out = os.pipe()
    read_err, write_err = os.pipe() if stderr == "pipe" else (None, os.dup(write_out if stderr == "stdout" else 2))
    request = {
        "arguments": list(arguments),
        "cwd": str(cwd),
        "env": dict(env),
        "new_session": new_session,
        "outlives": outlives,
        "module": module,
    }
    given = [theirs.fileno(), read_in, write_out, write_err]
    socket.send_fds(_server(), [json.dumps(request).encode()], given)
    for number in given[1:]:
        os.close(number)
    theirs.close()
    return ours, write_in, read_out, read_err


@cache
def _server() -> socket.socket:
    from tests.conftest import PYTHONPATH  # noqa: PLC0415 - it imports this module

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forkserver", str(theirs.fileno())],
        env=os.environ | {"PYTHONPATH": PYTHONPATH},
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait(20)

    atexit.register(end)
    return ours


def _wall_clock(true: Callable[[], float] = time.time) -> float:
    return true() + sum(seconds for seconds, flag in _JUMPS if flag.exists())


def _serve(tests: socket.socket) -> None:
    # Before the product is imported, which keeps the function as a default argument.
    time.time = _wall_clock
    import batch  # noqa: PLC0415 - the tests' own process does not need it

    for module in pkgutil.walk_packages(batch.__path__, "batch."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):
                importlib.import_module(module.name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    commands, of_commands = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    while True:
        for requests in select.select([tests, commands], [], [])[0]:
            data, numbers, _, _ = socket.recv_fds(requests, _LARGEST_REQUEST, 4)
            if not data:
                return
            if not os.fork():
                tests.close()
                commands.close()
                globals()["_server"] = lambda: of_commands
                _keep(json.loads(data), *numbers)
            for number in numbers:
                os.close(number)


def _fork_node(
    command: Sequence[str], *, env: Mapping[str, str], start_new_session: bool, **_: object
) -> Process[bytes]:
    """Fork the embedded node of a command, in place of subprocess.Popen; it ends with its stdin."""
    control, write, read, _error = _fork(
        command[command.index(_NODE) + 1 :],
        Path.cwd(),
        {**env, "PYTHONPATH": os.environ["PYTHONPATH"]},
        has_stdin=True,
        stderr="inherited",
        new_session=start_new_session,
        outlives=True,
        module=_NODE,
    )
    assert write is not None
    return Process(control, open(write, "wb", 0), open(read, "rb"), None)  # noqa: PTH123 - descriptors


def _keep(request: dict[str, Any], control: int, *streams: int) -> None:
    """Fork the command, report its pid and exit code; kill it if nothing waits for it, unless it ``outlives`` that."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if not child:
        os.close(control)
        _become(request, streams)
    for number in (0, 1, 2, *streams):
        os.close(number)
    with socket.socket(fileno=control) as answers:
        answers.send(json.dumps(child).encode())
        ended = os.pidfd_open(child)
        awaited = [ended] if request["outlives"] else [ended, answers.fileno()]
        if ended not in select.select(awaited, [], [])[0]:
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with suppress(OSError):
            answers.send(json.dumps(code).encode())
    os._exit(0)


def _become(request: dict[str, Any], streams: Sequence[int]) -> None:
    """Become ``python -m batch`` with the given streams, directory, environment and arguments."""
    for wanted, number in enumerate(streams):
        os.dup2(number, wanted)
        os.close(number)
    os.chdir(request["cwd"])
    if request["new_session"]:
        os.setsid()
    if _at_start(request["env"]) != _at_start(os.environ):
        command = [sys.executable, "-m", request["module"], *request["arguments"]]
        os.execve(sys.executable, command, request["env"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    if "CLOCK_JUMPS" in os.environ:
        _JUMPS.append((float(os.environ["CLOCK_JUMPS"]), Path(os.environ["CLOCK_FLAG"])))
    if "LACKS" in os.environ:
        sys.modules[os.environ["LACKS"]] = None  # type: ignore[assignment]
    sys.path[0] = request["cwd"]
    sys.argv[1:] = request["arguments"]
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115 - the process ends with it
    sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    from batch.app import embedded_node  # noqa: PLC0415 - the tests' own process does not need it

    vars(embedded_node)["subprocess"] = SimpleNamespace(
        Popen=_fork_node, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired
    )
    if "BEGINS_AT" in os.environ:
        # Where Yama restricts tracing to descendants, any process of this user may trace this one; elsewhere no effect.
        ctypes.CDLL(None).prctl(_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
        os.close(os.open(os.environ["BEGINS_AT"], os.O_RDONLY))
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def _at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_AT_START)}


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listened:
        _serve(listened)
