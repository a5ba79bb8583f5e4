"""The blocking part of the journal: writes whole batches, durably or not at all."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError, UsageError
from batch.manifest.line import seal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.manifest.files import Files

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


def write_manifest(out: Path, bodies: Iterator[bytes], files: Files) -> int:
    """Write a whole manifest and return the number of its lines.

    The last line is a batch of its own, so that damage to any other one is damage to durable lines. Raises UsageError
    where ``out`` cannot be created, ManifestError where it cannot be written.
    """
    try:
        handle = files.create(out)
    except OSError as error:
        raise UsageError(f"{out}: {error.strerror or 'cannot be created'}") from None
    lines, size, batch = 0, 1, list[bytes]()
    writer = Writer(files, handle, FileEnd(0, 0, 0), path=out)
    try:
        while following := list(islice(bodies, size)):
            if batch:
                writer.write(batch)
            lines, size, batch = lines + len(following), _BATCH, following
        for part in (batch[:-1], batch[-1:]):
            if part:
                writer.write(part)
        files.sync_directory(out)
    except OSError as error:
        raise ManifestError(f"{out}: {error.strerror or error}") from None
    finally:
        writer.close()
    return lines
