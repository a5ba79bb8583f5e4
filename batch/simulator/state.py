"""The node's persistent database: an append-only file of events, one JSON line each, locked by its owner."""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import TYPE_CHECKING, Final

from batch import outputs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batch.simulator.wire import Json


_START: Final = b'{"e":"'
"""Prefix of every event."""


class StateError(Exception):
    """The state file is held by another node or damaged."""


class StateFile:
    """The state file; appended events survive a crash of the process, but not of the machine."""

    def __init__(self, path: Path, fd: int) -> None:
        """Use ``open``."""
        self._path = path
        self._fd = fd

    @classmethod
    def open(cls, path: Path, *, wait: float = 10.0) -> StateFile:
        """Lock and repair the file; wait up to ``wait`` seconds for a dying node.

        Raises StateError, OSError, and UsageError for a file with unsafe owner or mode.
        """
        fd = outputs.open_or_create(path)
        try:
            _lock(fd, path, wait)
            _require_events(fd, path)
            _cut_torn_tail(fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd)

    def append(self, events: list[Json]) -> None:
        """Write all events. Raises OSError."""
        data = b"".join(json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in events)
        while data:
            data = data[os.write(self._fd, data) :]

    def events(self) -> Iterator[Json]:
        """Read every event so far, in order. Raises StateError naming the damaged line."""
        return read_events(self._path)

    def close(self) -> None:
        """Release the file."""
        os.close(self._fd)


def read_events(path: Path) -> Iterator[Json]:
    """Read the whole events of a state file, also while a node is writing it. Raises StateError."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield _event(line, path, number)


def _event(line: bytes, path: Path, number: int) -> Json:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or "e" not in event:
        raise StateError(f"{path}:{number}: not an event of a node; move the file away to start with a new one")
    return event


def _lock(fd: int, path: Path, wait: float) -> None:
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise StateError(f"{path}: another node holds this file") from None
            time.sleep(0.05)
        else:
            return


def _require_events(fd: int, path: Path) -> None:
    """Raise StateError for a file of another kind, before its end is taken for an event that was cut short."""
    start = os.pread(fd, len(_START), 0)
    if not _START.startswith(start):
        raise StateError(f"{path}: is not the state of a node; name another file")


def _cut_torn_tail(fd: int) -> None:
    """Drop an incomplete last line, on which no answer was based."""
    size = os.fstat(fd).st_size
    end = size
    while end:
        start = max(0, end - 65536)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)
