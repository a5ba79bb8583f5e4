"""The file operations of the manifest, and the writer of its batches, each durable or not written at all.

The operations are few, so that a simulated disk can lose what was not synced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from batch import outputs
from batch.errors import ManifestError, ManifestLockedError, UsageError
from batch.manifest.line import seal
from batch.text import shell_path

if TYPE_CHECKING:
    from collections.abc import Iterator

_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.glusterfs", "9p", "afs"}
)
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_INSTANT: Final = 0.05
"""Seconds until the second try to lock; far longer than a check of the lock takes."""


class Files(Protocol):
    """The disk as the manifest uses it. Handles are small integers. Every method may raise OSError."""

    def create(self, path: Path) -> int:
        """Create a file for appending, mode 0600 whatever the umask. Raises FileExistsError."""

    def open(self, path: Path) -> int:
        """Open an existing file for reading and appending. Raises UsageError where others could change it."""

    def lock(self, handle: int, path: Path) -> None:
        """Lock the file for this process until it is closed. Raises ManifestLockedError where another has it."""

    def read(self, handle: int, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from ``offset``; none at the end."""

    def append(self, handle: int, data: bytes) -> int:
        """Write at the end; return the number of bytes written, which may be fewer than given."""

    def truncate(self, handle: int, size: int) -> None:
        """Truncate the file to ``size`` bytes."""

    def sync(self, handle: int) -> None:
        """Make everything written durable."""

    def sync_directory(self, path: Path) -> None:
        """Make the directory entry of ``path`` durable."""

    def is_whole(self, handle: int, path: Path, size: int) -> bool:
        """Return whether ``path`` still names the file and it has at least ``size`` bytes."""

    def close(self, handle: int) -> None:
        """Close the handle, which releases the lock."""

    def is_remote(self, handle: int) -> bool:
        """Return whether the file is on a network file system, where locks may not hold between hosts."""


