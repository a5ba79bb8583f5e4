"""The report as one self-contained HTML file, with a content security policy that forbids loading and sending.

The page's script receives the targets as compact JSON that is safe inside a script element.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import html
import itertools
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Final

from batch import jsoncodec
from batch.errors import ExitCode
from batch.model import State
from batch.report.figures import UNFINISHED, failures, figures
from batch.text import duration, escape, iso
from batch.zstack.classify import missing_hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from batch.model import JsonValue
    from batch.report.data import Process, ReportData, Span, TargetData
    from batch.report.figures import Failures, Figures
    from batch.zstack.classify import Language

_VERDICTS: Final = {
    ExitCode.OK: "all_cloned",
    ExitCode.FAILED: "some_failed",
    ExitCode.UNFINISHED: "unfinished",
    None: "no_run",
}
_MOST_GROUPS: Final = 200
_LONGEST: Final = 600
_STATES: Final = [state.value for state in State]
_LONGEST_ERROR: Final = 400


def html_report(report: ReportData, *, at: float) -> str:
    """Return the page; ``at``: time of writing, seconds since the epoch."""
    style, script = _part("page.css"), _part("page.js")
    words = page_words()["en"]
    totals, header = figures(report), report.header
    verdict = "running" if report.is_running else _VERDICTS[totals.exit_code]
    groups = failures(report)
    shown = _failures(groups)
    values = {
        **{word: html.escape(text) for word, text in words.items()},
        "title": _text(f"{header.job} {header.run} | zclone"),
        "job": _text(header.job),
        "run": _text(header.run),
        "run_word": words["run"],
        "times": _times(report, totals),
        "tool": _text(header.tool),
        "verdict": verdict,
        "verdict_text": words[verdict],
        "subtitle": _word("rehearsal") if header.simulated else _text(header.endpoint),
        "cards": "".join(_cards(totals)),
        "failures_above": shown if groups else "",
        "failures_below": ("" if groups else shown) + _verification(report),
        "environment_title": words["environment"],
        "environment": _facts(report, at),
        "data": page_data(report),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
    }
    return Template(_part("page.html")).substitute(values)


@cache
def page_words() -> dict[Language, dict[str, str]]:
    """Return the page's texts by language."""
    words: dict[Language, dict[str, str]] = jsoncodec.decode(_part("words.json").encode())
    return words


