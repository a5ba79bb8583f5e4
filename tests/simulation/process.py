"""One process of the command: where it is killed, what its disk refuses, and when its clock is set."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

MANIFEST: Final = Path("/sim/job.manifest.jsonl")
"""Only a name on the simulated disk."""


class Killed(SystemExit):
    """SIGKILL: nothing of the process runs after it; a SystemExit passes through the event loop."""


@dataclass
class Process:
    """A process that is killed at a step; ``die_at`` counts the steps from 1, None: it lives."""

    die_at: int | None = None
    die_in: tuple[str, int] | None = None
    """The step, by its name and number from 1, at which it is killed."""
    stop_after: float | None = None
    """Seconds after which it gets a signal."""
    starts_after: float = 0.0
    clock_set: tuple[float, float] | None = None
    """After so many seconds the machine's wall clock jumps by so many."""
    manifest: Path = MANIFEST
    reopens: bool = False
    """Whether it is ``zclone retry --state uncertain``: quarantined targets are reopened."""
    retries: bool = False
    """Whether it is ``zclone retry`` of what failed or is a conflict."""
    only: tuple[str, ...] = ()
    """The value of its ``--only``."""
    at_most_once: bool = False
    is_at_most_once: bool = False
    """Whether it or one before it on its manifest was started with that option."""
    accepts_changes: bool = False
    alive: bool = True
    steps: int = 0
    names: list[str] = field(default_factory=list)
    bad_write_at: int | None = None
    bad_sync_at: int | None = None
    writes: int = 0
    syncs: int = 0
    clock: Callable[[], float] = lambda: 0.0
    """Virtual seconds."""
    wall: Callable[[], float] = lambda: 0.0
    """Seconds since the epoch, by its machine's clock."""
    heard_noise: bool = False
    """Whether its last answer was bytes without meaning."""
    failed_at: float = float("inf")
    """When a write or sync failed: nothing may be sent after that."""

    def step(self, name: str) -> None:
        """Pass a point at which the process may be killed."""
        self.require_alive()
        self.steps += 1
        self.names.append(name)
        if self.steps == self.die_at or (self.die_in is not None and (name, self.names.count(name)) == self.die_in):
            self.die()

    def die(self) -> NoReturn:
        """Be killed now."""
        self.alive = False
        raise Killed

    def require_alive(self) -> None:
        """Do nothing more after the end."""
        if not self.alive:
            raise Killed

    def short_write(self, data: bytes) -> int:
        """Return how many bytes the disk accepts; raise ENOSPC once it is full."""
        self.writes += 1
        if self.bad_write_at is None or self.writes < self.bad_write_at:
            return len(data)
        self.failed_at = self.clock()
        if self.writes == self.bad_write_at and len(data) > 1:
            return len(data) // 2
        raise OSError(errno.ENOSPC, "No space left on device")

    def fail_sync(self) -> None:
        """Raise EIO at the chosen sync."""
        self.syncs += 1
        if self.syncs == self.bad_sync_at:
            self.failed_at = self.clock()
            raise OSError(errno.EIO, "Input/output error")