class Disk:
    """The real disk."""

    def create(self, path: Path) -> int:
        """Create a file for appending, mode 0600 whatever the umask. Raises FileExistsError."""
        return outputs.create(path)

    def open(self, path: Path) -> int:
        """Open an existing file for reading and appending. Raises UsageError where others could change it."""
        if path.is_symlink():
            raise UsageError(f"{path}: is a symbolic link; name the manifest itself")
        handle = outputs.open_existing(path)
        try:
            _require_safe(os.fstat(handle), path)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def lock(self, handle: int, path: Path) -> None:
        """Lock the file for this process until it is closed. Raises ManifestLockedError where another has it."""
        if not _try_lock(handle):
            # ``is_locked`` of another process may have probed the lock at the same instant.
            time.sleep(_INSTANT)
            if not _try_lock(handle):
                raise ManifestLockedError(f"{path}: another process holds this manifest; nothing was sent", path)
        # The name may have been given to another file between the open and the lock.
        if not os.path.samestat(os.fstat(handle), os.lstat(path)):
            raise ManifestLockedError(f"{path}: was replaced while it was being opened; nothing was sent")

    def read(self, handle: int, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from ``offset``; none at the end."""
        return os.pread(handle, size, offset)

    def append(self, handle: int, data: bytes) -> int:
        """Write at the end; return the number of bytes written, which may be fewer than given."""
        return os.write(handle, data)

    def truncate(self, handle: int, size: int) -> None:
        """Truncate the file to ``size`` bytes."""
        os.ftruncate(handle, size)

    def sync(self, handle: int) -> None:
        """Make everything written durable."""
        os.fdatasync(handle)

    def sync_directory(self, path: Path) -> None:
        """Make the directory entry of ``path`` durable."""
        handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def is_whole(self, handle: int, path: Path, size: int) -> bool:
        """Return whether ``path`` still names the file and it has at least ``size`` bytes."""
        status = os.fstat(handle)
        try:
            return os.path.samestat(status, os.lstat(path)) and status.st_size >= size
        except OSError:
            return False

    def close(self, handle: int) -> None:
        """Close the handle, which releases the lock."""
        os.close(handle)

    def is_remote(self, handle: int) -> bool:
        """Return whether the file is on a network file system, where locks may not hold between hosts."""
        device = os.fstat(handle).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return any(_kind(line) in _NETWORK for line in mounts.splitlines() if line.split()[2:3] == [wanted])


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _kind(mount: str) -> str:
    return mount.partition(" - ")[2].partition(" ")[0]


def _require_safe(status: os.stat_result, path: Path) -> None:
    if status.st_nlink > 1:
        raise UsageError(f"{path}: has {status.st_nlink} hard links; a manifest has one name only")
    if status.st_mode & _OTHERS_WRITE:
        raise UsageError(
            f"{path}: others may write to it (mode {status.st_mode & 0o777:04o}): chmod 600 {shell_path(path)}"
        )


_BATCH: Final = 256
"""Lines in a batch of a new file."""
LOST: Final = "it was moved, deleted or cut by another process: put it back, or run the same command to start a new one"
FIX: Final = ": fix that, then run the same command again"


@dataclass(frozen=True, slots=True)
class FileEnd:
    """End of the file: offset in bytes, checksum of the last line, number of the next batch."""

    offset: int
    crc: int
    batch: int


class Writer:
    """Appends batches of open bodies; blocking, one at a time. It owns the end of the file."""

    def __init__(self, files: Files, handle: int, end: FileEnd, *, path: Path) -> None:
        """Append to the locked file ``path`` with descriptor ``handle``, which is durable up to ``end``."""
        self._files = files
        # The folder in which the command was started may be moved, and its relative names with it.
        self._path = path.absolute()
        self._handle = handle
        self.end = end
        self.lost_file: Path | None = None
        """A path to read the file until ``close``, once ``is_whole`` found it moved, deleted or cut."""

    def write(self, bodies: list[bytes]) -> None:
        """Append the lines as one batch and make them durable.

        Raises OSError with the file cut back, or unchanged where another process moved, deleted or cut it.
        """
        if not self.is_whole():
            raise OSError(LOST)
        data, crc = seal(bodies, self.end.crc, batch=self.end.batch)
        try:
            self._append(data)
            self._files.sync(self._handle)
        except OSError:
            # Best effort: what remains is a torn tail, which the next process cuts. A failed fsync is not retried.
            with contextlib.suppress(OSError):
                self._files.truncate(self._handle, self.end.offset)
            raise
        self.end = FileEnd(self.end.offset + len(data), crc, self.end.batch + 1)

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._files.append(self._handle, bytes(view) if len(view) < len(data) else data) :]

    def is_whole(self) -> bool:
        """Return whether ``path`` has always named the file, with everything written to it."""
        if self.lost_file is None and not self._files.is_whole(self._handle, self._path, self.end.offset):
            self.lost_file = Path(f"/proc/self/fd/{self._handle}")
        return self.lost_file is None

    def close(self) -> None:
        """Close the file, which releases its lock."""
        self._files.close(self._handle)


def write_manifest(out: Path, bodies: Iterator[bytes], disk: Disk) -> int:
    """Write a whole manifest and return the number of its lines; ``out`` is named once all of it is durable.

    Raises UsageError where ``out`` exists or cannot be created, ManifestError where it cannot be written.
    """
    is_begun = False
    try:
        with outputs.new_file(out) as new:
            is_begun = True
            writer = Writer(disk, new.fileno(), FileEnd(0, 0, 0), path=Path(new.name))
            return _write_batches(writer, bodies)
    except FileExistsError as error:
        raise UsageError(f"{out}: {error.strerror}") from None
    except OSError as error:
        kind = ManifestError if is_begun else UsageError
        raise kind(f"{out}: {error.strerror or error}") from None


def _write_batches(writer: Writer, bodies: Iterator[bytes]) -> int:
    """Write all lines and return their number.

    The last line is a batch of its own, so that damage to any other one is damage to durable lines.
    """
    lines, size, batch = 0, 1, list[bytes]()
    while following := list(islice(bodies, size)):
        if batch:
            writer.write(batch)
        lines, size, batch = lines + len(following), _BATCH, following
    for part in filter(None, (batch[:-1], batch[-1:])):
        writer.write(part)
    return lines
