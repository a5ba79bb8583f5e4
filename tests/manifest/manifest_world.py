"""A disk in memory that keeps the promises of ``Files`` and no more, and the records the tests write to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from batch.errors import ManifestLockedError
from batch.manifest import Header, Manifest, open_manifest
from batch.manifest.reader import open_reader
from batch.manifest.records import parse_line
from batch.model import Plan, Record, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from batch.manifest.kinds import Line

PATH = Path("/disk/run.manifest.jsonl")
HEADER = Header("job", "run", "https://zstack.example.com", simulated=False, tool="zclone test", created_at=1.0)


@dataclass
class FakeFile:
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    is_locked: bool = False


class FakeDisk:
    """Files in memory; what was not synced is lost at ``power_cut``.

    ``fault`` may raise or say how much is accepted.
    """

    def __init__(self) -> None:
        self.files: dict[Path, FakeFile] = {}
        self.handles: dict[int, tuple[Path, FakeFile]] = {}
        self.log: list[str] = []
        self.fault: Callable[[str], int | None] = lambda _operation: None
        self.remote = False
        self.synced = asyncio.Event()

    def _do(self, operation: str) -> int | None:
        self.log.append(operation)
        return self.fault(operation)

    def create(self, path: Path) -> int:
        if path in self.files:
            raise FileExistsError(path)
        self._do("create")
        self.files[path] = FakeFile()
        return self.open(path)

    def open(self, path: Path) -> int:
        handle = 3 + len(self.handles)
        self.handles[handle] = (path, self.files[path])
        return handle

    def lock(self, handle: int, path: Path) -> None:
        file = self.handles[handle][1]
        if file.is_locked:
            raise ManifestLockedError(f"{path}: locked")
        file.is_locked = True

    def read(self, handle: int, offset: int, size: int) -> bytes:
        self._do("read")
        return bytes(self.handles[handle][1].data[offset : offset + size])

    def append(self, handle: int, data: bytes) -> int:
        size = self._do("append")
        size = len(data) if size is None else size
        self.handles[handle][1].data += data[:size]
        return size

    def truncate(self, handle: int, size: int) -> None:
        self._do("truncate")
        del self.handles[handle][1].data[size:]

    def sync(self, handle: int) -> None:
        self._do("sync")
        file = self.handles[handle][1]
        file.synced = bytes(file.data)
        self.synced.set()

    def sync_directory(self, path: Path) -> None:
        self._do("sync_directory")

    def close(self, handle: int) -> None:
        self.handles[handle][1].is_locked = False

    def is_whole(self, handle: int, path: Path, size: int) -> bool:
        file = self.handles[handle][1]
        return any(there is file for there in self.files.values()) and len(file.data) >= size

    def is_remote(self, handle: int) -> bool:
        return self.remote

    def power_cut(self) -> None:
        for file in self.files.values():
            file.data = bytearray(file.synced)
            file.is_locked = False

    def put(self, data: bytes, path: Path = PATH) -> None:
        self.files[path] = FakeFile(bytearray(data), data)

    @property
    def data(self) -> bytes:
        return bytes(self.files[PATH].data)


async def inline(work: Callable[[], None]) -> None:
    work()


def held(release: asyncio.Event) -> Callable[[Callable[[], None]], Awaitable[None]]:
    """Make writes that land only after ``release``."""

    async def write(work: Callable[[], None]) -> None:
        await release.wait()
        work()

    return write


def open_fake(disk: FakeDisk, header: Header = HEADER) -> Manifest:
    return open_manifest(PATH, header, files=disk, in_thread=inline, clock=lambda: 1_000.0)


def hex_id(number: int) -> str:
    return f"{number:032x}"


def sent(key: str, attempt: int = 1, *, at: float = 10.0) -> Record:
    return Record(State.SENT, key, at, attempt, "source", hex_id(1), hex_id(attempt), hex_id(0xD1 << 120), open_jobs=())


def cloned(key: str, attempt: int = 1, *, at: float = 20.0) -> Record:
    return Record(State.CLONED, key, at, attempt, clone_uuid=hex_id(1), name=f"clone of {key}")


def failed(key: str, attempt: int = 1, *, at: float = 20.0) -> Record:
    return Record(State.FAILED, key, at, attempt, error_code="SYS.1007", error="invalid argument")


def plan(keys: list[str], digest: str = "aa") -> Plan:
    return Plan("job", "run", digest, len(keys), lambda: iter(()), inputs="in")


def short(state: State, key: str) -> Record:
    return Record(state, key, 1.0, 1)


async def write_run(disk: FakeDisk, targets: int, *, sent: Callable[[str], Record] = sent) -> None:
    """Write a run of ``targets`` targets in batches of different sizes; every fifth fails, the last stays sent."""
    manifest = open_fake(disk)
    keys = [f"target-{number}" for number in range(targets)]
    await manifest.write_plan(plan(keys), ((key, f"source of {key}") for key in keys))
    for number, key in enumerate(keys):
        await manifest.commit(sent(key))
        if number < targets - 1:
            manifest.note(failed(key) if number % 5 == 0 else cloned(key))
    await manifest.close(0)


def scan(path: Path) -> Iterator[Line]:
    """Yield every line of the manifest at ``path`` after its header."""
    with open_reader(path) as manifest:
        yield from map(parse_line, manifest.bodies())
