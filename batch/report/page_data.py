"""What the report's script draws, as compact JSON that cannot end the element it stands in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from batch.model import State
from batch.report.figures import figures
from batch.report.lanes import lanes, pauses
from batch.report.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batch.model import JsonValue
    from batch.report.chronicle import Chronicle, Course
    from batch.report.lanes import Bar

_STATES: Final = [state.value for state in State]
_LONGEST_ERROR: Final = 400


def page_data(chronicle: Chronicle, words: Mapping[str, Mapping[str, str]]) -> str:
    """Return the data; times are whole milliseconds from the run's first line."""
    known = figures(chronicle)

    def ms(at: float) -> int:
        return round((at - known.began) * 1000)

    codes, errors = _Texts(), _Texts()
    courses = chronicle.courses
    data: dict[str, JsonValue] = {
        "states": [*_STATES],
        "file": chronicle.path.name.removesuffix(".manifest.jsonl"),
        "end": max(1, ms(known.until)),
        "keys": [clean(course.key) for course in courses],
        "sources": ["" if course.source_uuid == course.key else clean(course.source_uuid) for course in courses],
        "clones": [clean(_last(course, "clone_uuid")) for course in courses],
        "names": [clean(_last(course, "name")) for course in courses],
        "state": [_STATES.index(course.state.value) for course in courses],
        "attempts": [course.last.attempt if course.last else 0 for course in courses],
        "code": [codes.number(clean(course.error_code or "")) for course in courses],
        "error": [errors.number(clean(course.error or "")[:_LONGEST_ERROR]) for course in courses],
        "bars": [_bar(bar, ms) for bar in lanes(courses, until=known.until)],
        "pauses": [[ms(start), ms(end)] for start, end in pauses(chronicle.processes)],
        "words": {language: dict(texts) for language, texts in words.items()},
    }
    data |= {"codes": [*codes.texts], "errors": [*errors.texts]}
    # In a script element only "<" can begin markup; JSON strings may hold it escaped.
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


class _Texts:
    """Texts that repeat, each once; number 0 is the empty one."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {"": 0}

    def number(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))


def _last(course: Course, name: str) -> str:
    value = None if course.last is None else getattr(course.last, name)
    return "" if value is None else str(value)


def _bar(bar: Bar, ms: Callable[[float], int]) -> JsonValue:
    span, start = bar.span, ms(bar.span.sent_at[0])
    accepted = -1 if span.accepted_at is None else max(0, ms(span.accepted_at) - start)
    later: list[JsonValue] = [ms(at) - start for at in span.sent_at[1:]]
    return [bar.target, bar.lane, start, accepted, ms(bar.until) - start, _STATES.index(span.state.value), *later]
