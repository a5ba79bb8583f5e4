"""The embedded ZStack node: a pure, synchronous core. No sockets, no clock, no global chance.

Give it requests and the time; it gives back what to deliver and keeps the rest for later. A server drives it with
the real clock, a simulation with a virtual one; the same seed and the same requests in the same order behave the same.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from batch.simulator import mediator, network
from batch.simulator.agenda import Agenda
from batch.simulator.api import Call, World
from batch.simulator.codes import ApiFailureError, RestError, Speech
from batch.simulator.directory import Directory
from batch.simulator.execution import Execution
from batch.simulator.faults import Fault, FaultKind, Faults
from batch.simulator.gateway import JOBS, Gateway, classify
from batch.simulator.jobs import JobStore, Outcome
from batch.simulator.ledger import Ledger
from batch.simulator.options import ADMIN_UUID, Account, NodeOptions
from batch.simulator.resources import Estate
from batch.simulator.restore import restore
from batch.simulator.wire import (
    Delivery,
    Drop,
    Json,
    Later,
    Reply,
    Request,
    WebHook,
    event_json,
    made_up_uuid,
    sync_error_json,
)

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
        """Start at ``now``; ``events`` of an earlier life are taken up, new ones go to ``journal`` before an answer."""
        self.options = options or NodeOptions()
        self.origin = origin
        self.ledger = Ledger()
        self.down_until = now
        self._journal = journal
        self._events: list[Json] = []
        self._drawn = 0
        self._agenda = Agenda()
        self._jobs = JobStore(
            retention=self.options.row_retention,
            cache_size=self.options.cache_size,
            duplicate_window=self.options.duplicate_window,
        )
        self._world = self._build_world(now)
        lives = restore(self._world, self._jobs, events, now)
        self._salt = f"{self.options.seed}:{lives}"
        rng = Random(self._salt)  # nosec B311
        self._faults = Faults(self.options.faults, rng)
        self._execution = Execution(self._world, self._jobs, self._agenda, rng)
        self._gateway = Gateway(self._world)
        self._next_scan = now + self.options.scan_interval

    def _build_world(self, now: float) -> World:
        options = self.options
        speech = Speech(options.locale, options.global_error_codes)
        directory = Directory(options, speech)
        if options.session is not None:
            directory.open(options.session, directory.accounts[ADMIN_UUID], now)
        estate = Estate(options, speech, now)
        return World(options, speech, directory, estate, self.ledger, self._emit, self._draw_uuid)

    @property
    def admin(self) -> Account:
        """The account that may do everything."""
        return self._world.directory.accounts[ADMIN_UUID]

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
            self._agenda.run_until(self._next_scan)
            self._jobs.purge(self._next_scan)
            self._next_scan += self.options.scan_interval
        self._agenda.run_until(now)
        self._flush()

    @property
    def next_due(self) -> float | None:
        """When ``advance`` has something to do; None when nothing is under way."""
        return self._agenda.next_due

    def drain(self) -> None:
        """Bring all that is under way to its end, however late it is due."""
        while (due := self._agenda.next_due) is not None:
            self.advance(due)

    def take_hooks(self) -> list[WebHook]:
        """Hand out the web hooks to call now; report each with ``hook_answered``."""
        hooks = self._execution.hooks
        self._execution.hooks = []
        return hooks

    def hook_answered(self, hook: WebHook, now: float, *, ok: bool) -> None:
        """Say whether a web hook was taken with a 2xx."""
        self._execution.hook_answered(hook, now, ok=ok)

    def restart(self, now: float, *, seconds: float) -> None:
        """Die and come back: refused for ``seconds``, cache empty, jobs under way processing for ever."""
        self.advance(now)
        self._agenda.forget()
        self._jobs.restart()
        self._execution.hooks.clear()
        self.ledger.in_flight = 0
        self.ledger.counts["restarts"] += 1
        self.down_until = now + seconds

    def add_sources(self, uuids: list[str]) -> None:
        """Make up these sources now, so that they can be queried before they are cloned."""
        for uuid in uuids:
            self._world.estate.find_source(uuid)
        self._emit({"e": "sources", "u": uuids})
        self._flush()

    def expire_sessions(self) -> None:
        """End every session at once."""
        self._world.directory.expire_all()
        self._emit({"e": "expire"})
        self._flush()

    def set_faults(self, options: NodeOptions) -> None:
        """Replace the fault rules by those of ``options``; numbers of calls go on counting."""
        self._faults = Faults(options.faults, Random(f"{self._salt}:{options.seed}"))  # nosec B311

    def report(self, now: float, *, clones: bool = True, times: bool = True) -> Json:
        """Write the ledger; see Ledger.json."""
        sessions = self._world.directory.sessions.values()
        return {
            "now": now,
            "sessions_open": sum(session.expires > now for session in sessions),
            "jobs_processing": sum(row.outcome is None for row in self._jobs.rows.values()),
            **self.ledger.json(clones=clones, times=times),
        }

    def _deliver(self, request: Request, fault: Fault | None, now: float) -> Delivery:
        """Apply the faults of the network around the node's own handling."""
        if fault is None:
            return self._handle(request, None, now)
        kind = fault.kind
        unseen = network.before(fault)
        if unseen is not None:
            return unseen
        if kind in {FaultKind.LATE, FaultKind.DELAYED}:
            later = Later(now + fault.seconds)
            self._agenda.add(later.due, partial(self._handle_late, request, later), survives_restart=True)
            return later if kind is FaultKind.LATE else Drop()
        if kind is FaultKind.EXPIRE_SESSIONS:
            self.expire_sessions()
        reply = self._handle(request, fault, now)
        if kind is FaultKind.TWICE:
            self._agenda.add(
                now + fault.seconds, partial(self._handle_late, request, Later(now)), survives_restart=True
            )
        if kind is FaultKind.RESTART:
            self.restart(now, seconds=fault.seconds)
            return Drop()
        return network.after(fault, reply)

    def _handle_late(self, request: Request, later: Later, now: float) -> None:
        later.outcome = Drop() if now < self.down_until else self._handle(request, None, now)

    def _handle(self, request: Request, fault: Fault | None, now: float) -> Reply:
        """Answer as RestServer does: jobs before everything, then the immediate checks."""
        path = request.path.removeprefix(self.options.context_path)
        try:
            if path.startswith(JOBS) and path != request.path:
                reply = self._poll(request, path.removeprefix(JOBS))
            else:
                reply = self._call(self._read(request, path, now, fault), now)
        except RestError as error:
            reply = Reply(error.status, error.text.encode("utf-8", "replace"))
        return replace(reply, headers=reply.headers + self._headers(request))

    def _read(self, request: Request, path: str, now: float, fault: Fault | None) -> Call:
        if path == request.path:
            raise RestError(404, f"no api mapping to {path}")
        return self._gateway.read(request, path, now, fault)

    def _poll(self, request: Request, job: str) -> Reply:
        if request.method != "GET":
            raise RestError(405, "only GET method is allowed for querying a job")
        found = self._jobs.find(job)
        if found is None:
            raise RestError(404, "the job has been expired")
        if isinstance(found, Outcome):
            with_schema = request.headers.get("x-json-schema") == "true"
            return Reply(200 if found.ok else 503, self._execution.render(found, with_schema=with_schema))
        return Reply(202, b"{}")

    def _call(self, call: Call, now: float) -> Reply:
        is_duplicate = self._jobs.is_duplicate(call.id, now)
        self.ledger.counts["duplicate_jobs"] += is_duplicate and not call.api.sync
        timeout = self._gateway.check_headers(call, is_duplicate=is_duplicate)
        if call.api.sync:
            return self._call_sync(call, now)
        self._execution.accept(call, now)
        origin = self.options.management_url or self.origin
        if call.fault is not None and call.fault.kind is FaultKind.FOREIGN_LOCATION:
            origin = call.fault.host
        location = f"{origin}{self.options.context_path}{JOBS}{call.id}"
        return Reply(202, self._json({"location": location, "apiTimeout": timeout}))

    def _call_sync(self, call: Call, now: float) -> Reply:
        delay = self._execution.pool.pass_(now) - now
        try:
            account = mediator.check(self._world, call, now)
            result = call.api.run(self._world, call, account, now)
        except ApiFailureError as failure:
            return Reply(503, sync_error_json({"error": self._world.speech.json(failure.error)}), delay=delay)
        assert isinstance(result, dict)
        return Reply(200, self._json(result), delay=delay)

    def _headers(self, request: Request) -> tuple[tuple[str, str], ...]:
        headers: list[tuple[str, str]] = []
        if self.options.content_type:
            headers.append(("Content-Type", "application/json;charset=UTF-8"))
        if self.options.http_sessions and "JSESSIONID=" not in request.headers.get("cookie", ""):
            self.ledger.counts["http_sessions"] += 1
            number = self.ledger.counts["http_sessions"]
            cookie = made_up_uuid("http", self._salt, number).upper()
            headers.append(("Set-Cookie", f"JSESSIONID={cookie}; Path={self.options.context_path}; HttpOnly"))
        return tuple(headers)

    def _json(self, value: Json) -> bytes:
        return event_json(value, html_escape=self.options.html_escape)

    def _draw_uuid(self) -> str:
        self._drawn += 1
        return made_up_uuid("drawn", self._salt, self._drawn)

    def _emit(self, event: Json) -> None:
        if self._journal is not None:
            self._events.append(event)

    def _flush(self) -> None:
        if self._journal is not None and self._events:
            events, self._events = self._events, []
            self._journal(events)
