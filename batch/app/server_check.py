"""``plan --server-check``: the server's verdict on each clone, without making one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from batch.engine.servercheck import CheckOutcome, CheckResult, MadeError, check_all
from batch.errors import ExitCode, ZcloneError
from batch.plan import Identities, check_request

if TYPE_CHECKING:
    from batch.app.server import Server
    from batch.jobfile import Job
    from batch.model import Clone, Plan

_OK: Final = CheckResult(CheckOutcome.OK)


@dataclass(slots=True)
class CheckSummary:
    """The verdict on each key; those that are ok are only counted."""

    checked: int = 0
    others: dict[str, CheckResult] = field(default_factory=dict)

    def add(self, clone: Clone, verdict: CheckResult) -> None:
        """Keep one."""
        self.checked += 1
        if verdict.outcome is not CheckOutcome.OK:
            self.others[clone.key] = verdict

    def of(self, key: str) -> CheckResult:
        """Return the verdict on a key that was checked."""
        return self.others.get(key, _OK)

    def count(self, outcome: CheckOutcome) -> int:
        """Return how many came to ``outcome``, which is not ok."""
        return sum(verdict.outcome is outcome for verdict in self.others.values())

    def __str__(self) -> str:
        """Return the counts by verdict."""
        refused, unclear = self.count(CheckOutcome.REFUSED), self.count(CheckOutcome.UNCLEAR)
        ok = self.checked - len(self.others)
        return f"server check: {ok} ok, {refused} would be refused, {unclear} without a clear answer"

    @property
    def exit_code(self) -> ExitCode:
        """The exit code: 2 where the server would refuse some, 4 where some have no clear answer."""
        if self.count(CheckOutcome.REFUSED):
            return ExitCode.USAGE
        return ExitCode.UNFINISHED if self.others else ExitCode.OK


async def check_clones(job: Job, plan: Plan, server: Server) -> CheckSummary:
    """Check each clone. Raises ZcloneError at the first clone that the server makes in spite of it."""
    verdicts = CheckSummary()
    identities = Identities(job.name, plan.run)
    requests = (check_request(clone, identities) for clone in plan.clones())
    client = await server.client()
    try:
        await check_all(requests, verdicts.add, api=client, clock=server.clock, workers=job.limits.concurrency)
    except MadeError as made:
        raise ZcloneError(_alarm(made, client.url)) from None
    return verdicts


def _alarm(made: MadeError, url: str) -> str:
    return (
        f"DANGER: the server ignores ephemeral::validationOnly: it was asked only to check {made.key!r}, and made the "
        f"model service {made.uuid}. Nothing more was sent. No run knows it; delete it:\n"
        f"  curl -X DELETE '{url}/v1/ai/model-services/{made.uuid}?deleteMode=Permissive'"
        ' -H "Authorization: OAuth ${ZSTACK_SESSION_ID:?}"\n'
        "and plan without --server-check on this server"
    )
