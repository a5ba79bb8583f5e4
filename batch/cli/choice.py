"""``--only`` and ``--shard``: which targets of a plan or of a manifest a command is about."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from batch.plan.select import select
from batch.report.expression import read_filter

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from batch.model import Clone, Plan, Row
    from batch.report.expression import Filter

PLANNED: Final = frozenset({"key", "source", "name", "tag"})
"""What is known of a target before it is sent."""
RECORDED: Final = frozenset({"key", "source", "name", "state", "code"})
"""What a manifest knows of one."""


def chosen(plan: Plan, *, only: Sequence[str], shard: str | None) -> Plan:
    """Return the part of ``plan`` that ``--only`` and ``--shard`` name, or all of it. Raises UsageError."""
    wanted = read_filter(only, shard=shard, fields=PLANNED)
    if not wanted:
        return plan
    has_tags = "tag" in wanted.fields()
    return select(plan, lambda clone: wanted.matches(_planned(clone, has_tags=has_tags)), label=wanted.label)


def _planned(clone: Clone, *, has_tags: bool) -> dict[str, Collection[str]]:
    name = clone.params.get("name")
    body = json.loads(clone.body) if has_tags else {}
    return {
        "key": (clone.key,),
        "source": (clone.source_uuid,),
        "name": () if name is None else (str(name),),
        "tag": [*(body.get("userTags") or ()), *(body.get("systemTags") or ())],
    }


def is_chosen(row: Row, wanted: Filter) -> bool:
    """Whether a target of a manifest meets a filter over ``RECORDED``."""
    return wanted.matches(
        {
            "key": (row.key,),
            "source": (row.source_uuid,),
            "name": (row.name or "",),
            "state": (row.state.value,),
            "code": (row.error_code or "",),
        }
    )
