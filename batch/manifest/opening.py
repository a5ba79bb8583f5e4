"""Create a manifest or open one to go on with it: lock, check, fold, cut a torn tail."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError, UsageError
from batch.manifest.chain import Scan, named
from batch.manifest.files import Disk
from batch.manifest.fold import Past
from batch.manifest.header import parse_header, require_same
from batch.manifest.journal import Manifest
from batch.manifest.writer import End, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batch.manifest.files import Files
    from batch.manifest.header import Header
    from batch.manifest.journal import InThread

_START: Final = b'{"format":"zclone-manifest",'
_TELLING: Final = 8
"""Fewer bytes than this tell nothing; they are kept aside whatever they are."""
_COPY: Final = 1 << 20


def open_manifest(
    path: Path,
    header: Header,
    *,
    files: Files | None = None,
    in_thread: InThread | None = None,
    clock: Callable[[], float] = time.time,
) -> Manifest:
    """Return the manifest at ``path``, locked and made new if there is none; ``header`` says whose it must be.

    ``files``: the disk (default: the real one). ``in_thread``: how a blocking write is run (default: in a thread of
    its own). ``clock``: seconds since the epoch. Raises UsageError where the file cannot or must not be used,
    ManifestLockedError where another process has it, ManifestMismatchError where it is of another run, ManifestError
    where it is damaged.
    """
    disk = files or Disk()
    try:
        handle, is_new = _open(disk, path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    try:
        disk.lock(handle, path)
        opening = _Opening(disk, handle, path, header)
        end, past = opening.fold()
    except OSError as error:
        disk.close(handle)
        raise ManifestError(f"{path}: {error.strerror or error}") from None
    except BaseException:
        disk.close(handle)
        raise
    if is_new:
        assert end.batch == 1
    known = replace(opening.header, tool=header.tool)
    manifest = Manifest(path, known, past=past, writer=Writer(disk, handle, end), in_thread=in_thread, clock=clock)
    manifest.warnings += opening.warnings
    return manifest


def _open(disk: Files, path: Path) -> tuple[int, bool]:
    try:
        return disk.create(path), True
    except FileExistsError:
        return disk.open(path), False


class _Opening:
    """The steps between the lock and the first commit."""

    def __init__(self, files: Files, handle: int, path: Path, header: Header) -> None:
        self._files = files
        self._handle = handle
        self._path = path
        self.header = header
        """The file's own once ``fold`` has read it: it knows when the run first began."""
        self._is_known = False
        self.warnings: list[str] = []

    def fold(self) -> tuple[End, Past]:
        """Read the whole file, or write the header of an empty one."""
        if self._files.is_remote(self._handle):
            self.warnings.append(f"{self._path}: lies on a network file system: a lock may not keep out another host")
        past = Past()
        scan = Scan(self._read)
        self._fold_lines(scan, past)
        if scan.line == 0:
            self._require_ours()
        self._cut_tail(scan)
        end = End(scan.offset, scan.crc, scan.batch)
        if scan.line == 0:
            writer = Writer(self._files, self._handle, end)
            writer.write([self.header.body()])
            end = writer.end
        # Every time: a process that was killed may have left lines, or the very name, that are not durable yet, and a
        # later batch tells the next reader that they are.
        self._files.sync(self._handle)
        self._files.sync_directory(self._path)
        return end, past

    def _read(self, offset: int, size: int) -> bytes:
        return self._files.read(self._handle, offset, size)

    def _fold_lines(self, scan: Scan, past: Past) -> None:
        with named(self._path, scan):
            scan.feed(partial(self._take, past))
            past.finish()

    def _take(self, past: Past, bodies: Iterator[bytes]) -> None:
        if not self._is_known:
            found = parse_header(next(bodies))
            require_same(found, self.header)
            self.header, self._is_known = found, True
        past.add_all(bodies)

    def _require_ours(self) -> None:
        """Refuse a file without a whole first line, unless it is what a power cut leaves of a header."""
        start = self._read(0, len(_START)).rstrip(b"\0")
        alike = sum(one == other for one, other in zip(start, _START, strict=False))
        if len(start) >= _TELLING and 2 * alike < len(start):
            raise ManifestError(f"{self._path}: is no zclone manifest")

    def _cut_tail(self, scan: Scan) -> None:
        first = self._read(scan.offset, 1)
        if not first:
            return
        aside, size = self._save_tail(scan.offset)
        self._files.truncate(self._handle, scan.offset)
        self._files.sync(self._handle)
        self.warnings.append(
            f"{self._path}: the last write did not finish: {size} bytes after line {scan.line} cut, kept in {aside}"
        )

    def _save_tail(self, offset: int) -> tuple[Path, int]:
        handle, aside = self._create_aside()
        start = offset
        try:
            while chunk := self._read(offset, _COPY):
                offset += self._files.append(handle, chunk)
            self._files.sync(handle)
        finally:
            self._files.close(handle)
        self._files.sync_directory(aside)
        return aside, offset - start

    def _create_aside(self) -> tuple[int, Path]:
        number = 1
        while True:
            aside = self._path.with_name(f"{self._path.name}.torn-{number}")
            try:
                return self._files.create(aside), aside
            except FileExistsError:
                number += 1
