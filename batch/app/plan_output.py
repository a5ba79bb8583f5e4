"""A plan as a JSON document, as curl commands, or as text: changes grouped by kind, or every target in detail."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.engine.admission import wave_sizes
from batch.model import HandOver
from batch.text import cut, escape, fit, pad, to_json, width

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.app.preview import Preview
    from batch.engine.validation import CheckResult
    from batch.model import Clone, JsonValue, Limits, Plan
    from batch.plan import Setting

_CALLS: Final = 2
"""Calls per target without failures: the POST and one poll."""
_CALLS_TO_HAND_OVER: Final = 4
"""Calls per hand-over: share and change of owner, each with one poll."""
_HEADS: Final = ("PARAMETER", "CLONES", "VALUE", "SET BY")
_COLUMN: Final = 34
"""Width of a key or uuid, in terminal columns."""
_LONGEST: Final = 60
"""Maximum length of a value, except image names."""
_MAX_LISTED_VALUES: Final = 3
"""Maximum number of distinct values listed per parameter; beyond it a count and an example are shown."""
_MAX_COUNTED_VALUES: Final = 1_000
"""Maximum number of distinct values counted per parameter."""
_MAX_REFUSALS: Final = 20
"""Maximum number of refused targets in a summary."""
_IMAGES: Final = "architectureImages"


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
        fields = _json_fields(clone, settings(), preview.differences(clone))
        fields["source_resets"] = preview.resets(clone)
        if preview.server_check is not None:
            fields["server_check"] = dict(preview.server_check.of(clone.key)._asdict())
        before = to_json(fields)
    yield from (f"    {before}", "  ]", "}")


def _json_fields(
    clone: Clone, settings: Mapping[str, Setting], source: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
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


class _Kind(NamedTuple):
    """A parameter and how clones get its value."""

    param: str
    how: str


@dataclass(slots=True)
class _Group:
    """The values of one kind."""

    count: int = 0
    values: Counter[str] = field(default_factory=Counter)
    places: set[str] = field(default_factory=set)
    """Positions in the job file; shown only if there is just one."""

    def add(self, value: str, place: str) -> None:
        """Add one clone."""
        self.count += 1
        if value in self.values or len(self.values) < _MAX_COUNTED_VALUES:
            self.values[value] += 1
        if place and len(self.places) <= 1:
            self.places.add(place)

    def rows(self, kind: _Kind) -> Iterator[tuple[str, str, str, str]]:
        """Yield one row per value, or a single row for many values."""
        (place,) = self.places if len(self.places) == 1 else ("",)
        how = f"{kind.how}, {place}" if place else kind.how
        if len(self.values) <= _MAX_LISTED_VALUES:
            yield from ((kind.param, str(count), value, how) for value, count in self.values.items())
            return
        number = (
            f"more than {_MAX_COUNTED_VALUES:,}" if len(self.values) == _MAX_COUNTED_VALUES else f"{len(self.values):,}"
        )
        yield kind.param, str(self.count), f"{number} values, such as {next(iter(self.values))}", how


def summary_lines(preview: Preview, *, size: int | None = None) -> Iterator[str]:
    """Yield the number of clones, calls and seconds, then each kind of change with count, old and new values.

    ``size``: terminal width to cut lines to; None to keep them whole.
    """
    yield from plan_lines(preview)
    rows = [row for kind, group in _groups(preview).items() for row in group.rows(kind)]
    if rows:
        yield ""
        yield from _align(rows, size)
    yield from _refusals(preview)


def _groups(preview: Preview) -> dict[_Kind, _Group]:
    """Return the clones' values by kind, with those of one parameter adjacent."""
    groups: dict[_Kind, _Group] = {}
    for clone, settings in preview.clones():
        source, is_known = preview.differences(clone), clone.source_uuid in preview.inventories
        for param, setting in settings().items():
            how = f"{setting.layer}, rendered" if setting.rendered else setting.layer
            value = _change(param, clone.params[param], source, is_known=is_known)
            place = f"{setting.place.file}:{setting.place.line}:{setting.place.column}"
            groups.setdefault(_Kind(param, how), _Group()).add(value, place)
        for name, accounts in hand_over_of(clone).items():
            groups.setdefault(_Kind(name, "once it is made"), _Group()).add(_short(name, accounts), "")
        for param, lost in preview.resets(clone).items():
            groups.setdefault(_Kind(param, "reset by the server"), _Group()).add(_reset(param, lost), "")
    order = {param: rank for rank, param in enumerate(dict.fromkeys(kind.param for kind in groups))}
    return dict(sorted(groups.items(), key=lambda item: order[item[0].param]))


