"""``zclone retry``: failed targets are open again, then the run goes on with them like with any other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch.cli.terminal import say
from batch.engine.poison import SET_ASIDE
from batch.errors import UsageError
from batch.manifest import rows
from batch.model import Record, State

if TYPE_CHECKING:
    from batch.manifest import Manifest
    from batch.model import Plan, Row

RETRIABLE = (State.FAILED, State.CONFLICT, State.UNCERTAIN)
"""Of the uncertain only those that were set aside: the others go on by themselves."""


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
        raise UsageError(
            "--state: only failed and conflict can be retried, and uncertain where it was set aside; what is open goes "
            "on with zclone run"
        )
    return Again(wanted, frozenset(codes or ()))


async def reopen(manifest: Manifest, plan: Plan, wanted: Again) -> None:
    """Record durably that the plan's targets which failed so are open again, under the same uuids."""
    ended = {row.key: row for row in rows(manifest.path) if _is_meant(row, wanted)}
    keys = [clone.key for clone in plan.clones() if clone.key in ended]
    records = [_opened(ended[key]) for key in keys]
    for record in records[:-1]:
        manifest.note(record)
    for record in records[-1:]:
        await manifest.commit(record)
    say(f"open again: {len(keys)} of the plan's targets")


def _is_meant(row: Row, wanted: Again) -> bool:
    is_stuck = row.state is not State.UNCERTAIN or row.error_code == SET_ASIDE
    return is_stuck and row.state in wanted.states and (not wanted.codes or row.error_code in wanted.codes)


def _opened(row: Row) -> Record:
    """Open it so that what was set aside, and may have been sent, is asked about first; its attempts count on."""
    if row.state is State.UNCERTAIN:
        return Record(State.UNCERTAIN, row.key, time.time(), row.attempts, retried=True)
    return Record(State.PLANNED, row.key, time.time(), 0, error_code=row.error_code, retried=True)
