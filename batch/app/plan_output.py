"""A plan as a JSON document or curl commands, and its estimated cost."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Final

from batch.engine.admission import wave_sizes
from batch.model import HandOver
from batch.schema import COUNT, FLAG, MAYBE_TEXT, TEXT, UUID, array, describe, document, record
from batch.text import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.app.preview import Preview
    from batch.model import Clone, JsonValue, Limits, Plan
    from batch.plan import Setting
    from batch.schema import Schema

_CALLS: Final = 2
"""Calls per target without failures: the POST and one poll."""
_CALLS_TO_HAND_OVER: Final = 4
"""Calls per hand-over: share and change of owner, each with one poll."""


def hand_over_of(clone: Clone) -> dict[str, JsonValue]:
    """Return the clone's owner and share_with, if set."""
    if clone.hand_over is None:
        return {}
    found: dict[str, JsonValue] = {"owner": clone.hand_over.owner, "share_with": [*clone.hand_over.share_with]}
    return {name: value for name, value in found.items() if value}


def json_plan(preview: Preview) -> Iterator[str]:
    """Yield one JSON document, line by line; ``zclone schema --plan`` describes it."""
    plan = preview.requests()
    head: JsonValue = {"job": plan.job, "run": plan.run, "digest": plan.digest, "count": plan.count}
    *lines, last, _ = to_json(head, indent=2).split("\n")
    yield from (*lines, f"{last},", '  "clones": [')
    before = ""
    for clone, settings in preview.clones():
        if before:
            yield f"    {before},"
        fields = _fields(clone, settings(), preview.differences(clone))
        fields["source_resets"] = preview.resets(clone)
        if preview.server_check is not None:
            fields["server_check"] = dict(preview.server_check.of(clone.key)._asdict())
        before = to_json(fields)
    yield from (f"    {before}", "  ]", "}")


def plan_schema() -> Schema:
    """Return the JSON Schema of the document, a published format that scripts may rely on."""
    rendered = describe(FLAG, "whether values were put in for ${…}")
    place = {"file": TEXT, "line": COUNT, "column": COUNT}
    digest = {**TEXT, "pattern": "^[0-9a-f]{32}"}
    layer = {"enum": ["target", "from", "defaults", "source", "rearchitect"]}
    setting = record({"layer": layer, "rendered": rendered, **place})
    clone = {
        "key": TEXT,
        "source_uuid": UUID,
        "resource_uuid": UUID,
        "digest": digest,
        "body": {"type": "object", "required": ["params"], "description": "as it would be posted"},
        "set_by": {"type": "object", "additionalProperties": setting},
        "source_differs": {"type": "object", "description": "the source's values where the clone gets others"},
        "source_resets": {
            "type": "object",
            "description": "the source's values that the server sets to 0 or false, since nothing is sent for them",
        },
    }
    answer = {"outcome": {"enum": ["ok", "refused", "unclear"]}, **dict.fromkeys(("code", "error", "hint"), MAYBE_TEXT)}
    optional = {
        "server_check": record(answer),
        "owner": describe(UUID, "account that it is given to once it is made"),
        "share_with": describe(array(UUID, min_items=1), "accounts"),
    }
    head = {"job": TEXT, "run": TEXT, "digest": digest, "count": COUNT}
    return document("zclone plan", record({**head, "clones": array(record(clone, optional))}))


def _fields(clone: Clone, settings: Mapping[str, Setting], source: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    set_by: dict[str, JsonValue] = {
        name: {
            "layer": found.layer,
            "rendered": found.rendered,
            "file": found.place.file,
            "line": found.place.line,
            "column": found.place.column,
        }
        for name, found in settings.items()
    }
    return {
        "key": clone.key,
        "source_uuid": clone.source_uuid,
        "resource_uuid": clone.resource_uuid,
        "digest": clone.digest,
        "body": json.loads(clone.body),
        "set_by": set_by,
        "source_differs": dict(source),
        **hand_over_of(clone),
    }


def curl(plan: Plan, *, url: str | None) -> Iterator[str]:
    """Yield a runnable command per target, with the session from the shell's ZSTACK_SESSION_ID.

    Hand-overs follow each command as comments, because they must wait for the clone's job.
    """
    base = '"${ZSTACK_API_URL:?with its /zstack}"' if url is None else shlex.quote(url)
    for clone in plan.clones():
        yield _curl(f"POST {base}/v1/ai/model-services/{clone.source_uuid}", clone.body.decode())
        wanted = clone.hand_over or HandOver()
        if wanted.share_with:
            share = {"resourceUuids": [clone.resource_uuid], "accountUuids": [*wanted.share_with], "toPublic": False}
            path = f"PUT {base}/v1/accounts/resources/actions"
            yield f"# then: {_curl(path, json.dumps({'shareResource': share}))}"
        if wanted.owner is not None:
            path = f"POST {base}/v1/account/{wanted.owner}/resources"
            yield f"# then: {_curl(path, json.dumps({'params': {'resourceUuid': clone.resource_uuid}}))}"


def _curl(call: str, body: str) -> str:
    # The session goes through a pipe, because every user of the machine can read process arguments.
    return (
        """: "${ZSTACK_SESSION_ID:?}" && printf 'Authorization: OAuth %s\\n' "$ZSTACK_SESSION_ID" | """
        f"curl -sS -X {call} -H @- -H 'Content-Type: application/json;charset=UTF-8' -d {shlex.quote(body)}"
    )


def describe_cost(plan: Plan, limits: Limits, *, left: int) -> str:
    """Return the minimum calls and seconds for the ``left`` targets, and whether that fits the deadline."""
    calls = _CALLS * left + _CALLS_TO_HAND_OVER * min(plan.hand_overs, left)
    seconds = calls / limits.rate
    took = f"{_share(plan, left)}, about {calls} calls, at {limits.rate:g}/s {seconds:.0f} s or more"
    if limits.deadline is not None:
        verdict = "fits" if seconds <= limits.deadline else "does NOT fit"
        took += f", which {verdict} the deadline of {limits.deadline:.0f} s"
    if plan.hand_overs:
        took += f"; {plan.hand_overs} handed over"
    if limits.waves:
        took += f"; waves of {', '.join(map(str, wave_sizes(limits.waves, plan.count)))}"
    return f"{took}; digest {plan.digest}"


def _share(plan: Plan, left: int) -> str:
    return f"{plan.count} targets" if left == plan.count else f"{left} of {plan.count} targets"
