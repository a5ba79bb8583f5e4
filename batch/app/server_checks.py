"""Checks with the server before anything is sent: the resources that a plan refers to, and each clone as a request."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from batch.app.messages import say
from batch.app.sources import MAX_COMPARED
from batch.engine.validation import CheckOutcome, CheckResult, UnexpectedCloneError, check_all
from batch.errors import ExitCode, ZcloneError
from batch.plan import Identities, check_request
from batch.plan.references import Reference, ReferenceKind, ServerResources, judge, model_centers, references
from batch.zstack.queries import ACCOUNTS, GPU_SPECS, IMAGES, MODEL_CENTERS, OWNER_MESSAGE, TAG_PATTERNS
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from batch.app.server import Server
    from batch.jobfile import Job
    from batch.model import Clone, JsonValue, Plan
    from batch.zstack.queries import QueryApi

_LOOKUPS: Final = {
    ReferenceKind.IMAGE: IMAGES,
    ReferenceKind.TAG: TAG_PATTERNS,
    ReferenceKind.SPEC: GPU_SPECS,
    ReferenceKind.ACCOUNT: ACCOUNTS,
    ReferenceKind.CENTER: MODEL_CENTERS,
}
_OK: Final = CheckResult(CheckOutcome.OK)


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
    named = _distinct(plan, centers)
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


def _distinct(plan: Plan, centers: Mapping[str, str]) -> Collection[Reference]:
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
