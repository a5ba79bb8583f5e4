"""The data for the report's script, as compact JSON that is safe inside a script element."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch import jsoncodec
from batch.model import State
from batch.report.figures import figures
from batch.text import escape
from batch.zstack.classify import missing_hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from batch.model import JsonValue
    from batch.report.data import Process, ReportData, Span, TargetData
    from batch.zstack.classify import Language

_STATES: Final = [state.value for state in State]
_LONGEST_ERROR: Final = 400


def page_data(report: ReportData, words: Mapping[Language, Mapping[str, str]]) -> str:
    """Return the data, with times in whole milliseconds since the run's first line.

    ``words``: the page's texts in each language, to which the hints of the run's errors are added.
    """
    known = figures(report)

    def ms(at: float) -> int:
        return round((at - known.began) * 1000)

    codes, errors, hints = _Texts(), _Texts(), _Texts()
    targets = report.targets
    data: dict[str, JsonValue] = {
        "states": [*_STATES],
        "file": report.path.name.removesuffix(".manifest.jsonl"),
        "end": max(1, ms(known.until)),
        "keys": [escape(target.key) for target in targets],
        "sources": ["" if target.source_uuid == target.key else escape(target.source_uuid) for target in targets],
        "clones": [escape(_last(target, "clone_uuid")) for target in targets],
        "names": [escape(_last(target, "name")) for target in targets],
        "state": [_STATES.index(target.state.value) for target in targets],
        "attempts": [target.last.attempt if target.last else 0 for target in targets],
        "code": [codes.number(escape(target.error_code or "")) for target in targets],
        "error": [errors.number(_error(target)) for target in targets],
        "hint": [hints.number(_hint(target, "en")) for target in targets],
        "bars": [_bar(bar, ms) for bar in lanes(targets, until=known.until)],
        "pauses": [[ms(start), ms(end)] for start, end in pauses(report.processes)],
        "words": {language: {**texts, **_hints(targets, language)} for language, texts in words.items()},
    }
    data |= {"codes": [*codes.texts], "errors": [*errors.texts], "hints": [*hints.texts]}
    # In a script element only "<" can start markup, and JSON strings may escape it.
    return jsoncodec.encode(data).replace("<", "\\u003c")


class _Texts:
    """A table of distinct texts; number 0 is the empty text."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {"": 0}

    def number(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))


def _last(target: TargetData, name: str) -> str:
    value = None if target.last is None else getattr(target.last, name)
    return "" if value is None else str(value)


def _error(target: TargetData) -> str:
    return escape(target.error or "")[:_LONGEST_ERROR]


def _hint(target: TargetData, language: Language) -> str:
    return missing_hint(target.error_code, target.error, language)


def _hints(targets: Iterable[TargetData], language: Language) -> dict[str, JsonValue]:
    """Return the hints of all errors, keyed by their English text."""
    failed = (target for target in targets if target.error_code)
    return {hint: _hint(target, language) for target in failed if (hint := _hint(target, "en"))}


def _bar(bar: Bar, ms: Callable[[float], int]) -> JsonValue:
    span, start = bar.span, ms(bar.span.sent_at[0])
    accepted = -1 if span.accepted_at is None else max(0, ms(span.accepted_at) - start)
    later: list[JsonValue] = [ms(at) - start for at in span.sent_at[1:]]
    return [bar.target, bar.lane, start, accepted, ms(bar.until) - start, _STATES.index(span.state.value), *later]


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the timeline: one span of a target, in its lane."""

    target: int
    """Position of the target in the plan, from 0."""
    lane: int
    span: Span
    until: float
    """End of the span, or the last known time; seconds since the epoch."""


def lanes(targets: Iterable[TargetData], *, until: float) -> list[Bar]:
    """Assign each span the lowest lane that is free at its start; ``until``: time of the last record."""
    spans = [(span.sent_at[0], number, span) for number, target in enumerate(targets) for span in target.spans]
    spans.sort(key=lambda entry: entry[:2])
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    bars: list[Bar] = []
    for start, number, span in spans:
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        end = max(start, until if span.ended_at is None else span.ended_at)
        heapq.heappush(busy, (end, lane))
        bars.append(Bar(number, lane, span, end))
    return bars


def pauses(processes: Sequence[Process]) -> list[tuple[float, float]]:
    """Return the periods without a process: from the last line of one to the start of the next."""
    pairs = itertools.pairwise(processes)
    return [(one.last_at, after.started.at) for one, after in pairs if after.started.at > one.last_at]
