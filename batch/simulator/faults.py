"""Faults: their kinds, the requests they hit, and the seeded choice between them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from batch.simulator.wire import Delivery, Drop, Response

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random


class FaultKind(StrEnum):
    """All faults of requests, answers and jobs (zstack/README.md 12)."""

    DROP = "drop"
    """The connection is reset before the node sees the request."""
    LOST_REPLY = "lost_reply"
    """Executed; the connection is reset instead of an answer, after ``seconds``."""
    SLOW = "slow"
    """Executed at once, answered ``seconds`` late."""
    LATE = "late"
    """Executed and answered only after ``seconds``, even if the client no longer waits."""
    DELAYED = "delayed"
    """Reset at once; the original arrives and is executed ``seconds`` later, after any repetition."""
    TWICE = "twice"
    """Delivered a second time ``seconds`` later; the second answer is discarded."""
    PROXY = "proxy"
    """An HTML page with ``status`` from a proxy; behind it the request was ``executed`` or not."""
    RATE_LIMITED = "rate_limited"
    """429 with Retry-After: ``seconds``; not executed."""
    TRUNCATED = "truncated"
    """Executed; the answer's body breaks off."""
    ERROR_500 = "error_500"
    """Executed; 500 with plain text."""
    HTML_500 = "html_500"
    """Tomcat's own error page; not executed."""
    EXPIRE_SESSIONS = "expire_sessions"
    """All sessions end just before the request."""
    RESTART = "restart"
    """The node crashes while it answers, and refuses connections for ``seconds``."""

    ORPHAN = "orphan"
    """202, but the message was never sent: processing forever."""
    ORPHAN_500 = "orphan_500"
    """The row is written, then sending fails: 500, and processing forever."""
    RESULT_LOST = "result_lost"
    """Executed, but the row stays processing forever."""
    ROW_MISSING = "row_missing"
    """The row's insert fails: 202, executed, 404 at each poll."""
    PURGED = "purged"
    """Executed; row and cached result vanish as soon as it is done."""
    FAIL = "fail"
    """The job fails with ``code``; nothing is made."""
    FAIL_CREATED = "fail_created"
    """The job fails with ``code`` though the clone was made."""
    FAIL_THEN_CREATE = "fail_then_create"
    """The job fails with ``code`` at once and the clone is made ``seconds`` later."""
    TWO_RUNS = "two_runs"
    """One job runs twice; the second result replaces the first."""
    FOREIGN_LOCATION = "foreign_location"
    """``location`` names another host."""


JOB_FAULTS: Final = frozenset(
    {
        FaultKind.ORPHAN,
        FaultKind.ORPHAN_500,
        FaultKind.RESULT_LOST,
        FaultKind.ROW_MISSING,
        FaultKind.PURGED,
        FaultKind.FAIL,
        FaultKind.FAIL_CREATED,
        FaultKind.FAIL_THEN_CREATE,
        FaultKind.TWO_RUNS,
        FaultKind.FOREIGN_LOCATION,
    }
)
"""Faults of api jobs, which hit calls that create one."""

ANY: Final = "any"


@dataclass(frozen=True, slots=True)
class Fault:
    """One occurrence of a fault."""

    kind: FaultKind
    seconds: float = 0.0
    status: int = 502
    code: str = "SYS.1000"
    cause: str | None = None
    """Code of a nested cause."""
    executed: bool = True
    host: str = "http://192.0.2.10:8080"


@dataclass(frozen=True, slots=True)
class FaultRule:
    """The conditions of a fault; all that are set must hold."""

    fault: Fault
    on: str = "submit"
    """The kind of call as the ledger names it, or ``any``."""
    requests: frozenset[int] | None = None
    """Numbers of calls of that kind, from 1."""
    source: str | None = None
    """The uuid in the URL."""
    probability: float | None = None
    times: int | None = None
    """Maximum number of times."""


