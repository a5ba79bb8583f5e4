"""Options of the node, what it serves from the start, and ready-made sets of both."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - fault scripts are checked against these hints at run time
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from batch.simulator.faults import ANY, Fault, FaultKind, FaultRule
from batch.simulator.wire import derive_uuid

ADMIN_UUID: Final = "36c27e8ff05c4780bf6d2fa65700f22e"
SESSION: Final = "b86c9016b4f24953a9edefb53ca0678c"
"""The session the API page shows; every node starts with it open for admin."""


@dataclass(frozen=True, slots=True)
class NodeAccount:
    """An account that can log in."""

    uuid: str
    name: str
    password: str = "password"  # noqa: S105 - the real server's default, of a node on loopback
    is_admin: bool = False
    quota: int | None = None
    """Maximum number of model services of a normal account; None for no limit. Admin is never checked."""
    denied: frozenset[str] = frozenset()
    """Names of APIs (``CloneModelService``) this account may not call."""
    enabled: bool = True
    """False: every login and call is refused with ID.1007."""


@dataclass(frozen=True, slots=True)
class NodeAccessKey:
    """A signing key of an account."""

    id: str
    secret: str
    account: str = ADMIN_UUID
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """A resource that exists from the start."""

    uuid: str
    name: str | None = None
    owner: str = ADMIN_UUID
    to_public: bool = True
    kind: str = "ModelServiceVO"
    """Also ImageVO, ModelCenterVO and the other kinds that can be queried; any kind occupies its uuid."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the inventory that differ from the made-up ones."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """All switches, with the real server's defaults. Durations are in seconds unless the name says otherwise."""

    seed: int = 1
    version: str = "5.5.22"
    locale: Literal["zh_CN", "en_US"] = "zh_CN"
    timezone: str = "Asia/Shanghai"
    utc_offset: float = 28800.0
    context_path: str = "/zstack"
    management_url: str | None = None
    """Origin written into ``location``; None: the server's own."""

    latency: tuple[float, float] = (0.15, 0.6)
    """A job takes a time drawn evenly from this range."""
    row_appears: Literal["start", "half-written", "half-way", "end", "never"] = "half-way"
    """Point in a job at which queries show the new row, half-written: name and numbers appear only at the end."""
    api_timeout_ms: int = 1_800_000
    workers: int = 50
    """Threads of the check stage: 5 by default, 50 in zstack.properties."""
    check_seconds: float = 0.002
    """How long one message holds a thread of the check stage."""

    row_retention: float = 10800.0
    scan_interval: float = 3600.0
    cache_size: int = 2000
    duplicate_window: float = 0.0
    """How long a fresh job row is not yet seen by the duplicate check, so that both POSTs run."""
    loses_rows: bool = False
    """Every job row's insert fails silently: 202, executed, and 404 at each poll."""

    session_timeout: float = 7200.0
    max_sessions: int = 500
    unique_sessions: bool = False
    access_key_window: float = 900.0
    check_time_zone: bool = False
    """Compare instants instead of wall clocks, as ``rest.checkTimeZone=true`` does."""

    session_first: bool = False
    """Check the session before the parameters, unlike the real server, which swaps the error if there are two."""
    soft_delete: bool = True
    honours_resource_uuid: bool = True
    honours_validation_only: bool = True
    """False: the tag is known and ignored, and the message is executed."""
    strict_resource_uuid: bool = True
    """Refuse a resourceUuid that is not shaped as a uuid of version 1 to 5."""
    column_overflow: Literal["error", "truncate"] = "error"
    three_byte_utf8: bool = True
    """Characters beyond U+FFFF do not fit the tables."""
    global_error_codes: bool = False
    """Write the newer ErrorCode, with ``message`` in the language that Accept-Language names."""
    newer_codes: bool = False
    """Deny with SYS.1018 and SYS.1019 and refuse a tag given twice with TAG.1001, as newer servers do."""
    newer_access_keys: bool = False
    """Read numeric offsets and ISO 8601 in Date, and refuse credentials in the words of newer servers."""
    lock_after: int | None = None
    """Failed logins of one name before LOGIN_CONTROL.1002 refuses it; None: never."""
    unique_images: bool = False
    """A service has one image of each architecture, by a unique key of its table."""
    content_type: bool = False
    latin1_bodies: bool = True
    """Read a body whose Content-Type has no charset as ISO-8859-1."""
    limit_window: float = 60.0
    """The minute of ``requests_per_minute``; other limiters count over other times."""
    requests_per_minute: int | None = None
    """Newer servers answer 429 beyond 12,000 of one client in any minute, polls too (zstack/README.md 11)."""
    http_sessions: bool = True
    html_escape: bool = True
    hook_tries: int = 15
    hook_pause: float = 2.0
    hooks_anywhere: bool = False
    """Call web hooks of other machines too; else only those of loopback, as any web page could ask for one."""

    invent_sources: bool = True
    """Make up a source that is cloned but was never seen; its fields follow from its uuid."""
    invent_accounts: bool = False
    """Make up an account that something is given to or shared with; nobody can log in with it."""
    keep_params: bool = True
    """False keeps only names and digests of what was asked for, to make a million clones fit; queries then show
    the source's values."""
    system_tags: tuple[str, ...] = ()
    """Prefixes of further system tags the node knows."""
    tags: tuple[str, ...] = ()
    """Tag pattern uuids that exist; with ``invent_sources`` any 32 hex digits do."""
    accounts: tuple[NodeAccount, ...] = ()
    """Beside admin / password."""
    access_keys: tuple[NodeAccessKey, ...] = ()
    session: str | None = SESSION
    """A session of admin that is open at each start; None: log in first."""
    sources: tuple[Source, ...] = ()
    faults: tuple[FaultRule, ...] = ()

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers, to compare with a parameter's since-version."""
        return tuple(int(part) for part in self.version.split("."))


