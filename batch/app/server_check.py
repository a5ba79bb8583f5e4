"""``plan --server-check``: the server's validation of each clone, without making one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from batch.engine.validation import CheckOutcome, CheckResult, UnexpectedCloneError, check_all
from batch.errors import ExitCode, ZcloneError
from batch.plan import Identities, check_request

if TYPE_CHECKING:
    from batch.app.server import Server
    from batch.jobfile import Job
    from batch.model import Clone, Plan

_OK: Final = CheckResult(CheckOutcome.OK)


@dataclass(slots=True)
class CheckSummary:
    """Results by key; accepted ones are only counted."""

    checked: int = 0
    others: dict[str, CheckResult] = field(default_factory=dict)

    def add(self, clone: Clone, verdict: CheckResult) -> None:
        """Add a result."""
        self.checked += 1
        if verdict.outcome is not CheckOutcome.OK:
            self.others[clone.key] = verdict

    def of(self, key: str) -> CheckResult:
        """Return the result for a checked key."""
        return self.others.get(key, _OK)

    def count(self, outcome: CheckOutcome) -> int:
        """Return the number of results with ``outcome``, which is not ok."""
        return sum(verdict.outcome is outcome for verdict in self.others.values())

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
    verdicts = CheckSummary()
    identities = Identities(job.name, plan.run)
    requests = (check_request(clone, identities) for clone in plan.clones())
    client = await server.client()
    try:
        await check_all(requests, verdicts.add, api=client, clock=server.clock, workers=job.limits.concurrency)
    except UnexpectedCloneError as made:
        raise ZcloneError(_alarm(made, client.url)) from None
    return verdicts


def _alarm(made: UnexpectedCloneError, url: str) -> str:
    return (
        f"DANGER: the server ignores ephemeral::validationOnly: it was asked only to check {made.key!r}, but made the "
        f"model service {made.uuid}. Nothing more was sent. It belongs to no run; delete it:\n"
        f"  curl -X DELETE '{url}/v1/ai/model-services/{made.uuid}?deleteMode=Permissive'"
        ' -H "Authorization: OAuth ${ZSTACK_SESSION_ID:?}"\n'
        "and do not use --server-check with this server"
    )
