"""A plan as people and programs read it."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Final

from batch.engine.waves import sizes
from batch.model import HandOver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.cli.look import Look
    from batch.engine.servercheck import Verdict
    from batch.model import Clone, JsonValue, Limits, Plan
    from batch.plan import Setting

_CALLS: Final = 2
"""Per target where all goes well: the POST and one poll."""
_CALLS_TO_HAND_OVER: Final = 4
"""Share and give: the call and one poll each."""
_WIDTH: Final = 60
"""Characters of a value in the table."""


def table(look: Look) -> Iterator[str]:
    """Yield a heading, one line a target, and below it one for each parameter: value, layer and place.

    What the source has is shown before the arrow where the server was asked and it differs.
    """
    yield f"{'KEY':<34}{'SOURCE':<34}{'CLONE':<34}NAME"
    for clone, settings in look.clones():
        name = clone.params.get("name")
        shown = "" if name is None else str(name)
        yield f"{clone.key:<34}{clone.source_uuid:<34}{clone.resource_uuid:<34}{shown}".rstrip()
        if look.verdicts is not None:
            yield f"    server: {_told(look.verdicts.of(clone.key))}"
        source = look.differences(clone)
        for param, setting in settings().items():
            before = f"{_short(source[param])} -> " if param in source else ""
            yield f"    {param}: {before}{_short(clone.params[param])}  ({setting})"
        for name, accounts in _hand_over(clone).items():
            yield f"    {name}: {_short(accounts)}  (once it is made)"
        for param, value in look.resets(clone).items():
            reset = "false" if value is True else "0"
            yield f"    {param}: {_short(value)} -> {reset}  (reset by the server: `keep` copies it)"


def _hand_over(clone: Clone) -> dict[str, JsonValue]:
    """Return owner and share_with where the clone has them."""
    if clone.hand_over is None:
        return {}
    found: dict[str, JsonValue] = {"owner": clone.hand_over.owner, "share_with": [*clone.hand_over.share_with]}
    return {name: value for name, value in found.items() if value}


def _told(verdict: Verdict) -> str:
    told = " ".join(filter(None, (verdict.code, verdict.error, verdict.hint and f"({verdict.hint})")))
    return f"{verdict.outcome}: {told}" if told else str(verdict.outcome)


def _short(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def document(look: Look) -> Iterator[str]:
    """Yield one JSON document, line by line; ``zclone schema --plan`` describes it."""
    plan = look.plan
    head = {"job": plan.job, "run": plan.run, "digest": plan.digest, "count": plan.count}
    yield json.dumps(head, indent=2, ensure_ascii=False).removesuffix("\n}") + ',\n  "clones": ['
    before = ""
    for clone, settings in look.clones():
        if before:
            yield f"    {before},"
        fields = _fields(clone, settings(), look.differences(clone))
        fields["source_resets"] = look.resets(clone)
        if look.verdicts is not None:
            fields["server_check"] = dict(look.verdicts.of(clone.key)._asdict())
        before = json.dumps(fields, ensure_ascii=False)
    yield f"    {before}\n  ]\n}}"


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
        **_hand_over(clone),
    }


def curl(plan: Plan, *, url: str | None) -> Iterator[str]:
    """Yield a runnable command for each target; the session comes from the shell's own ZSTACK_SESSION_ID.

    What is done once a clone is made stands below it, as comments: it must wait for the clone's job.
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
    return (
        f"curl -sS -X {call} -H 'Content-Type: application/json;charset=UTF-8'"
        ' -H "Authorization: OAuth ${ZSTACK_SESSION_ID:?}"'
        f" -d {shlex.quote(body)}"
    )


def duration(plan: Plan, limits: Limits) -> str:
    """Say how many calls and seconds the plan takes at least, and whether that fits the deadline."""
    calls = _CALLS * plan.count + _CALLS_TO_HAND_OVER * plan.hand_overs
    seconds = calls / limits.rate
    took = f"{plan.count} targets, about {calls} calls, at {limits.rate:g}/s {seconds:.0f} s or more"
    if limits.deadline is not None:
        verdict = "fits" if seconds <= limits.deadline else "does NOT fit"
        took += f", which {verdict} the deadline of {limits.deadline:.0f} s"
    if plan.hand_overs:
        took += f"; {plan.hand_overs} handed over"
    if limits.waves:
        took += f"; waves of {', '.join(map(str, sizes(limits.waves, plan.count)))}"
    return f"{took}; digest {plan.digest}"