@cache
def _part(name: str) -> str:
    return (files("batch.report") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(value: object) -> str:
    return html.escape(escape(str(value)))


def _word(word: str) -> str:
    return f'<span data-t="{word}">{html.escape(page_words()["en"][word])}</span>'


def _cards(run_figures: Figures) -> Iterator[str]:
    yield _card("targets", run_figures.counts.total())
    for state in (State.CLONED, State.FAILED, State.CONFLICT, State.UNCERTAIN):
        if run_figures.counts[state] or state in (State.CLONED, State.FAILED):
            yield _card(state.value, run_figures.counts[state])
    still_open = sum(run_figures.counts[state] for state in UNFINISHED if state is not State.UNCERTAIN)
    if still_open:
        yield _card("open", still_open)
    yield _card("retries", run_figures.retries)
    yield _card("duration", duration(run_figures.seconds))
    if run_figures.seconds > 0:
        yield _card("pace", f"{run_figures.counts[State.CLONED] / run_figures.seconds:.3g}")


def _card(word: str, value: object) -> str:
    shown = f"{value:,}" if isinstance(value, int) else value
    lit = word if value else "none"
    return f'<div class="card {lit}"><b>{shown}</b>{_word(word)}</div>'


def _times(report: ReportData, run_figures: Figures) -> str:
    """Return start, end and wall-clock duration, which includes the pauses between processes."""
    end = _word("running") if report.is_running else _time(run_figures.until)
    wall = duration(max(0.0, run_figures.until - run_figures.began))
    return f"{_time(run_figures.began)} &ndash; {end} UTC &middot; {_word('wall')} {wall}"


def _time(at: float) -> str:
    exact = iso(at) or ""
    return f'<time datetime="{exact}">{exact[:19].replace("T", " ")}</time>'


def _failures(groups: list[Failures]) -> str:
    title = f'<section id="failures"><h2>{_word("failures")}</h2>'
    if not groups:
        return f"{title}<p>{_word('none_failed')}</p></section>\n"
    return (
        title
        + "".join(_group(group) for group in groups[:_MOST_GROUPS])
        + (f"<p>+ {len(groups) - _MOST_GROUPS}</p></section>\n" if len(groups) > _MOST_GROUPS else "</section>\n")
    )


def _verification(report: ReportData) -> str:
    section = report.verification
    if section is None:
        return ""
    lines = "".join(f"<li><code>{_text(line)}</code></li>" for line in section.lines[:_MOST_GROUPS])
    return (
        f'<section id="verification"><h2>{_word("verification")}</h2><p>{_text(section.ended_at)}</p>'
        f"<ul>{lines}</ul></section>\n"
    )


def _group(group: Failures) -> str:
    error, hint = group.error[:_LONGEST], missing_hint(group.code, group.error[:_LONGEST])
    advice = f' (<span data-t="{html.escape(hint)}">{html.escape(hint)}</span>)' if hint else ""
    named = ", ".join(f"<code>{_text(key)}</code>" for key in group.keys)
    return (
        f'<div class="group {group.state.value}"><p><b>{group.count}</b> &times; {_word(group.state.value)} '
        f"<code>{_text(group.code or '-')}</code> {_text(error)}{advice}</p>"
        f'<p class="hint">{_word("such_as")} {named}</p><pre><code>{_text(group.command)}</code></pre></div>'
    )


def _facts(report: ReportData, at: float) -> str:
    header, plan = report.header, report.plan
    rows = [("job", header.job), ("run", header.run), ("endpoint", header.endpoint), ("tool", header.tool)]
    rows += [("digest", plan.digest), ("inputs", plan.inputs)] if plan is not None else []
    rows += [("manifest", report.path.name), ("created", iso(header.created_at) or "")]
    cells = "".join(f"<tr><td>{_word(word)}</td><td>{_text(value)}</td></tr>" for word, value in rows)
    last = len(report.processes) - 1
    cells += "".join(
        _process(process, is_running=report.is_running and number == last)
        for number, process in enumerate(report.processes)
    )
    if report.torn_bytes:
        cells += f"<tr><td>{_word('torn')}</td><td>{report.torn_bytes}</td></tr>"
    written = f"<tr><td>{_word('written')}</td><td>{iso(at)}</td></tr>"
    return f'<div class="scroll"><table class="facts">{cells}{written}</table></div>'


def _process(process: Process, *, is_running: bool) -> str:
    started, ended = process.started, process.ended
    who = _text(f"{started.pid} @ {started.host} ({started.tool}), {iso(started.at)}")
    until = f" &ndash; {iso(process.last_at)}: "
    reasons = () if ended is None else filter(None, (ended.code, ended.reason))
    reason = "".join(f", {text}" for text in reasons)
    alive = "running" if is_running else "killed"
    end = _word(alive) if ended is None else f"{_word('exit')} {_text(f'{ended.exit_code}{reason}')}"
    return f"<tr><td>{_word('process')}</td><td>{who}{until}{end}</td></tr>"


def page_data(report: ReportData) -> str:
    """Return the data of the page's script, with times in whole milliseconds since the run's first line.

    The page's texts are among them in each language, and the hints of the run's errors.
    """
    totals = figures(report)

    def ms(at: float) -> int:
        return round((at - totals.began) * 1000)

    codes, errors, hints = _Texts(), _Texts(), _Texts()
    targets = report.targets
    data: dict[str, JsonValue] = {
        "states": [*_STATES],
        "file": report.path.name.removesuffix(".manifest.jsonl"),
        "end": max(1, ms(totals.until)),
        "keys": [escape(target.key) for target in targets],
        "sources": ["" if target.source_uuid == target.key else escape(target.source_uuid) for target in targets],
        "clones": [escape(_last(target, "clone_uuid")) for target in targets],
        "names": [escape(_last(target, "name")) for target in targets],
        "state": [_STATES.index(target.state.value) for target in targets],
        "attempts": [target.last.attempt if target.last else 0 for target in targets],
        "code": [codes.number(escape(target.error_code or "")) for target in targets],
        "error": [errors.number(_error(target)) for target in targets],
        "hint": [hints.number(_hint(target, "en")) for target in targets],
        "bars": [_bar(bar, ms) for bar in lanes(targets, until=totals.until)],
        "pauses": [[ms(start), ms(end)] for start, end in pauses(report.processes)],
        "words": {language: {**texts, **_hints(targets, language)} for language, texts in page_words().items()},
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
