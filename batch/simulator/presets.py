"""Presets: ready-made sets of switches and faults."""

from __future__ import annotations

from typing import Final

from batch.simulator.faults import ANY, Fault, FaultKind, FaultRule
from batch.simulator.options import NodeOptions, Source
from batch.simulator.wire import derive_uuid


def _maybe(probability: float, fault: Fault, on: str = "submit", *, times: int | None = None) -> FaultRule:
    return FaultRule(fault, on=on, probability=probability, times=times)


def _submits(scale: float) -> tuple[FaultRule, ...]:
    """Return rules by which about 10 % of POSTs, times ``scale``, become ambiguous and 3 % fail temporarily."""
    return (
        _maybe(0.010 * scale, Fault(FaultKind.DROP)),
        _maybe(0.015 * scale, Fault(FaultKind.LOST_REPLY)),
        _maybe(0.010 * scale, Fault(FaultKind.DELAYED, seconds=0.8)),
        _maybe(0.005 * scale, Fault(FaultKind.LATE, seconds=2.0)),
        _maybe(0.010 * scale, Fault(FaultKind.ERROR_500)),
        _maybe(0.005 * scale, Fault(FaultKind.PROXY, status=502, executed=True)),
        _maybe(0.005 * scale, Fault(FaultKind.PROXY, status=503, executed=False)),
        _maybe(0.005 * scale, Fault(FaultKind.PROXY, status=504, executed=True)),
        _maybe(0.005 * scale, Fault(FaultKind.TRUNCATED)),
        _maybe(0.005 * scale, Fault(FaultKind.ORPHAN)),
        _maybe(0.003 * scale, Fault(FaultKind.ORPHAN_500)),
        _maybe(0.005 * scale, Fault(FaultKind.RESULT_LOST)),
        _maybe(0.007 * scale, Fault(FaultKind.ROW_MISSING)),
        _maybe(0.007 * scale, Fault(FaultKind.PURGED)),
        _maybe(0.008 * scale, Fault(FaultKind.FAIL_CREATED, code="SYS.1001")),
        _maybe(0.003 * scale, Fault(FaultKind.FAIL_THEN_CREATE, code="SYS.1001", seconds=0.8)),
        _maybe(0.003 * scale, Fault(FaultKind.TWICE, seconds=0.1)),
        _maybe(0.010 * scale, Fault(FaultKind.RATE_LIMITED, seconds=1)),
        _maybe(0.015 * scale, Fault(FaultKind.FAIL, code="SYS.1011")),
        _maybe(0.015 * scale, Fault(FaultKind.FAIL, code="SYS.1006", cause="SYS.1015")),
    )


def _reads(scale: float) -> tuple[FaultRule, ...]:
    faults = (Fault(FaultKind.DROP), Fault(FaultKind.LOST_REPLY), Fault(FaultKind.PROXY, status=503, executed=False))
    return tuple(_maybe(0.005 * scale, fault, on) for on in ("poll", "query") for fault in faults)


_CHAOS: Final = (
    _maybe(0.002, Fault(FaultKind.RESTART, seconds=0.5), ANY),
    # More of them within a minute would look like another client that logs in with the same account.
    _maybe(0.020, Fault(FaultKind.EXPIRE_SESSIONS), times=1),
    _maybe(0.100, Fault(FaultKind.FOREIGN_LOCATION)),
    _maybe(0.010, Fault(FaultKind.TWO_RUNS)),
    _maybe(0.010, Fault(FaultKind.FAIL_CREATED, code="SYS.1000")),
    _maybe(0.010, Fault(FaultKind.SLOW, seconds=1.5)),
    _maybe(0.010, Fault(FaultKind.HTML_500), "poll"),
    _maybe(0.010, Fault(FaultKind.TRUNCATED), "poll"),
    _maybe(0.010, Fault(FaultKind.TRUNCATED), "query"),
    _maybe(0.010, Fault(FaultKind.RATE_LIMITED, seconds=1), "poll"),
)

CALM: Final = NodeOptions(invent_accounts=True)
"""Nothing goes wrong; jobs take 0.15 to 0.6 s."""

FLAKY: Final = NodeOptions(
    latency=(0.05, 0.3), api_timeout_ms=5000, invent_accounts=True, faults=_submits(1.0) + _reads(1.0)
)
"""All ambiguous outcomes, for about one POST in ten; lost jobs time out after 5 s."""

CHAOS: Final = NodeOptions(
    latency=(0.05, 0.5),
    api_timeout_ms=5000,
    duplicate_window=0.05,
    invent_accounts=True,
    faults=_CHAOS + _submits(2.0) + _reads(4.0),
)
"""All faults of ``flaky``, plus restarts, ending sessions, foreign locations and doubled jobs."""

PRESETS: Final = {"calm": CALM, "flaky": FLAKY, "chaos": CHAOS}
"""Presets by their names on the command line and in fault scripts."""


def made_up_sources(count: int) -> tuple[Source, ...]:
    """Return ``count`` deterministic model services that exist from the start: qwen-1, qwen-2, ..."""
    return tuple(Source(derive_uuid("source", number), f"qwen-{number}") for number in range(1, count + 1))
