"""``zclone status`` and ``control``: the state of a run, and the limits of its process by a socket beside the manifest.

Request and response are one line of JSON each. Both ends verify the peer's user id with SO_PEERCRED.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from batch.app.messages import language
from batch.errors import RunStoppedError, UsageError, ZcloneError
from batch.manifest import is_locked, summary
from batch.text import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_WORDS: Final = ("pause", "resume", "drain", "reload")
_MAX_CONCURRENCY: Final = 10_000
_LONGEST_PATH: Final = 107
"""Maximum length of a unix socket path, in bytes."""
LONGEST_LINE: Final = 1 << 16
TIMEOUT: Final = 30.0
"""Timeout for the peer, in seconds."""
_SHORT_TIMEOUT: Final = 1.0
"""Timeout for a state query, in seconds."""


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """A validated request of an operator."""

    texts: tuple[str, ...]
    rate: float | None = None
    """Calls a second."""
    concurrency: int | None = None
    word: str = ""
    """One of pause, resume, drain and reload, or empty."""


def read_request(texts: Sequence[str]) -> ControlRequest:
    """Parse arguments such as ``rate=40/s``, ``concurrency=32`` and ``pause``. Raises UsageError."""
    rate, concurrency, word = None, None, ""
    for text in texts:
        name, _, value = text.partition("=")
        if name == "rate" and rate is None:
            from batch.jobfile.values import read_rate

            try:
                rate = read_rate(value)
            except ValueError as error:
                raise UsageError(f"rate: {error}") from None
        elif name == "concurrency" and concurrency is None:
            if not re.fullmatch("[1-9][0-9]{0,4}", value) or int(value) > _MAX_CONCURRENCY:
                raise UsageError(f"concurrency: must be a number from 1 to {_MAX_CONCURRENCY:,}, not {value!r:.60}")
            concurrency = int(value)
        elif text in _WORDS and not word:
            word = text
        else:
            raise UsageError(
                f"{text!r:.60} is unknown or repeated; it takes rate=40/s concurrency=32 {' | '.join(_WORDS)}"
            )
    if word == "reload" and (rate is not None or concurrency is not None):
        raise UsageError("reload takes the limits of the job file: leave out rate and concurrency")
    return ControlRequest(tuple(texts), rate, concurrency, word)


@contextmanager
def socket_address(manifest: Path) -> Iterator[str]:
    """Yield the path of the socket beside ``manifest``, through the folder's descriptor if it is too long."""
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
    """State reported by the running process; all zero if none answers."""

    is_stopping: bool = False
    calls: int = 0
    """Made so far."""
    rate: float = 0.0
    """Rate limit, in calls per second."""
    rate_in_force: float = 0.0
    """Effective rate: lower than ``rate`` while the server's own limiter refuses more."""
    waves: tuple[int, ...] = ()
    """Number of targets per wave."""


def query_process(manifest: Path) -> ProcessState:
    """Query the running process for its state, with a timeout of one second."""
    with suppress(OSError, ZcloneError, ValueError, TypeError, KeyError):
        found = _send(manifest, (), timeout=_SHORT_TIMEOUT)
        rates = float(found["rate"]), float(found["rate_in_force"])
        return ProcessState(found["stopping"] is True, int(found["calls"]), *rates, tuple(map(int, found["waves"])))
    return ProcessState()


class Status(NamedTuple):
    """The state of a run."""

    lines: list[str]
    """As ``zclone status`` prints it."""
    is_running: bool
    """Whether its process is running."""
    exit_code: int | None
    """Of its last process; None if that was killed or is running."""


def read_status(manifest: Path, environ: Mapping[str, str]) -> Status:
    """Read the state of a run from its manifest and process. Raises UsageError, ManifestError."""
    from batch.report.status import status_lines

    # Check the lock before reading: a process that ends in between has then written its ending line.
    locked = is_locked(manifest)
    found = summary(manifest)
    is_running = locked and found.ended is None
    lines = status_lines(
        found,
        manifest=manifest,
        is_locked=locked,
        is_stopping=is_running and query_process(manifest).is_stopping,
        now=time.time(),
        language=language(environ),
    )
    return Status(list(lines), is_running, None if found.ended is None else found.ended.exit_code)


def control_run(manifest: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Send a request to the running process; return its answer: limits in force, progress, and a note.

    Raises UsageError if no process answers, or if it refuses.
    """
    read_request(texts)
    try:
        return _send(manifest, texts, timeout=TIMEOUT)
    except OSError as error:
        raise UsageError(_refusal(manifest, error)) from None


def _send(manifest: Path, texts: Sequence[str], *, timeout: float) -> dict[str, Any]:
    """Send a request and return its answer. Raises OSError if no process listens, UsageError, RunStoppedError."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with connected:
        connected.settimeout(timeout)
        with socket_address(manifest) as address:
            connected.connect(address)
        if not _is_owner(peer_uid(connected), manifest):
            raise UsageError(f"{manifest}: the process listening on its socket does not belong to the manifest's owner")
        line = b""
        with suppress(OSError):
            connected.sendall(to_json({"request": list(texts)}).encode() + b"\n")
            line = connected.makefile("rb").readline(LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise RunStoppedError(f"{manifest}: the process ended, or belongs to another user, and did not answer", None)
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise UsageError(str(answer["error"]))
    return answer


def _refusal(manifest: Path, error: OSError) -> str:
    """Return why no process answers, and the next step."""
    started = summary(manifest).started
    if not is_locked(manifest):
        return f"{manifest}: no process is running; zclone run takes --rate and --concurrency"
    if started is not None and started.remote is not None:
        return (
            f"{manifest}: the run continues on Temporal, workflow {started.remote.workflow_id}: its workers set the "
            "rate (zclone worker --rate), and zclone run --engine temporal --cancel ends it"
        )
    return f"{manifest}: the process is starting or ending and takes no changes: try again ({error.strerror or error})"
