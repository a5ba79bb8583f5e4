"""The blocking half of the journal: whole batches, durable or cut back."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch.manifest.line import seal

if TYPE_CHECKING:
    from batch.manifest.files import Files


@dataclass(frozen=True, slots=True)
class End:
    """Where the next line goes: offset in bytes, checksum of the last line, number of the next batch."""

    offset: int
    crc: int
    batch: int


class Writer:
    """Appends batches of open bodies; blocking, one at a time. It owns the end of the file."""

    def __init__(self, files: Files, handle: int, end: End) -> None:
        """``handle`` is locked and everything up to ``end`` durable."""
        self._files = files
        self._handle = handle
        self.end = end

    def write(self, bodies: list[bytes]) -> None:
        """Append the lines as one batch and return when they are durable. Raises OSError with the file cut back."""
        data, crc = seal(bodies, self.end.crc, batch=self.end.batch)
        try:
            self._append(data)
            self._files.sync(self._handle)
        except OSError:
            # Best effort: what stays is a torn tail, which the next process cuts. A failed fsync is not tried again.
            with contextlib.suppress(OSError):
                self._files.truncate(self._handle, self.end.offset)
            raise
        self.end = End(self.end.offset + len(data), crc, self.end.batch + 1)

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._files.append(self._handle, bytes(view) if len(view) < len(data) else data) :]

    def close(self) -> None:
        """Give the file and its lock back."""
        self._files.close(self._handle)
