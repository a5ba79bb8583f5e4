"""A disk that keeps only what was synced: a power cut loses and garbles the rest, a kill loses nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batch.errors import ManifestLockedError

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from tests.simulation.process import Process


@dataclass
class SimFile:
    """Bytes as processes see them, and how many of them, and whether the name, would survive a power cut."""

    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    is_named: bool = False
    locked_by: Process | None = None


@dataclass
class SimDisk:
    """All files; outlives every process."""

    files: dict[Path, SimFile] = field(default_factory=dict)

    def power_cut(self, random: Random) -> None:
        """Keep what was synced, and of the rest a random prefix with some bits flipped."""
        for path in list(self.files):
            file = self.files[path]
            if not file.is_named and random.random() < 0.5:
                del self.files[path]
                continue
            file.data[:] = self._after_cut(file, random)
            file.synced = bytes(file.data)
            file.is_named = True

    def _after_cut(self, file: SimFile, random: Random) -> bytes:
        common = len(file.synced)
        if not file.data.startswith(file.synced):
            return file.synced
        tail = file.data[common : common + random.randint(0, len(file.data) - common)]
        for _ in range(random.choice((0, 0, 1, 3)) if tail else 0):
            tail[random.randrange(len(tail))] ^= 1 << random.randrange(8)
        return file.synced + bytes(tail)


class ProcessFiles:
    """The Files of one process: every call is a step at which it may be killed or get an I/O error."""

    def __init__(self, disk: SimDisk, process: Process) -> None:
        self._disk = disk
        self._process = process
        self._handles: dict[int, Path] = {}

    def _file(self, handle: int) -> SimFile:
        return self._disk.files[self._handles[handle]]

    def create(self, path: Path) -> int:
        self._process.step("create")
        if path in self._disk.files:
            raise FileExistsError
        self._disk.files[path] = SimFile()
        return self._give(path)

    def open(self, path: Path) -> int:
        self._process.step("open")
        return self._give(path)

    def _give(self, path: Path) -> int:
        handle = len(self._handles) + 3
        self._handles[handle] = path
        return handle

    def lock(self, handle: int, path: Path) -> None:
        file = self._file(handle)
        if file.locked_by is not None and file.locked_by.alive and file.locked_by is not self._process:
            raise ManifestLockedError(f"{path}: held")
        file.locked_by = self._process

    def read(self, handle: int, offset: int, size: int) -> bytes:
        return bytes(self._file(handle).data[offset : offset + size])

    def append(self, handle: int, data: bytes) -> int:
        self._process.step("append")
        taken = self._process.short_write(data)
        self._file(handle).data += data[:taken]
        self._process.step("appended")
        return taken

    def truncate(self, handle: int, size: int) -> None:
        self._process.step("truncate")
        del self._file(handle).data[size:]

    def sync(self, handle: int) -> None:
        self._process.step("sync")
        self._process.fail_sync()
        file = self._file(handle)
        file.synced = bytes(file.data)
        self._process.step("synced")

    def sync_directory(self, path: Path) -> None:
        self._process.step("sync_directory")
        self._disk.files[path].is_named = True

    def close(self, handle: int) -> None:
        file = self._file(handle)
        if file.locked_by is self._process:
            file.locked_by = None

    def is_whole(self, handle: int, path: Path, size: int) -> bool:
        return len(self._file(handle).data) >= size

    def is_remote(self, handle: int) -> bool:
        return False
