"""The embedded ZStack node: a pure, synchronous core without sockets, clock or global random numbers.

It takes requests and the time, and returns deliveries; later work is queued. A server drives it with the real clock, a
simulation with a virtual one. Its behaviour is determined by the seed and the sequence of requests.
"""

from __future__ import annotations

import heapq
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from batch.simulator.api import NodeContext
from batch.simulator.api_errors import ErrorFactory
from batch.simulator.control import read_database_changes
from batch.simulator.directory import Directory
from batch.simulator.dispatcher import Dispatcher
from batch.simulator.faults import Fault, FaultKind, Faults, delivery_after, delivery_before
from batch.simulator.gateway import BY_NAME, classify
from batch.simulator.jobs import Execution, JobStore
from batch.simulator.ledger import Ledger
from batch.simulator.options import ADMIN_UUID, NodeAccount, NodeOptions
from batch.simulator.resources import ResourceStore
from batch.simulator.state import restore
from batch.simulator.wire import Delivery, Drop, Json, Later, Request, WebHook, derive_uuid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Node:
    """One management node with its database. Times are seconds since the epoch, and never go back."""

    def __init__(
        self,
        options: NodeOptions | None = None,
        *,
        now: float = 0.0,
        origin: str = "http://127.0.0.1:8080",
        events: Iterable[Json] = (),
        journal: Callable[[list[Json]], None] | None = None,
    ) -> None:
        """Start at ``now`` from ``events`` of an earlier process; new events go to ``journal`` before each answer."""
        self.options = options or NodeOptions()
        self.ledger = Ledger()
        self.down_until = now
        self._journal = journal
        self._events: list[Json] = []
        self._drawn = 0
        self._timers = TimerQueue()
        self._jobs = JobStore(self.options)
        self._context = self._build_context(now)
        lives = restore(self._context, self._jobs, events, now)
        self._salt = f"{self.options.seed}:{lives}"
        rng = Random(self._salt)  # nosec B311
        self._faults = Faults(self.options.faults, rng)
        self._execution = Execution(self._context, self._jobs, self._timers, rng)
        self._dispatcher = Dispatcher(self._context, self._jobs, self._execution, salt=self._salt)
        self.origin = origin
        self._next_scan = now + self.options.scan_interval

    @property
    def origin(self) -> str:
        """Scheme, host and port of the node."""
        return self._dispatcher.origin

    @origin.setter
    def origin(self, origin: str) -> None:
        self._dispatcher.origin = origin

    def _build_context(self, now: float) -> NodeContext:
        options = self.options
        errors = ErrorFactory(options.locale, options.global_error_codes, options.newer_codes)
        directory = Directory(options, errors)
        if options.session is not None:
            directory.open(options.session, directory.accounts[ADMIN_UUID], now)
        resources = ResourceStore(options, errors, now)
        return NodeContext(options, errors, directory, resources, self.ledger, self._emit, self._draw_uuid, BY_NAME)

    @property
    def admin(self) -> NodeAccount:
        """The account with all permissions."""
        return self._context.directory.accounts[ADMIN_UUID]

    def receive(self, request: Request, now: float) -> Delivery:
        """Take a request that reached the node's address at ``now``."""
        self.advance(now)
        if now < self.down_until:
            self.ledger.counts["refused"] += 1
            return Drop()
        kind, about = classify(request, self.options.context_path)
        number = self.ledger.call(kind, now, about)
        fault = self._faults.decide(kind, number, about)
        if fault is not None:
            self.ledger.faults[fault.kind.value] += 1
        self._emit({"e": "call", "k": kind, "t": now, "s": about, "f": fault.kind.value if fault is not None else None})
        delivery = self._deliver(request, fault, now)
        self._flush()
        return delivery

    def advance(self, now: float) -> None:
        """Do everything that is due by ``now``."""
        while self._next_scan <= now:
            self._timers.run_until(self._next_scan)
            self._jobs.purge(self._next_scan)
            self._next_scan += self.options.scan_interval
        self._timers.run_until(now)
        self._flush()

    @property
    def next_due(self) -> float | None:
        """Return the time of the next queued action; None if there is none."""
        return self._timers.next_due

    def drain(self) -> None:
        """Run all queued actions, regardless of their times."""
        while (due := self._timers.next_due) is not None:
            self.advance(due)

    def take_hooks(self) -> list[WebHook]:
        """Return the web hooks to call now; report each with ``hook_answered``."""
        hooks = self._execution.hooks
        self._execution.hooks = []
        return hooks

    def hook_answered(self, hook: WebHook, now: float, *, ok: bool) -> None:
        """Report whether a web hook was answered with 2xx."""
        self._execution.hook_answered(hook, now, ok=ok)

    def restart(self, now: float, *, seconds: float) -> None:
        """Restart: refuse connections for ``seconds``, empty the cache; running jobs stay processing forever."""
        self.advance(now)
        self._timers.forget()
        self._jobs.restart()
        self._execution.hooks.clear()
        self.ledger.in_flight = 0
        self.ledger.counts["restarts"] += 1
        self.down_until = now + seconds

    def add_sources(self, uuids: list[str]) -> None:
        """Create these made-up sources now, so that they can be queried before they are cloned."""
        for uuid in uuids:
            self._context.resources.find_source(uuid)
        self._emit({"e": "sources", "u": uuids})
        self._flush()

    def tamper(self, order: Json, now: float) -> None:
        """Change the database bypassing the API; see ``control``. Raises ValueError."""
        read_database_changes(order, self._context.directory.accounts).apply(self._context.resources, now)
        self._emit({"e": "tamper", "o": order, "t": now})
        self._flush()

    def expire_sessions(self) -> None:
        """End every session at once."""
        self._context.directory.expire_all()
        self._emit({"e": "expire"})
        self._flush()

    def set_faults(self, options: NodeOptions) -> None:
        """Replace the fault rules with those of ``options``; call numbers continue."""
        self._faults = Faults(options.faults, Random(f"{self._salt}:{options.seed}"))  # nosec B311

    def report(self, now: float, *, clones: bool = True, times: bool = True) -> Json:
        """Write the ledger; see Ledger.json."""
        sessions = self._context.directory.sessions.values()
        return {
            "now": now,
            "sessions_open": sum(session.expires > now for session in sessions),
            "jobs_processing": sum(row.result is None for row in self._jobs.rows.values()),
            **self.ledger.json(clones=clones, times=times),
        }

    def _deliver(self, request: Request, fault: Fault | None, now: float) -> Delivery:
        """Apply the faults of the network around the node's own handling."""
        if fault is None:
            return self._dispatcher.answer(request, None, now)
        kind = fault.kind
        unseen = delivery_before(fault)
        if unseen is not None:
            return unseen
        if kind in {FaultKind.LATE, FaultKind.DELAYED}:
            later = Later(now + fault.seconds)
            self._timers.add(later.due, partial(self._handle_late, request, later), survives_restart=True)
            return later if kind is FaultKind.LATE else Drop()
        if kind is FaultKind.EXPIRE_SESSIONS:
            self.expire_sessions()
        reply = self._dispatcher.answer(request, fault, now)
        if kind is FaultKind.TWICE:
            self._timers.add(
                now + fault.seconds, partial(self._handle_late, request, Later(now)), survives_restart=True
            )
        if kind is FaultKind.RESTART:
            self.restart(now, seconds=fault.seconds)
            return Drop()
        return delivery_after(fault, reply)

    def _handle_late(self, request: Request, later: Later, now: float) -> None:
        later.outcome = Drop() if now < self.down_until else self._dispatcher.answer(request, None, now)

    def _draw_uuid(self) -> str:
        self._drawn += 1
        return derive_uuid("drawn", self._salt, self._drawn)

    def _emit(self, event: Json) -> None:
        if self._journal is not None:
            self._events.append(event)

    def _flush(self) -> None:
        if self._journal is not None and self._events:
            events, self._events = self._events, []
            self._journal(events)


class TimerQueue:
    """A heap of (due time, action); actions of equal time run in the order they were added."""

    def __init__(self) -> None:
        """Start empty."""
        self._heap: list[tuple[float, int, bool, Callable[[float], object]]] = []
        self._count = 0

    def add(self, due: float, action: Callable[[float], object], *, survives_restart: bool = False) -> None:
        """Run ``action(due)`` once the clock reaches ``due``."""
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, survives_restart, action))

    @property
    def next_due(self) -> float | None:
        """Return the time of the next action; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def run_until(self, now: float) -> None:
        """Run all actions due by ``now``, including ones that they add."""
        while self._heap and self._heap[0][0] <= now:
            due, _, _, action = heapq.heappop(self._heap)
            action(due)

    def forget(self) -> None:
        """Drop the actions in the node's memory, as a crash would; requests still on the network stay."""
        self._heap = [entry for entry in self._heap if entry[2]]
        heapq.heapify(self._heap)