def plan_lines(preview: Preview) -> Iterator[str]:
    """Yield job and run, the progress so far, and the minimum cost of the rest."""
    plan = preview.requests()
    progress = preview.earlier.progress(plan)
    yield f"job {plan.job}, run {plan.run}"
    if preview.earlier.path is not None:
        yield progress.describe(plan, preview.earlier.path)
    yield describe_cost(plan, preview.planning.job.limits, left=progress.left)


def _align(rows: list[tuple[str, str, str, str]], size: int | None) -> Iterator[str]:
    """Yield the rows under their headings; on a terminal values are cut so that the last column stays visible."""
    cells = [[escape(cell) for cell in row] for row in (_HEADS, *rows)]
    param, count, value, how = (max(map(width, column)) for column in zip(*cells, strict=True))
    if size is not None:
        how = min(how, size // 3)
        value = min(value, max(size - param - count - how - 6, 8))
    for cell in cells:
        line = "  ".join(pad(fit(*one), one[1]) for one in zip(cell, (param, count, value, how), strict=True)).rstrip()
        yield line if size is None else fit(line, size)


def _refusals(preview: Preview) -> Iterator[str]:
    if preview.server_check is None or not preview.server_check.others:
        return
    yield ""
    for key, verdict in islice(preview.server_check.others.items(), _MAX_REFUSALS):
        yield f"{key}: server: {_describe(verdict)}"
    if len(preview.server_check.others) > _MAX_REFUSALS:
        yield f"{len(preview.server_check.others) - _MAX_REFUSALS} more: --details shows them"


def details(preview: Preview, *, size: int | None = None) -> Iterator[str]:
    """Yield a heading, then one line per target followed by one per parameter: value, layer and position.

    The source's value precedes an arrow if the server was queried and it differs. ``size``: terminal width; if it is
    too narrow for four columns, source and clone get lines of their own.
    """
    is_wide = size is None or size >= 4 * _COLUMN
    yield _row("KEY", "SOURCE", "CLONE", "NAME") if is_wide else fit(_row("KEY", "NAME"), size or 0)
    for clone, settings in preview.clones():
        name = clone.params.get("name")
        shown = "" if name is None else str(name)
        if is_wide:
            yield _row(clone.key, clone.source_uuid, clone.resource_uuid, shown)
        else:
            yield fit(_row(clone.key, shown), size or 0)
            yield f"    {clone.source_uuid} -> {clone.resource_uuid}"
        if preview.server_check is not None:
            yield f"    server: {_describe(preview.server_check.of(clone.key))}"
        source = preview.differences(clone)
        for param, setting in settings().items():
            yield f"    {param}: {_change(param, clone.params[param], source, is_known=False)}  ({setting})"
        for name, accounts in hand_over_of(clone).items():
            yield f"    {name}: {_short(name, accounts)}  (once it is made)"
        for param, value in preview.resets(clone).items():
            yield f"    {param}: {_reset(param, value)}  (reset by the server: `keep` copies it)"


def _row(*cells: str) -> str:
    # Escape before measuring the width.
    return " ".join(pad(escape(cell), _COLUMN - 1) for cell in cells).rstrip()


def _change(param: str, value: JsonValue, source: dict[str, JsonValue], *, is_known: bool) -> str:
    """Return the clone's value, preceded by the source's and an arrow if they differ."""
    if param in source:
        return f"{_short(param, source[param])} -> {_short(param, value)}"
    return f"{_short(param, value)}{', as the source has it' if is_known else ''}"


def _reset(param: str, value: JsonValue) -> str:
    return f"{_short(param, value)} -> {'false' if value is True else '0'}"


def _describe(verdict: CheckResult) -> str:
    reason = " ".join(filter(None, (verdict.code, verdict.error, verdict.hint and f"({verdict.hint})")))
    return f"{verdict.outcome}: {reason}" if reason else str(verdict.outcome)


def _short(param: str, value: JsonValue) -> str:
    # Image names differ mostly at their ends, so they are not cut.
    if param == _IMAGES and isinstance(value, list):
        return ", ".join(_image(row) for row in value) or "[]"
    return cut(to_json(value), _LONGEST)


def _image(row: JsonValue) -> str:
    if not isinstance(row, dict):
        return to_json(row)
    names = (row.get(name) for name in ("cpuArchitecture", "dockerImage", "vmImageUuid"))
    return " ".join(str(name) for name in names if name)
