"""``zclone control``: change the limits of a running process through a socket beside its manifest.

A question and an answer are one line of JSON each. Both ends ask the kernel who the other one is (SO_PEERCRED).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from batch.errors import RunStoppedError, UsageError, ZcloneError
from batch.manifest import is_held, summary
from batch.text import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_WORDS: Final = ("pause", "resume", "drain", "reload")
_MOST_CONCURRENCY: Final = 10_000
_LONGEST_PATH: Final = 107
"""Bytes of a unix socket's path."""
LONGEST_LINE: Final = 1 << 16
TIMEOUT: Final = 30.0
"""Seconds that the other end may take."""
_SHORT_TIMEOUT: Final = 1.0
"""Seconds that it may take to say whether it is stopping."""


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
            from batch.jobfile.units import read_rate

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


@contextmanager
def socket_address(manifest: Path) -> Iterator[str]:
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


def peer_uid(connected: socket.socket) -> int:
    """Return the user id of the process at the other end."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(user)


def _is_owner(user: int, manifest: Path) -> bool:
    return user in {manifest.stat().st_uid, 0}


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What the process that runs says of itself; all zero where none answers."""

    is_stopping: bool = False
    calls: int = 0
    """Made so far."""
    rate: float = 0.0
    """Calls a second that may be made."""
    rate_in_force: float = 0.0
    """Fewer than ``rate`` while the server's own limiter refuses more."""
    waves: tuple[int, ...] = ()
    """How many targets go in each."""


def query_process(manifest: Path) -> ProcessState:
    """Ask the process that runs how far it is, for a second at most."""
    with suppress(OSError, ZcloneError, ValueError, TypeError, KeyError):
        found = _send(manifest, (), timeout=_SHORT_TIMEOUT)
        rates = float(found["rate"]), float(found["rate_in_force"])
        return ProcessState(found["stopping"] is True, int(found["calls"]), *rates, tuple(map(int, found["waves"])))
    return ProcessState()


def control_run(manifest: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Send a request to the process that runs; return its answer: what is in force, how far it is, and a note.

    Raises UsageError where no process answers, or it refuses.
    """
    read_request(texts)
    try:
        return _send(manifest, texts, timeout=TIMEOUT)
    except OSError as error:
        raise UsageError(_refusal(manifest, error)) from None


def _send(manifest: Path, texts: Sequence[str], *, timeout: float) -> dict[str, Any]:
    """Send a request and return its answer. Raises OSError where no process listens, UsageError, RunStoppedError."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with connected:
        connected.settimeout(timeout)
        with socket_address(manifest) as address:
            connected.connect(address)
        if not _is_owner(peer_uid(connected), manifest):
            raise UsageError(f"{manifest}: the process that listens beside it is not of the manifest's owner")
        line = b""
        with suppress(OSError):
            connected.sendall(to_json({"request": list(texts)}).encode() + b"\n")
            line = connected.makefile("rb").readline(LONGEST_LINE)
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
