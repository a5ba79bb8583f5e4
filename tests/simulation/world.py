"""What outlives every process: the node, the network's late deliveries, the disk, the job file, one seed.

The engine, plan, manifest, gate and client are the real ones; only the socket, the disk, the clock and the random
generator are simulated. Same seed, same trace, byte for byte.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import TYPE_CHECKING, Protocol

from batch.model import Limits
from batch.simulator.node import Node
from tests.simulation.disk import SimDisk
from tests.simulation.jobs import plan_of
from tests.simulation.virtual import EPOCH
from tests.simulation.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from batch.model import Clone, Plan
    from batch.simulator.ledger import Ledger
    from batch.simulator.options import NodeOptions
    from batch.simulator.wire import Delivery, Request
    from tests.simulation.hooks import HookNetwork


class Server(Protocol):
    """A management node as the World drives it; times are seconds since the epoch."""

    ledger: Ledger
    down_until: float

    def receive(self, request: Request, now: float) -> Delivery:
        """Take a request."""

    def advance(self, now: float) -> None:
        """Execute everything due."""

    def restart(self, now: float, *, seconds: float) -> None:
        """Die, and refuse connections for some seconds."""

    def expire_sessions(self) -> None:
        """End every session."""

    def set_faults(self, options: NodeOptions) -> None:
        """Continue with other faults."""


@dataclass
class World:
    """Everything that outlives a process."""

    seed: int
    clones: list[Clone]
    """The clones of the current job file."""
    options: NodeOptions
    limits: Limits = field(default_factory=lambda: Limits(rate=50.0, concurrency=4, timeout=20.0))
    now: float = 0.0
    trace: list[str] = field(default_factory=list)
    disk: SimDisk = field(default_factory=SimDisk)
    clock_error: float = 0.0
    """Seconds by which the machine's wall clock is wrong."""
    killer_uuid: str | None = None
    """The resource uuid whose answers kill the process that reads them."""
    is_damaged: bool = False
    """Whether records were lost: a target that then leaves the job file is unknown."""
    garbled: float = 0.0
    """Share of the answers whose body is bytes without meaning."""
    server: Server | None = None
    """The node; None: the embedded one with ``options``."""
    hooks: HookNetwork | None = None
    """Carries web hooks; None: they are not requested."""

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.node: Server = self.server or Node(self.options, now=EPOCH)
        self.ever = {clone.key: clone for clone in self.clones}
        """Every target that was ever in the job file, in its last form."""
        self.versions = {clone.digest: clone for clone in self.clones}
        """The same, in all its forms."""
        self.witness = Witness(self.limits, self.ever, self.is_made)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0

    def is_made(self, uuid: str) -> bool:
        """Return whether the node made a clone under this uuid."""
        return any(row.uuid == uuid for row in self.node.ledger.clones)

    def say(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now:.6f} {text}")

    def at(self, due: float, action: Callable[[], None]) -> None:
        """Call something at a time, even if the process that requested it is dead."""
        self._order += 1
        heapq.heappush(self._agenda, (due, self._order, action))

    def advance(self, now: float) -> None:
        """Let everything due happen."""
        while self._agenda and self._agenda[0][0] <= now:
            due, _, action = heapq.heappop(self._agenda)
            self.now = max(self.now, due)
            self._advance_node()
            action()
        self.now = max(self.now, now)
        self._advance_node()

    def _advance_node(self) -> None:
        self.node.advance(EPOCH + self.now)
        if self.hooks is not None:
            self.hooks.carry()

    @property
    def next_due(self) -> float:
        """Return the time of the next scheduled event, or infinity."""
        return self._agenda[0][0] if self._agenda else inf

    def wait(self, seconds: float) -> None:
        """Let time pass while no process lives."""
        self.advance(self.now + seconds)

    def set_clock(self, seconds: float) -> None:
        """Move the machine's wall clock; the node's own stays right."""
        self.clock_error += seconds
        self.witness.clock_was_set = True
        self.say(f"clock {seconds:+.0f}")

    def edit(self, clones: Iterable[Clone]) -> None:
        """Change what the job file asks for."""
        self.clones = list(
            {clone.key: clone for clone in (*clones, *(self.clones if self.is_damaged else ()))}.values()
        )
        self.ever |= {clone.key: clone for clone in self.clones}
        self.versions |= {clone.digest: clone for clone in self.clones}
        self.say("edited: " + " ".join(clone.key for clone in self.clones))

    def keys(self) -> set[str]:
        """Return the keys of the current job file."""
        return {clone.key for clone in self.clones}

    def plan(self) -> Plan:
        """Return the plan of the job."""
        return plan_of(tuple(int(clone.key.removeprefix("t")) for clone in self.clones))

    def manifest(self, path: Path) -> bytes:
        """Return the bytes of a manifest as the next process would see them."""
        file = self.disk.files.get(path)
        return b"" if file is None else bytes(file.data)
