"""``--only`` and ``--shard``: selection of targets from a plan or a manifest."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from batch.errors import UsageError
from batch.manifest import rows
from batch.report.expression import read_filter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from batch.model import Clone, Plan, Row, State
    from batch.report.expression import Filter

PLANNED: Final = frozenset({"key", "source", "name", "tag"})
"""Fields of a planned target."""
RECORDED: Final = frozenset({"key", "source", "name", "state", "code"})
"""Fields of a recorded target."""


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
        if (not states or row.state in states) and (not codes or row.error_code in codes) and is_chosen(row, wanted)
    )


def is_chosen(row: Row, wanted: Filter) -> bool:
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
