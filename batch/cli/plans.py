"""A plan as people and programs read it."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.cli.look import Look
    from batch.engine.servercheck import Verdict
    from batch.model import Clone, JsonValue, Limits, Plan
    from batch.plan import Setting

_CALLS: Final = 2
"""Per target where all goes well: the POST and one poll."""
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
        for param, value in look.resets(clone).items():
            reset = "false" if value is True else "0"
            yield f"    {param}: {_short(value)} -> {reset}  (reset by the server: `keep` copies it)"


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


def duration(plan: Plan, limits: Limits) -> str:
    """Say how many calls and seconds the plan takes at least, and whether that fits the deadline."""
    calls = _CALLS * plan.count
    seconds = calls / limits.rate
    took = f"{plan.count} targets, about {calls} calls, at {limits.rate:g}/s {seconds:.0f} s or more"
    if limits.deadline is not None:
        verdict = "fits" if seconds <= limits.deadline else "does NOT fit"
        took += f", which {verdict} the deadline of {limits.deadline:.0f} s"
    return f"{took}; digest {plan.digest}"