def _by_chance(probability: float, fault: Fault, on: str = "submit", *, times: int | None = None) -> FaultRule:
    return FaultRule(fault, on=on, probability=probability, times=times)


def _submit_faults(scale: float) -> tuple[FaultRule, ...]:
    """Return rules by which about 10 % of POSTs, times ``scale``, become ambiguous and 3 % fail temporarily."""
    return (
        _by_chance(0.010 * scale, Fault(FaultKind.DROP)),
        _by_chance(0.015 * scale, Fault(FaultKind.LOST_REPLY)),
        _by_chance(0.010 * scale, Fault(FaultKind.DELAYED, seconds=0.8)),
        _by_chance(0.005 * scale, Fault(FaultKind.LATE, seconds=2.0)),
        _by_chance(0.010 * scale, Fault(FaultKind.ERROR_500)),
        _by_chance(0.005 * scale, Fault(FaultKind.PROXY, status=502, executed=True)),
        _by_chance(0.005 * scale, Fault(FaultKind.PROXY, status=503, executed=False)),
        _by_chance(0.005 * scale, Fault(FaultKind.PROXY, status=504, executed=True)),
        _by_chance(0.005 * scale, Fault(FaultKind.TRUNCATED)),
        _by_chance(0.005 * scale, Fault(FaultKind.ORPHAN)),
        _by_chance(0.003 * scale, Fault(FaultKind.ORPHAN_500)),
        _by_chance(0.005 * scale, Fault(FaultKind.RESULT_LOST)),
        _by_chance(0.007 * scale, Fault(FaultKind.ROW_MISSING)),
        _by_chance(0.007 * scale, Fault(FaultKind.PURGED)),
        _by_chance(0.008 * scale, Fault(FaultKind.FAIL_CREATED, code="SYS.1001")),
        _by_chance(0.003 * scale, Fault(FaultKind.FAIL_THEN_CREATE, code="SYS.1001", seconds=0.8)),
        _by_chance(0.003 * scale, Fault(FaultKind.TWICE, seconds=0.1)),
        _by_chance(0.010 * scale, Fault(FaultKind.RATE_LIMITED, seconds=1)),
        _by_chance(0.015 * scale, Fault(FaultKind.FAIL, code="SYS.1011")),
        _by_chance(0.015 * scale, Fault(FaultKind.FAIL, code="SYS.1006", cause="SYS.1015")),
    )


def _read_faults(scale: float) -> tuple[FaultRule, ...]:
    faults = (Fault(FaultKind.DROP), Fault(FaultKind.LOST_REPLY), Fault(FaultKind.PROXY, status=503, executed=False))
    return tuple(_by_chance(0.005 * scale, fault, on) for on in ("poll", "query") for fault in faults)


_CHAOS: Final = (
    _by_chance(0.002, Fault(FaultKind.RESTART, seconds=0.5), ANY),
    # More of them within a minute would look like another client that logs in with the same account.
    _by_chance(0.020, Fault(FaultKind.EXPIRE_SESSIONS), times=1),
    _by_chance(0.100, Fault(FaultKind.FOREIGN_LOCATION)),
    _by_chance(0.010, Fault(FaultKind.TWO_RUNS)),
    _by_chance(0.010, Fault(FaultKind.FAIL_CREATED, code="SYS.1000")),
    _by_chance(0.010, Fault(FaultKind.SLOW, seconds=1.5)),
    _by_chance(0.010, Fault(FaultKind.HTML_500), "poll"),
    _by_chance(0.010, Fault(FaultKind.TRUNCATED), "poll"),
    _by_chance(0.010, Fault(FaultKind.TRUNCATED), "query"),
    _by_chance(0.010, Fault(FaultKind.RATE_LIMITED, seconds=1), "poll"),
)

CALM: Final = NodeOptions(invent_accounts=True)
"""Nothing goes wrong; jobs take 0.15 to 0.6 s."""

FLAKY: Final = NodeOptions(
    latency=(0.05, 0.3), api_timeout_ms=5000, invent_accounts=True, faults=_submit_faults(1.0) + _read_faults(1.0)
)
"""All ambiguous outcomes, for about one POST in ten; lost jobs time out after 5 s."""

CHAOS: Final = NodeOptions(
    latency=(0.05, 0.5),
    api_timeout_ms=5000,
    duplicate_window=0.05,
    invent_accounts=True,
    faults=_CHAOS + _submit_faults(2.0) + _read_faults(4.0),
)
"""All faults of ``flaky``, plus restarts, ending sessions, foreign locations and doubled jobs."""

PRESETS: Final = {"calm": CALM, "flaky": FLAKY, "chaos": CHAOS}
"""Presets by their names on the command line and in fault scripts."""


def made_up_sources(count: int) -> tuple[Source, ...]:
    """Return ``count`` deterministic model services that exist from the start: qwen-1, qwen-2, ..."""
    return tuple(Source(derive_uuid("source", number), f"qwen-{number}") for number in range(1, count + 1))