class Faults:
    """Chooses at most one fault per request: the first matching fixed rule, else one draw over the others."""

    def __init__(self, rules: tuple[FaultRule, ...], rng: Random) -> None:
        """Draw from ``rng`` only where a rule has a probability."""
        self._rules = rules
        self._rng = rng
        self._used: Counter[int] = Counter()
        self._of_call: dict[str, tuple[list[FaultRule], list[FaultRule]]] = {}

    def decide(self, call: str, number: int, source: str | None) -> Fault | None:
        """Choose the fault of the ``number``-th ``call`` about ``source``."""
        named, drawn = self._rules_of(call)
        rule = next((rule for rule in named if self._fits(rule, number, source)), None)
        if rule is None and drawn:
            rule = self._draw(drawn, number, source)
        if rule is None:
            return None
        self._used[id(rule)] += 1
        return rule.fault

    def _rules_of(self, call: str) -> tuple[list[FaultRule], list[FaultRule]]:
        """Return the rules for ``call``, divided into those without and with a probability."""
        if call not in self._of_call:
            rules = [rule for rule in self._rules if rule.on in {ANY, call}]
            named = [rule for rule in rules if rule.probability is None]
            self._of_call[call] = named, [rule for rule in rules if rule.probability is not None]
        return self._of_call[call]

    def _draw(self, rules: list[FaultRule], number: int, source: str | None) -> FaultRule | None:
        point = self._rng.random()
        for rule in rules:
            if not self._fits(rule, number, source):
                continue
            point -= rule.probability or 0.0
            if point < 0:
                return rule
        return None

    def _fits(self, rule: FaultRule, number: int, source: str | None) -> bool:
        return (
            (rule.requests is None or number in rule.requests)
            and (rule.source is None or rule.source == source)
            and (rule.times is None or self._used[id(rule)] < rule.times)
        )


_PAGES: Final = {502: "Bad Gateway", 503: "Service Temporarily Unavailable", 504: "Gateway Time-out"}
_HTML: Final = (("Content-Type", "text/html"),)


def delivery_before(fault: Fault) -> Delivery | None:
    """Return the delivery of a request that never reaches the node; None if it does."""
    if fault.kind is FaultKind.PROXY and not fault.executed:
        return _proxy_page(fault)
    return _BEFORE[fault.kind](fault) if fault.kind in _BEFORE else None


def delivery_after(fault: Fault, reply: Response) -> Delivery:
    """Apply the fault to the answer of a node that has handled the request."""
    return _AFTER[fault.kind](fault, reply) if fault.kind in _AFTER else reply


def _proxy_page(fault: Fault) -> Response:
    title = f"{fault.status} {_PAGES.get(fault.status, 'Error')}"
    page = f"<html><head><title>{title}</title></head><body><center><h1>{title}</h1></center></body></html>"
    return Response(fault.status, page.encode(), _HTML)


def _rate_limited(fault: Fault) -> Response:
    return Response(429, b"Too Many Requests", (("Retry-After", f"{fault.seconds:g}"),))


def _tomcat_page(_: Fault) -> Response:
    return Response(
        500, b"<!doctype html><html><body><h1>HTTP Status 500 - Internal Server Error</h1></body></html>", _HTML
    )


_BEFORE: Final[dict[FaultKind, Callable[[Fault], Delivery]]] = {
    FaultKind.DROP: lambda fault: Drop(fault.seconds),
    FaultKind.RATE_LIMITED: _rate_limited,
    FaultKind.HTML_500: _tomcat_page,
}
_AFTER: Final[dict[FaultKind, Callable[[Fault, Response], Delivery]]] = {
    FaultKind.LOST_REPLY: lambda fault, _: Drop(fault.seconds),
    FaultKind.SLOW: lambda fault, reply: replace(reply, delay=reply.delay + fault.seconds),
    FaultKind.TRUNCATED: lambda _, reply: replace(reply, cut=len(reply.body) // 2),
    FaultKind.PROXY: lambda fault, _: _proxy_page(fault),
    FaultKind.ERROR_500: lambda _, __: Response(500, b"java.lang.RuntimeException: connection to the database is lost"),
}
