"""A node that gives each POST its own verdict, independent of the target's other ones.

It executes a POST within its apiTimeout or never, under the requested uuid if it honours that, once for each job uuid
whose row it knows. What it answers about a job may be wrong as a real server's answers are: no answer, 404 for a
running job, 202 indefinitely, an error for what was made.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from batch.simulator.ledger import Ledger
from batch.simulator.resources import MODEL_SERVICE, Resource
from batch.simulator.wire import Drop, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from batch.simulator.options import NodeOptions
    from batch.simulator.wire import Delivery, Request

_SERVICES: Final = "/zstack/v1/ai/model-services/"
_JOBS: Final = "/zstack/v1/api-jobs/"
_SESSIONS: Final = "/zstack/v1/accounts/sessions"
PREFLIGHT: Final = "0" * 32
"""The uuid that a client queries to check its credentials."""
OVER_LIMIT: Final = Response(429, b"Rate limit exceeded")
_UNKNOWN: Final = Response(404, b"the job has been expired")
_RUNNING: Final = Response(202, b"{}")


class Answer(StrEnum):
    """The answer to the POST."""

    ACCEPTED = "accepted"
    LATE = "late"
    """202, after the sender stopped waiting."""
    LOST = "lost"
    ERROR = "error"
    """500, although it was accepted."""
    REFUSED = "refused"
    """``Verdict.refusal``; it was not accepted."""


class Row(StrEnum):
    """What polls find of the job."""

    KEPT = "kept"
    MISSING = "missing"
    """404 at every poll."""
    LOST = "lost"
    """404 from the middle of its execution on."""
    COMES_AND_GOES = "comes and goes"
    """404 at every other poll while it runs."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fate of one POST."""

    answer: Answer = Answer.ACCEPTED
    refusal: Response | None = None
    starts_in: float = 0.0
    """Seconds until the server begins; it waits in a queue until then."""
    takes: float = 0.2
    row: Row = Row.KEPT
    makes: bool = True
    """Whether the clone is made at the end of its time."""
    codes: tuple[str, ...] = ()
    """The job ends with this error and these causes, outermost first; none: with what it made."""
    ends_in: float | None = None
    """Seconds after its begin when the job ends, if not at the end of its work."""
    never_ends: bool = False
    is_shown_early: bool = False
    """Whether looks show the clone while its job runs; it is gone again where the job does not make it."""
    shown_in: float = 0.0
    """Seconds after its begin when it is shown then."""


@dataclass(slots=True)
class _Job:
    """A job that the server accepted."""

    verdict: Verdict
    result: Response | None = None
    polls: int = 0


@dataclass(frozen=True, slots=True)
class Traits:
    """The properties of a server. Durations in seconds."""

    honours: bool = True
    """Whether a clone gets the requested uuid."""
    shows: bool = True
    """Whether a job that succeeds shows what it made."""
    api_timeout: float = 1800.0
    language: str = "Duplicate job uuid[{job}]"
    """The language of the refusal of a known job uuid."""
    foreign: frozenset[str] = frozenset()
    """Foreign uuids from the start, which show nothing that differs from the request."""
    differing: frozenset[str] = frozenset()
    """Foreign uuids from the start, with a name that is never requested."""


