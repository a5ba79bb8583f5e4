"""Opens a manifest for reading without its lock, also while a run writes to it, and detects a finished run.

The last line of a process counts its targets by state. When all are settled, the chain of checksums holds and no input
changed, a rerun reads nothing else, makes no call and writes nothing; with hand-overs only after exit code 0. This is
needed for the time budget of a million targets: folding their lines takes three times the six seconds allowed for a
rerun.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError, ManifestLockedError, UsageError
from batch.manifest.chain import Scan, errors_at
from batch.manifest.files import Disk
from batch.manifest.kinds import DeletingLine, EndedLine, PlanLine, StartedLine
from batch.manifest.line import PROCESSES, SEAL, Header, Users, parse_header
from batch.manifest.operations import PinFold
from batch.manifest.records import parse_line
from batch.model import Pins, State

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator
    from pathlib import Path

_PROCESS: Final = (b'{"started":', b'{"ended":')
_USUAL_LINE: Final = 1 << 10


class ManifestReader:
    """One pass over a manifest, and access to lines by offset. Created by ``open_reader``."""

    def __init__(self, handle: int) -> None:
        """Read from ``handle``, which the caller closes."""
        self._handle = handle
        self.scan = Scan(self.read)
        self.header = Header("", "", "", simulated=False)
        """The manifest's own header once ``bodies`` was started."""

    def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes."""
        return os.pread(self._handle, size, offset)

    def bodies(self) -> Iterator[bytes]:
        """Yield every line's body after the header. Raises ManifestError naming the line that is damaged."""
        for body in self.scan:
            if self.scan.line > 1:
                yield body
            else:
                self.header = parse_header(body)
        if self.scan.line == 0:
            raise ManifestError("is not a zclone manifest, or nothing was written to it yet")

    @property
    def place(self) -> int:
        """Offset of the line whose body was yielded last."""
        return self.scan.offset - len(self.scan.last) - SEAL - 1

    def body_at(self, place: int) -> bytes:
        """Return the body of the line at an offset that ``place`` returned."""
        size = _USUAL_LINE
        while (end := (data := self.read(place, size)).find(b"\n")) < 0:
            if len(data) < size:
                raise ManifestError("became shorter while it was read")
            size *= 8
        return data[: end - SEAL]

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return os.fstat(self._handle).st_size

    def torn_bytes(self) -> int:
        """Return the number of bytes after the last verified line, once ``bodies`` has ended."""
        return max(0, self.size - self.scan.offset)


@contextlib.contextmanager
def _open_file(path: Path) -> Iterator[int]:
    """Open ``path`` for reading. Raises UsageError where it cannot be opened."""
    try:
        # O_NONBLOCK: a FIFO in the manifest's place must not block the command.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    try:
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def open_reader(path: Path) -> Iterator[ManifestReader]:
    """Open ``path``; errors raised in the block name it. Raises UsageError where it cannot be opened."""
    with _open_file(path) as handle:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UsageError(f"{path}: is not a regular file")
        manifest = ManifestReader(handle)
        with errors_at(path, manifest.scan):
            yield manifest


@contextlib.contextmanager
def exclude_writers(path: Path) -> Iterator[None]:
    """Keep other processes from writing to the manifest during the block.

    Raises ManifestLockedError where one has its lock, UsageError where it cannot be opened.
    """
    with _open_file(path) as handle:
        # Where locks are not supported, no process holds one.
        with contextlib.suppress(OSError):
            _take_shared(handle, path)
        yield


def _take_shared(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ManifestLockedError(f"{path}: a process is writing to this manifest: let it end first") from None


def is_locked(path: Path) -> bool:
    """Return whether a process has the manifest's lock; True also where that cannot be determined.

    Takes a shared lock for an instant; ``Disk.lock`` waits for it. Raises UsageError where ``path`` cannot be opened.
    """
    with _open_file(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def last_started(path: Path) -> StartedLine | None:
    """Return the start line of the last process; None where it ended, or there was none.

    Raises UsageError, ManifestError.
    """
    found: StartedLine | None = None
    with open_reader(path) as manifest:
        for body in manifest.bodies():
            if body.startswith(_PROCESS):
                line = parse_line(body)
                found = line if isinstance(line, StartedLine) else None
    return found


_TAIL: Final = 1 << 12
_PLAN: Final = (b'{"pinned":', b'{"plan":', b'{"deleting":', *PROCESSES)
_USUAL: Final = b'{"state":"'


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A finished run: there is nothing to do, as long as the plan is still ``plan``."""

    header: Header
    plan: PlanLine
    pins: Pins
    counts: Counter[State]
    """Targets by state, all of them final or withdrawn; the final ones are as many as the plan has."""
    users: Users


def read_finished(path: Path) -> FinishedRun | None:
    """Return the finished run at ``path``; None where it is not finished, or only a fold can tell.

    Works without the lock: a process that has it and wrote nothing has changed nothing. Trusts only a file that could
    be opened for writing: no link, owned by this user, and writable by no one else.
    """
    disk = Disk()
    try:
        handle = disk.open(path)
    except (UsageError, OSError):
        # Opening the manifest for writing reports the problem, with its place.
        return None
    try:
        manifest = ManifestReader(handle)
        ended = _settled_end(manifest)
        return None if ended is None else _verify_chain(manifest, ended)
    except (ManifestError, OSError):
        return None
    finally:
        disk.close(handle)


def last_end(path: Path) -> EndedLine | None:
    """Return the end of the last process, from the last line; None where it is running, or was killed.

    Raises UsageError where the file cannot be opened.
    """
    with open_reader(path) as manifest:
        return _last_end(manifest)


def _last_end(manifest: ManifestReader) -> EndedLine | None:
    tail = manifest.read(max(0, manifest.size - _TAIL), _TAIL)
    body = tail[tail.rfind(b"\n", 0, -1) + 1 : -1 - SEAL]
    if tail[-1:] != b"\n" or not body.startswith(b'{"ended":'):
        return None
    line = parse_line(body)
    return line if isinstance(line, EndedLine) else None


def _settled_end(manifest: ManifestReader) -> EndedLine | None:
    """Return the end line where no target that it counts is left to do; the chain is not verified yet."""
    line = _last_end(manifest)
    if line is None or not line.counts:
        return None
    # A run clones undone targets again.
    is_over = all((state.is_final and state is not State.UNDONE) or state is State.WITHDRAWN for state in line.counts)
    return line if is_over else None


def _verify_chain(manifest: ManifestReader, ended: EndedLine) -> FinishedRun | None:
    """Verify the chain of checksums from the first line to the last."""
    header: Header | None = None
    plan: PlanLine | None = None
    pinned, users = PinFold(), Users()
    for bodies in manifest.scan.chunks():
        header = header or parse_header(bodies[0])
        for body in [body for body in bodies if body[: len(_USUAL)] != _USUAL and body.startswith(_PLAN)]:
            line = parse_line(body)
            if isinstance(line, DeletingLine):
                # Only a fold can determine whether the clone is known to be gone.
                return None
            if isinstance(line, PlanLine):
                plan = line
            elif isinstance(line, Pins):
                pinned.take(line)
            users.add(line)
    if (
        header is None
        or plan is None
        or manifest.torn_bytes()
        or plan.targets != ended.counts.total() - ended.counts[State.WITHDRAWN]
    ):
        return None
    return FinishedRun(header, plan, pinned.pins, ended.counts, users)
