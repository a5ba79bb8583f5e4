"""Checks with the server before anything is sent: sources, other resources that a plan refers to, and each request.

Only ``plan`` checks that all sources exist. In a run a missing source fails its own target (SYS.1003), and a million
targets would cost 5,000 calls before the first POST. Up to 20,000 sources are compared; for more, only the existence of
their uuids is queried, in pages of 200.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from batch.app.messages import say
from batch.app.run_plan import take_fields
from batch.engine.validation import CheckOutcome, CheckResult, UnexpectedCloneError, check_all
from batch.errors import ExitCode, ZcloneError
from batch.keytable import KeyTable
from batch.plan import Identities, check_request
from batch.plan.rearchitect import IMAGES_FIELD
from batch.plan.references import (
    CENTER_FIELD,
    Reference,
    ReferenceKind,
    ServerResources,
    judge,
    model_centers,
    references,
)
from batch.zstack.calls import UUIDS_A_QUERY
from batch.zstack.params import BODY_PARAMS
from batch.zstack.queries import ACCOUNTS, GPU_SPECS, IMAGES, MODEL_CENTERS, OWNER_MESSAGE, SHARE_MESSAGE, TAG_PATTERNS
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from batch.app.server import Server
    from batch.jobfile import Job
    from batch.model import Clone, JsonValue, Plan
    from batch.plan import Planning
    from batch.zstack.queries import QueryApi

MAX_COMPARED: Final = 20_000
"""Maximum number of sources whose inventories and owners are kept for comparison."""
_SHOWN: Final = 5
_LOOKUPS: Final = {
    ReferenceKind.IMAGE: IMAGES,
    ReferenceKind.TAG: TAG_PATTERNS,
    ReferenceKind.SPEC: GPU_SPECS,
    ReferenceKind.ACCOUNT: ACCOUNTS,
    ReferenceKind.CENTER: MODEL_CENTERS,
}
_OK: Final = CheckResult(CheckOutcome.OK)


@dataclass(frozen=True, slots=True)
class Inventories:
    """The server's data about a plan's sources."""

    by_uuid: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    """Inventories by source uuid; empty if there are too many."""
    absent: Collection[str] = ()


async def read_inventories(plan: Plan, query_api: QueryApi) -> Inventories:
    """Query every distinct source of ``plan``, in pages. Raises CallFailedError."""
    wanted = list(islice(_distinct_sources(plan), MAX_COMPARED + 1))
    if len(wanted) > MAX_COMPARED:
        return Inventories(absent=await _find_absent(_distinct_sources(plan), query_api))
    names = [*sorted(BODY_PARAMS), IMAGES_FIELD, CENTER_FIELD]
    shown = {found.uuid: take_fields(found.fields, names) async for found in query_api.services(wanted)}
    return Inventories(shown, set(wanted) - shown.keys())


def _distinct_sources(plan: Plan) -> Iterator[str]:
    """Yield the distinct sources, with a few bytes of memory each."""
    seen = KeyTable(1)
    # A collision of 64-bit hashes skips one check, and no clone: the server validates every source again.
    return (clone.source_uuid for clone in plan.clones() if seen.put(hash(clone.source_uuid), 0))


async def _find_absent(uuids: Iterator[str], query_api: QueryApi) -> set[str]:
    absent: set[str] = set()
    while page := list(islice(uuids, UUIDS_A_QUERY)):
        absent.update(set(page) - {found.uuid async for found in query_api.services(page, fields=("uuid",))})
    return absent


async def warn_of_owners(planning: Planning, sources: Iterable[str], query_api: QueryApi) -> None:
    """Warn, with positions, of sources of other accounts: their clones will belong to the account that clones.

    zstack/README.md 4: a clone is owned by the caller's account, regardless of the source's owner.
    """
    try:
        own = await query_api.own_account()
        owners = await query_api.owners(sources)
    except CallFailedError as error:
        say(f"warning: the owners of the sources are not known: {error}")
        return
    if own is None:
        return
    foreign = {uuid: account for uuid, account in owners.items() if account.uuid != own.uuid}
    messages = {
        uuid: f"warning: the source {uuid} belongs to account {account}; its clone will belong to yours, {own}"
        for uuid, account in foreign.items()
    }
    for problem in islice(planning.locate(messages), _SHOWN):
        say(str(problem))
    if len(foreign) > _SHOWN:
        say(f"warning: {len(foreign) - _SHOWN} more sources belong to other accounts")


async def read_resources(
    plan: Plan,
    inventories: Mapping[str, Mapping[str, JsonValue]],
    query_api: QueryApi,
    *,
    warn_of: Callable[[str], None] = say,
) -> ServerResources:
    """Query every resource that the clones of ``plan`` refer to; pass warnings about unchecked ones to ``warn_of``.

    ``inventories``: those of the sources, for their model centres.
    """
    centers = model_centers(inventories)
    named = _distinct_references(plan, centers)
    rows = {}
    for kind, lookup in _LOOKUPS.items():
        uuids = dict.fromkeys(reference.uuid for reference in named if reference.kind is kind)
        if not uuids:
            continue
        if len(uuids) > MAX_COMPARED:
            warn_of(f"warning: the {kind}s that the plan names are not checked: there are more than {MAX_COMPARED:,}")
            continue
        try:
            rows[kind] = await query_api.rows(lookup, uuids)
        except CallFailedError as error:
            warn_of(f"warning: the {kind}s that the plan names are not checked: {error}")
    found = ServerResources(rows, centers)
    if not any(judge(reference, found) for reference in named):
        # If nothing is missing, the plan need not be walked for positions.
        return ServerResources({}, centers)
    return replace(found, shows_all=await _shows_all(query_api))


def _distinct_references(plan: Plan, centers: Mapping[str, str]) -> Collection[Reference]:
    """Return the distinct references of the clones without positions, stopping soon after the maximum per query."""
    found: dict[Reference, None] = {}
    counts: Counter[ReferenceKind] = Counter()
    for clone in plan.clones():
        for reference in references(clone, centers):
            one = reference._replace(path="")
            if counts[one.kind] <= MAX_COMPARED and one not in found:
                found[one] = None
                counts[one.kind] += 1
    return found


async def _shows_all(query_api: QueryApi) -> bool:
    """Return whether the account is an admin and so sees every resource; False if the server does not say."""
    try:
        return await query_api.check_permission(OWNER_MESSAGE) is True
    except CallFailedError:
        return False


@dataclass(slots=True)
class CheckSummary:
    """Results by key; accepted ones are only counted."""

    checked: int = 0
    others: dict[str, CheckResult] = field(default_factory=dict)

    def add(self, clone: Clone, result: CheckResult) -> None:
        """Add a result."""
        self.checked += 1
        if result.outcome is not CheckOutcome.OK:
            self.others[clone.key] = result

    def of(self, key: str) -> CheckResult:
        """Return the result for a checked key."""
        return self.others.get(key, _OK)

    def count(self, outcome: CheckOutcome) -> int:
        """Return the number of results with ``outcome``, which is not ok."""
        return sum(result.outcome is outcome for result in self.others.values())

    def __str__(self) -> str:
        """Return the counts by outcome."""
        refused, unclear = self.count(CheckOutcome.REFUSED), self.count(CheckOutcome.UNCLEAR)
        ok = self.checked - len(self.others)
        return f"server check: {ok} ok, {refused} would be refused, {unclear} without a clear answer"

    @property
    def exit_code(self) -> ExitCode:
        """The exit code: 2 if the server would refuse any, else 4 if any has no clear answer, else 0."""
        if self.count(CheckOutcome.REFUSED):
            return ExitCode.USAGE
        return ExitCode.UNFINISHED if self.others else ExitCode.OK


async def check_clones(job: Job, plan: Plan, server: Server) -> CheckSummary:
    """Check each clone. Raises ZcloneError at the first clone that the server makes regardless."""
    summary = CheckSummary()
    identities = Identities(job.name, plan.run)
    requests = (check_request(clone, identities) for clone in plan.clones())
    client = await server.client()
    try:
        await check_all(requests, summary.add, api=client, clock=server.clock, workers=job.limits.concurrency)
    except UnexpectedCloneError as made:
        raise ZcloneError(_alarm(made, client.url)) from None
    return summary


def _alarm(error: UnexpectedCloneError, url: str) -> str:
    return (
        f"DANGER: the server ignores ephemeral::validationOnly: it was asked only to check {error.key!r}, but made the "
        f"model service {error.uuid}. Nothing more was sent. It belongs to no run; delete it:\n"
        f"  curl -X DELETE '{url}/v1/ai/model-services/{error.uuid}?deleteMode=Permissive'"
        ' -H "Authorization: OAuth ${ZSTACK_SESSION_ID:?}"\n'
        "and do not use --server-check with this server"
    )


async def warn_of_missing_rights(plan: Plan, query_api: QueryApi) -> None:
    """Warn of missing permissions for hand-overs before cloning; the server would refuse only afterwards."""
    if not plan.hand_overs:
        return
    used = {
        OWNER_MESSAGE: any(clone.hand_over and clone.hand_over.owner for clone in plan.clones()),
        SHARE_MESSAGE: any(clone.hand_over and clone.hand_over.share_with for clone in plan.clones()),
    }
    denied = [name for name, is_used in used.items() if is_used and await query_api.check_permission(name) is False]
    for message in denied:
        say(f"warning: this account may not call {message.rpartition('.')[2]}: the clones cannot be handed over")
