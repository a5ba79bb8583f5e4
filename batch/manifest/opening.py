"""Creates a manifest or opens one for writing: lock, verify, fold, cut a torn tail.

A killed process may have left lines, or the file name itself, that were not synced: everything is synced before it is
acted on.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError, ManifestLockedError, UsageError
from batch.manifest.chain import Scan, errors_at
from batch.manifest.files import Disk, FileEnd, Writer
from batch.manifest.fold import ManifestFold
from batch.manifest.journal import Manifest
from batch.manifest.line import parse_header, require_same
from batch.manifest.records import encode_record, encode_repaired
from batch.manifest.summaries import summary
from batch.model import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from batch.manifest.files import Files
    from batch.manifest.journal import InThread
    from batch.manifest.kinds import RepairedLine
    from batch.manifest.line import Header

_START: Final = b'{"format":"zclone-manifest",'
_TELLING: Final = 8
"""A tail of fewer bytes is kept aside without further analysis."""
_COPY: Final = 1 << 20


def open_manifest(
    path: Path,
    header: Header,
    *,
    files: Files | None = None,
    in_thread: InThread | None = None,
    clock: Callable[[], float] = time.time,
) -> Manifest:
    """Return the manifest at ``path``, locked, and created if there is none; it must belong to ``header``'s run.

    ``files``: the disk (default: the real one). ``in_thread``: how a blocking write is run (default: in a thread of its
    own). ``clock``: returns seconds since the epoch. Raises UsageError where the file cannot or must not be used,
    ManifestLockedError where another process has it, ManifestMismatchError where it belongs to another run,
    ManifestError where it is damaged.
    """
    disk = files or Disk()
    try:
        handle, is_new = _open(disk, path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    try:
        disk.lock(handle, path)
        opening = _Opening(disk, handle, path, header, clock)
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
    manifest = Manifest(
        path, known, past=past, writer=Writer(disk, handle, end, path=path), in_thread=in_thread, clock=clock
    )
    manifest.warnings += opening.warnings
    return manifest


def _open(disk: Files, path: Path) -> tuple[int, bool]:
    try:
        return disk.create(path), True
    except FileExistsError:
        return disk.open(path), False


class _Opening:
    """The steps between the lock and the first commit."""

    def __init__(self, files: Files, handle: int, path: Path, header: Header, clock: Callable[[], float]) -> None:
        self._files = files
        self._handle = handle
        self._path = path
        self.header = header
        """The file's own header once ``fold`` has read it, with the time when the run first began."""
        self._clock = clock
        self._is_known = False
        self.warnings: list[str] = []

    def fold(self) -> tuple[FileEnd, ManifestFold]:
        """Fold the whole file, or write the header of an empty one."""
        if self._files.is_remote(self._handle):
            self.warnings.append(f"{self._path}: is on a network file system, where a lock may not exclude other hosts")
        past = ManifestFold()
        scan = Scan(self._read)
        self._fold_lines(scan, past)
        if scan.line == 0:
            self._require_ours()
        # Nothing is sent before there is a plan.
        lost = [] if past.plan is None else self._lost_batch(scan, past)
        self._cut_tail(scan)
        writer = Writer(self._files, self._handle, FileEnd(scan.offset, scan.crc, scan.batch), path=self._path)
        if scan.line == 0:
            writer.write([self.header.body()])
        elif lost:
            self._note_lost_batch(writer, past, lost)
        # At every opening: a killed process may have left lines, or the file name itself, that are not durable yet,
        # while a later batch makes the next reader take them as durable.
        self._files.sync(self._handle)
        self._files.sync_directory(self._path)
        return writer.end, past

    def _lost_batch(self, scan: Scan, past: ManifestFold) -> Sequence[Record | RepairedLine]:
        """Return the records to write in place of a damaged last batch that may have been durable.

        A write that was cut short was never durable: it does not end like a complete batch.
        """
        if not scan.may_be_durable():
            return []
        from batch.manifest.repair import lost_batch  # noqa: PLC0415 - few ends are damaged

        return lost_batch(scan, past, self._clock())

    def _note_lost_batch(self, writer: Writer, past: ManifestFold, lost: Sequence[Record | RepairedLine]) -> None:
        writer.write([encode_record(line) if isinstance(line, Record) else encode_repaired(line) for line in lost])
        for line in lost:
            past.add(line)
        past.finish()
        self.warnings.append(
            f"{self._path}: the cut lines may have been durable and damaged since: targets that may have been sent "
            "because of them are looked for before they are sent again"
        )

    def _read(self, offset: int, size: int) -> bytes:
        return self._files.read(self._handle, offset, size)

    def _fold_lines(self, scan: Scan, past: ManifestFold) -> None:
        with errors_at(self._path, scan):
            scan.feed(partial(self._take, past))
            past.finish()

    def _take(self, past: ManifestFold, bodies: Iterator[bytes]) -> None:
        if not self._is_known:
            found = parse_header(next(bodies))
            require_same(found, self.header)
            self.header, self._is_known = found, True
            past.is_at_most_once = found.at_most_once
        past.add_all(bodies)

    def _require_ours(self) -> None:
        """Raise ManifestError for a file without a whole first line, unless a power cut may have cut its header."""
        start = self._read(0, len(_START)).rstrip(b"\0")
        alike = sum(one == other for one, other in zip(start, _START, strict=False))
        if len(start) >= _TELLING and 2 * alike < len(start):
            raise ManifestError(f"{self._path}: is not a zclone manifest")

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


def remove_settled(path: Path) -> bool:
    """Remove a manifest under its lock; return False where a process has it, or it is not removable.

    Raises UsageError.
    """
    disk = Disk()
    try:
        handle = disk.open(path)
        try:
            disk.lock(handle, path)
            if not summary(path).is_removable:
                return False
            path.unlink()
            disk.sync_directory(path)
        finally:
            disk.close(handle)
    except (ManifestLockedError, ManifestError):
        return False
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    return True
