"""A plan as people and programs read it."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.model import Clone, JsonValue, Plan

_CALLS: Final = 2
"""Per target where all goes well: the POST and one poll."""


def table(plan: Plan) -> Iterator[str]:
    """Yield a heading and one line a target."""
    yield f"{'KEY':<34}{'SOURCE':<34}{'CLONE':<34}NAME"
    for clone in plan.clones():
        name = clone.params.get("name")
        shown = "" if name is None else str(name)
        yield f"{clone.key:<34}{clone.source_uuid:<34}{clone.resource_uuid:<34}{shown}".rstrip()


def document(plan: Plan) -> Iterator[str]:
    """Yield one JSON document, line by line."""
    head = {"job": plan.job, "run": plan.run, "digest": plan.digest, "count": plan.count}
    yield json.dumps(head, indent=2, ensure_ascii=False).removesuffix("\n}") + ',\n  "clones": ['
    before = ""
    for clone in plan.clones():
        if before:
            yield f"    {before},"
        before = json.dumps(_fields(clone), ensure_ascii=False)
    yield f"    {before}\n  ]\n}}"


def _fields(clone: Clone) -> dict[str, JsonValue]:
    return {
        "key": clone.key,
        "source_uuid": clone.source_uuid,
        "resource_uuid": clone.resource_uuid,
        "digest": clone.digest,
        "body": json.loads(clone.body),
    }


def curl(plan: Plan, *, url: str | None) -> Iterator[str]:
    """Yield a runnable command for each target; the session comes from the shell's own ZSTACK_SESSION_ID."""
    base = '"${ZSTACK_API_URL:?with its /zstack}"' if url is None else shlex.quote(url)
    for clone in plan.clones():
        yield (
            f"curl -sS -X POST {base}/v1/ai/model-services/{clone.source_uuid}"
            " -H 'Content-Type: application/json;charset=UTF-8'"
            ' -H "Authorization: OAuth ${ZSTACK_SESSION_ID:?}"'
            f" -d {shlex.quote(clone.body.decode())}"
        )


def duration(plan: Plan, *, rate: float) -> str:
    """Say how many calls and seconds the plan takes at least."""
    calls = _CALLS * plan.count
    return (
        f"{plan.count} targets, about {calls} calls, at {rate:g}/s {calls / rate:.0f} s or more; digest {plan.digest}"
    )
