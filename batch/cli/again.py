"""``zclone retry``: failed targets are open again, then the run goes on with them like with any other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch.cli.terminal import say
from batch.errors import UsageError
from batch.manifest import rows
from batch.model import Record, State

if TYPE_CHECKING:
    from batch.manifest import Manifest
    from batch.model import Plan

RETRIABLE = (State.FAILED, State.CONFLICT)


@dataclass(frozen=True, slots=True)
class Again:
    """Which targets to open again."""

    states: frozenset[State]
    codes: frozenset[str]
    """None means whatever the code."""


def again(states: list[State] | None, codes: list[str] | None) -> Again:
    """Read ``--state`` and ``--code``. Raises UsageError for a state that cannot be retried."""
    wanted = frozenset(states or (State.FAILED,))
    if not wanted <= frozenset(RETRIABLE):
        raise UsageError("--state: only failed and conflict can be retried; what is open goes on with zclone run")
    return Again(wanted, frozenset(codes or ()))


async def reopen(manifest: Manifest, plan: Plan, wanted: Again) -> None:
    """Record durably that the plan's targets which failed so are open again, under the same uuids."""
    failed = {
        row.key: row.error_code
        for row in rows(manifest.path)
        if row.state in wanted.states and (not wanted.codes or row.error_code in wanted.codes)
    }
    keys = [clone.key for clone in plan.clones() if clone.key in failed]
    records = [Record(State.PLANNED, key, time.time(), 0, error_code=failed[key], retried=True) for key in keys]
    for record in records[:-1]:
        manifest.note(record)
    for record in records[-1:]:
        await manifest.commit(record)
    say(f"open again: {len(keys)} of the plan's targets")
