"""What happens to requests and answers on their way: proxies, resets, breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from batch.simulator.faults import Fault, FaultKind
from batch.simulator.wire import Delivery, Drop, Reply

if TYPE_CHECKING:
    from collections.abc import Callable

_PAGES: Final = {502: "Bad Gateway", 503: "Service Temporarily Unavailable", 504: "Gateway Time-out"}
_HTML: Final = (("Content-Type", "text/html"),)


def before(fault: Fault) -> Delivery | None:
    """Deliver in the node's place, where it never sees the request; None where it does."""
    if fault.kind is FaultKind.PROXY and not fault.executed:
        return _proxy_page(fault)
    return _BEFORE[fault.kind](fault) if fault.kind in _BEFORE else None


def after(fault: Fault, reply: Reply) -> Delivery:
    """Hurt the answer of a node that has handled the request."""
    return _AFTER[fault.kind](fault, reply) if fault.kind in _AFTER else reply


def _proxy_page(fault: Fault) -> Reply:
    title = f"{fault.status} {_PAGES.get(fault.status, 'Error')}"
    page = f"<html><head><title>{title}</title></head><body><center><h1>{title}</h1></center></body></html>"
    return Reply(fault.status, page.encode(), _HTML)


def _rate_limited(fault: Fault) -> Reply:
    return Reply(429, b"Too Many Requests", (("Retry-After", f"{fault.seconds:g}"),))


def _tomcat_page(_: Fault) -> Reply:
    return Reply(
        500, b"<!doctype html><html><body><h1>HTTP Status 500 - Internal Server Error</h1></body></html>", _HTML
    )


_BEFORE: Final[dict[FaultKind, Callable[[Fault], Delivery]]] = {
    FaultKind.DROP: lambda fault: Drop(fault.seconds),
    FaultKind.RATE_LIMITED: _rate_limited,
    FaultKind.HTML_500: _tomcat_page,
}
_AFTER: Final[dict[FaultKind, Callable[[Fault, Reply], Delivery]]] = {
    FaultKind.LOST_REPLY: lambda fault, _: Drop(fault.seconds),
    FaultKind.SLOW: lambda fault, reply: replace(reply, delay=reply.delay + fault.seconds),
    FaultKind.TRUNCATED: lambda _, reply: replace(reply, cut=len(reply.body) // 2),
    FaultKind.PROXY: lambda fault, _: _proxy_page(fault),
    FaultKind.ERROR_500: lambda _, __: Reply(500, b"java.lang.RuntimeException: connection to the database is lost"),
}
