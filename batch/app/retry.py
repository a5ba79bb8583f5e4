"""``zclone retry``: plan failed targets again; the run then treats them like any other."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from batch.app.messages import say
from batch.app.selection import is_chosen
from batch.errors import UsageError
from batch.manifest import rows
from batch.model import QUARANTINED, Record, State
from batch.report.expression import Filter, read_filter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batch.manifest import Manifest
    from batch.model import Plan, Row

RETRIABLE = (State.FAILED, State.CONFLICT, State.UNCERTAIN)
"""The only uncertain targets to retry are quarantined ones; a plain run continues the others."""


_RESULTS: Final = ("state=", "state!=", "code=", "code!=")


@dataclass(frozen=True, slots=True)
class RetryFilter:
    """Which targets are retried."""

    states: frozenset[State]
    codes: frozenset[str]
    """None matches any code."""
    only: Filter = field(default_factory=Filter)
    """The terms of ``--only`` on state and code."""


def split_words(only: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide the words of ``--only`` into those about results and those about the plan."""
    words = [word for expression in only for word in expression.split()]
    of_results = tuple(word for word in words if word.startswith(_RESULTS))
    return of_results, tuple(word for word in words if word not in of_results)


def read_retry_filter(states: list[State] | None, codes: list[str] | None, only: Iterable[str] = ()) -> RetryFilter:
    """Combine ``--state``, ``--code`` and the terms of ``--only`` on both.

    A state in ``--only`` replaces the default. Raises UsageError for a state that cannot be retried.
    """
    results = read_filter(only, shard=None, fields=("state", "code"))
    named = [state for state in RETRIABLE if results.matches_field("state", state.value)]
    wanted = frozenset(states or (named if "state" in results.fields() else (State.FAILED,)))
    if not wanted or not wanted <= frozenset(RETRIABLE):
        raise UsageError(
            "--state takes failed, conflict, and uncertain for targets that were set aside; "
            "zclone run continues the others"
        )
    return RetryFilter(wanted, frozenset(codes or ()), results)


def retry_records(manifest: Manifest, plan: Plan, wanted: RetryFilter | None) -> list[Record]:
    """Return the records that plan the ``wanted`` targets again, under the same uuids.

    ``wanted``: None for ``run``, which retries nothing.
    """
    if wanted is None:
        return []
    ended = {row.key: row for row in rows(manifest.path) if _is_meant(row, wanted)}
    records = [_retry(ended[clone.key]) for clone in plan.clones() if clone.key in ended]
    say(f"retrying {len(records)} target{'' if len(records) == 1 else 's'}", level="info")
    return records


def _is_meant(row: Row, wanted: RetryFilter) -> bool:
    is_stuck = row.state is not State.UNCERTAIN or row.error_code == QUARANTINED
    is_named = row.state in wanted.states and (not wanted.codes or row.error_code in wanted.codes)
    return is_stuck and is_named and is_chosen(row, wanted.only)


def _retry(row: Row) -> Record:
    """Plan the target again; a quarantined one keeps its attempts and is queried first, as it may have been sent."""
    if row.state is State.UNCERTAIN:
        return Record(State.UNCERTAIN, row.key, time.time(), row.attempts, retried=True)
    return Record(State.PLANNED, row.key, time.time(), 0, error_code=row.error_code, retried=True)