@dataclass
class AttemptNode:
    """``verdict_of`` decides on each POST as it comes; ``refusals`` answer lookups and logins instead of the truth."""

    traits: Traits
    verdict_of: Callable[[], Verdict]
    random: Random
    ledger: Ledger = field(default_factory=Ledger)
    down_until: float = 0.0
    refusals: dict[str, tuple[float, Response | Drop]] = field(default_factory=dict)
    """By ``look``, ``login`` and ``version``: the share of them that gets each refusal."""
    away: Response | None = None
    """The node's answer to every call, and to every job that it accepts."""

    def __post_init__(self) -> None:
        self.rows: dict[str, Resource] = {}
        for uuid in sorted(self.traits.foreign):
            self.rows[uuid] = Resource(uuid, MODEL_SERVICE, "somebody", None, 0.0)
        for uuid in sorted(self.traits.differing):
            self.rows[uuid] = Resource(uuid, MODEL_SERVICE, "somebody", "of another folder", 0.0)
        self.executable: set[str] = set()
        """Job uuids under which a clone was made or may still be made."""
        self._early: dict[str, Resource] = {}
        """By job uuid: what a lookup shows before it is made."""
        self.shown_early: set[str] = set()
        """Resource uuids of all of these, also after their jobs ended."""
        self._jobs: dict[str, _Job] = {}
        self._sessions: set[str] = set()
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = 0

    # --- Called by the World
    # --------------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        while self._agenda and self._agenda[0][0] <= now:
            due, _, action = heapq.heappop(self._agenda)
            action(due)

    def restart(self, now: float, *, seconds: float) -> None:
        """Refuse connections for a while; work under way is lost, its rows stay as they are."""
        self.down_until = now + seconds
        self._agenda = []
        for row in self._early.values():
            self.ledger.clone(row)
        self._early = {}

    def expire_sessions(self) -> None:
        self._sessions.clear()

    def set_faults(self, options: NodeOptions) -> None:
        """Heal: from now on every POST is accepted and executed, and every query answered with the truth."""
        self.verdict_of = Verdict
        self.refusals, self.away = {}, None

    def is_stuck(self, job: str) -> bool:
        """Return whether a job answers 202 and always will, or claims to have made what it did not make."""
        known = self._jobs.get(job)
        return known is not None and known.verdict.row is not Row.MISSING and known.result in (None, _EMPTY)

    def receive(self, request: Request, now: float) -> Delivery:
        self.advance(now)
        if now < self.down_until:
            return Drop()
        kind, about = _kind(request)
        self.ledger.call(kind, now, about)
        # The answer to a poll is the job's own end, whatever the node's state; its limiter comes before everything.
        if self.away is not None and (kind not in {"submit", "poll"} or self.away is OVER_LIMIT):
            return self.away
        share, refusal = self.refusals.get(kind, (0.0, None))
        if refusal is not None and self.random.random() < share:
            return refusal
        return self._handle(kind, about, request, now)

    def _handle(self, kind: str, about: str, request: Request, now: float) -> Delivery:
        match kind:
            case "submit":
                return self._submit(about, request, now)
            case "poll":
                return self._poll(about)
            case "look" | "preflight":
                return self._look(about, request)
            case "login":
                return self._login()
            case "version":
                return _json(200, {"version": "5.5.22"})
        return _json(200, {})

    # --- Calls --------------------------------------------------------------------------------------------------------

    def _login(self) -> Response:
        session = f"{self.random.getrandbits(128):032x}"
        self._sessions.add(session)
        return _json(200, {"inventory": {"uuid": session}})

    def _is_open(self, request: Request) -> bool:
        return request.headers.get("authorization", "").removeprefix("OAuth ") in self._sessions

    def _look(self, uuid: str, request: Request) -> Response:
        if not self._is_open(request):
            return failed("ID.1001")
        row = self.rows.get(uuid)
        return _json(200, {"inventories": [] if row is None else [_inventory(row)]})

    def _poll(self, uuid: str) -> Response:
        job = self._jobs.get(uuid)
        if job is None or job.verdict.row is Row.MISSING:
            return _UNKNOWN
        job.polls += 1
        if job.verdict.row is Row.COMES_AND_GOES and job.result is None and job.polls % 2 == 0:
            return _UNKNOWN
        return _RUNNING if job.result is None else job.result

    def _submit(self, source: str, request: Request, now: float) -> Delivery:
        uuid = request.headers["x-job-uuid"]
        verdict = self.verdict_of()
        if verdict.answer is Answer.REFUSED:
            assert verdict.refusal is not None
            return verdict.refusal
        known = self._jobs.get(uuid)
        if known is not None and known.verdict.row is not Row.MISSING:
            return Response(400, self.traits.language.replace("{job}", uuid).encode())
        self._take(uuid, source, request, verdict, now)
        match verdict.answer:
            case Answer.LOST:
                return Drop()
            case Answer.ERROR:
                return Response(500, b"java.lang.RuntimeException: connection to the database is lost")
        location = f"http://10.0.0.1:8080{_JOBS}{uuid}"
        answer = {"location": location, "apiTimeout": int(1000 * self.traits.api_timeout)}
        return _json(202, answer, delay=40.0 if verdict.answer is Answer.LATE else 0.0)

    # --- Execution ----------------------------------------------------------------------------------------------------

    def _take(self, uuid: str, source: str, request: Request, verdict: Verdict, now: float) -> None:
        refusal = self.away if self.away is not None else None if self._is_open(request) else failed("ID.1001")
        params = json.loads(request.body)["params"]

        def begin(at: float) -> None:
            known = self._jobs.get(uuid)
            if known is not None and known.verdict.row is not Row.MISSING:
                # The original arrives after its repetition.
                return
            job = self._jobs[uuid] = _Job(verdict)
            if refusal is not None:
                job.result = refusal
                self.executable.discard(uuid)
                return
            if verdict.is_shown_early:
                self._at(at + verdict.shown_in, lambda due: self._show_early(uuid, source, params, due))
            self._at(at + verdict.takes, lambda due: self._work(job, uuid, source, params, due))
            if verdict.ends_in is not None:
                self._at(at + verdict.ends_in, lambda _: self._end(job, None))
            if verdict.row is Row.LOST:
                self._at(at + verdict.takes / 2, lambda _: self._forget(uuid))

        if verdict.makes:
            self.executable.add(uuid)
        if verdict.starts_in:
            self._at(now + verdict.starts_in, begin)
        else:
            begin(now)

    def _show_early(self, job: str, source: str, params: Mapping[str, Any], now: float) -> None:
        row = self._show(job, source, params, now)
        if row is not None:
            self._early[job] = row
            self.shown_early.add(row.uuid)

    def _forget(self, job: str) -> None:
        self._jobs.pop(job, None)

    def _at(self, due: float, action: Callable[[float], None]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (due, self._count, action))

    def _work(self, job: _Job, uuid: str, source: str, params: Mapping[str, Any], now: float) -> None:
        early = self._early.pop(uuid, None)
        if early is not None and not job.verdict.makes:
            del self.rows[early.uuid]
        made = (early or self._show(uuid, source, params, now)) if job.verdict.makes else None
        if made is not None:
            self.ledger.clone(made)
        if job.verdict.makes and made is None:
            job.result = job.result or failed("SYS.1000")
        elif job.verdict.ends_in is None:
            self._end(job, made)

    def _show(self, job: str, source: str, params: Mapping[str, Any], now: float) -> Resource | None:
        self._count += 1
        asked = str(params.get("resourceUuid", "")) if self.traits.honours else ""
        uuid = asked or f"{self._count:012x}4ccc9{self._count:015x}"
        if uuid in self.rows:
            return None
        shown = {name: value for name, value in params.items() if name != "resourceUuid"}
        row = Resource(
            uuid, MODEL_SERVICE, "admin", str(shown.get("name", "")), now, params=shown, source=source, job=job
        )
        self.rows[uuid] = row
        return row

    def _end(self, job: _Job, made: Resource | None) -> None:
        verdict = job.verdict
        if verdict.never_ends:
            return
        if verdict.codes:
            job.result = failed(*verdict.codes)
        elif made is not None and self.traits.shows:
            job.result = _json(200, {"inventory": _inventory(made)})
        else:
            job.result = _EMPTY


def _json(status: int, value: object, *, delay: float = 0.0) -> Response:
    return Response(status, json.dumps(value).encode(), delay=delay)


_EMPTY: Final = _json(200, {})


def failed(code: str, *causes: str) -> Response:
    """503 with an error tree."""
    inner: dict[str, Any] = {}
    for name in reversed(causes):
        inner = {"cause": {"code": name, "description": "inner", "details": "", **inner}}
    return _json(503, {"error": {"code": code, "description": "outer", "details": "", **inner}})


def _inventory(row: Resource) -> dict[str, Any]:
    return {"uuid": row.uuid} if row.name is None else {"name": row.name, **row.params, "uuid": row.uuid}


def _kind(request: Request) -> tuple[str, str]:
    path = request.path
    if path.startswith(_SERVICES):
        uuid = path.removeprefix(_SERVICES)
        return ("submit" if request.method == "POST" else "preflight" if uuid == PREFLIGHT else "look"), uuid
    if path.startswith(_JOBS):
        return "poll", path.removeprefix(_JOBS)
    if path.endswith("/accounts/login"):
        return "login", ""
    return ("logout" if path.startswith(_SESSIONS) else "version"), ""
