"""Selection of targets by ``--only``, ``--shard``, ``--state`` and ``--code``, also to retry them."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from batch.app.messages import say
from batch.errors import UsageError
from batch.manifest import rows
from batch.model import QUARANTINED, Record, State
from batch.report.expression import Filter, read_filter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from batch.manifest import Manifest
    from batch.manifest.listing import Row
    from batch.model import Clone, Plan

PLANNED: Final = frozenset({"key", "source", "name", "tag"})
"""Fields of a planned target."""
RECORDED: Final = frozenset({"key", "source", "name", "state", "code"})
"""Fields of a recorded target."""
RETRIABLE = (State.FAILED, State.CONFLICT, State.UNCERTAIN)
"""The only uncertain targets to retry are quarantined ones; a plain run continues the others."""
_RESULT_TERMS: Final = ("state=", "state!=", "code=", "code!=")


def select(plan: Plan, *, only: Sequence[str], shard: str | None) -> Plan:
    """Return the part of ``plan`` that ``--only`` and ``--shard`` select, or all of it. Raises UsageError."""
    wanted = read_filter(only, shard=shard, fields=PLANNED)
    if not wanted:
        return plan
    from batch.plan.identity import digest_part

    is_wanted = clone_filter(wanted)

    def clones() -> Iterator[Clone]:
        return filter(is_wanted, plan.clones())

    count, hand_overs = 0, 0
    for clone in clones():
        count += 1
        hand_overs += clone.hand_over is not None
    # A part has no digest of the input files, so that a checked part never makes the whole plan count as checked.
    digest = digest_part(plan.digest, wanted.label)
    part = replace(plan, digest=digest, count=count, clones=clones, inputs="", hand_overs=hand_overs)
    if shard is None or only:
        return part
    return replace(part, shard="/".join(str(int(number)) for number in shard.split("/")), whole=plan.digest)


def clone_filter(wanted: Filter) -> Callable[[Clone], bool]:
    """Return a predicate for clones that match a filter over ``PLANNED``."""
    has_tags = "tag" in wanted.fields()
    return lambda clone: wanted.matches(_fields(clone, has_tags=has_tags))


def require_match(plan: Plan, only: Sequence[str]) -> None:
    """Raise UsageError if ``--only`` matches nothing of ``plan``; an empty shard is allowed."""
    if only and not select(plan, only=only, shard=None).count:
        shown = " ".join(f"--only {shlex.quote(expression)}" for expression in only)
        raise UsageError(f"{shown} matches none of the {plan.count:,} targets: zclone plan shows their keys")


def _fields(clone: Clone, *, has_tags: bool) -> dict[str, Collection[str]]:
    name = clone.params.get("name")
    body = json.loads(clone.body) if has_tags else {}
    return {
        "key": (clone.key,),
        "source": (clone.source_uuid,),
        "name": () if name is None else (str(name),),
        "tag": [*(body.get("userTags") or ()), *(body.get("systemTags") or ())],
    }


def select_rows(
    manifest: Path, *, only: Sequence[str], shard: str | None, states: frozenset[State], codes: frozenset[str]
) -> Iterator[Row]:
    """Yield the targets of a manifest that match all conditions; empty ``states`` or ``codes`` match any.

    Raises UsageError.
    """
    wanted = read_filter(only, shard=shard, fields=RECORDED)
    return (
        row
        for row in rows(manifest)
        if (not states or row.state in states) and (not codes or row.error_code in codes) and is_selected(row, wanted)
    )


def is_selected(row: Row, wanted: Filter) -> bool:
    """Return whether a target of a manifest matches a filter over ``RECORDED``."""
    return wanted.matches(
        {
            "key": (row.key,),
            "source": (row.source_uuid,),
            "name": (row.name or "",),
            "state": (row.state.value,),
            "code": (row.error_code or "",),
        }
    )


@dataclass(frozen=True, slots=True)
class RetryFilter:
    """Which targets are retried."""

    states: frozenset[State]
    codes: frozenset[str]
    """Empty matches any code."""
    only: Filter = field(default_factory=Filter)
    """The terms of ``--only`` on state and code."""


def split_words(only: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide the words of ``--only`` into those about results and those about the plan."""
    words = [word for expression in only for word in expression.split()]
    of_results = tuple(word for word in words if word.startswith(_RESULT_TERMS))
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
    ended = {row.key: row for row in rows(manifest.path) if _is_retried(row, wanted)}
    records = [_retry(ended[clone.key]) for clone in plan.clones() if clone.key in ended]
    say(f"retrying {len(records)} target{'' if len(records) == 1 else 's'}", level="info")
    return records


def _is_retried(row: Row, wanted: RetryFilter) -> bool:
    is_stuck = row.state is not State.UNCERTAIN or row.error_code == QUARANTINED
    is_named = row.state in wanted.states and (not wanted.codes or row.error_code in wanted.codes)
    return is_stuck and is_named and is_selected(row, wanted.only)


def _retry(row: Row) -> Record:
    """Plan the target again; a quarantined one keeps its attempts and is queried first, as it may have been sent."""
    if row.state is State.UNCERTAIN:
        return Record(State.UNCERTAIN, row.key, time.time(), row.attempts, retried=True)
    return Record(State.PLANNED, row.key, time.time(), 0, error_code=row.error_code, retried=True)
