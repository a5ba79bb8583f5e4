"""The report as one self-contained HTML file, with a content security policy that forbids loading and sending."""

from __future__ import annotations

import base64
import hashlib
import html
from functools import cache
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Final

from batch.errors import ExitCode
from batch.model import State
from batch.report.figures import UNFINISHED, failures, figures
from batch.report.page_data import page_data
from batch.report.words import CHINESE, ENGLISH
from batch.text import duration, escape, iso
from batch.zstack.classify import missing_hint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.report.data import Process, ReportData
    from batch.report.figures import Failures, Figures

_VERDICTS: Final = {
    ExitCode.OK: "all_cloned",
    ExitCode.FAILED: "some_failed",
    ExitCode.UNFINISHED: "unfinished",
    None: "no_run",
}
_MOST_GROUPS: Final = 200
_LONGEST: Final = 600


def html_report(report: ReportData, *, at: float) -> str:
    """Return the page; ``at``: time of writing, seconds since the epoch."""
    style, script = _part("page.css"), _part("page.js")
    known, header = figures(report), report.header
    verdict = "running" if report.is_running else _VERDICTS[known.exit_code]
    groups = failures(report)
    shown = _failures(groups)
    values = {
        **{word: html.escape(text) for word, text in ENGLISH.items()},
        "title": _text(f"{header.job} {header.run} | zclone"),
        "job": _text(header.job),
        "run": _text(header.run),
        "run_word": ENGLISH["run"],
        "times": _times(report, known),
        "tool": _text(header.tool),
        "verdict": verdict,
        "verdict_text": ENGLISH[verdict],
        "subtitle": _subtitle(report),
        "cards": "".join(_cards(known)),
        "failures_above": shown if groups else "",
        "failures_below": ("" if groups else shown) + _verification(report),
        "environment_title": ENGLISH["environment"],
        "environment": _facts(report, at),
        "data": page_data(report, {"en": ENGLISH, "zh": CHINESE}),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
    }
    return Template(_part("page.html")).substitute(values)


@cache
def _part(name: str) -> str:
    return (files("batch.report") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(value: object) -> str:
    return html.escape(escape(str(value)))


def _word(word: str) -> str:
    return f'<span data-t="{word}">{html.escape(ENGLISH[word])}</span>'


def _subtitle(report: ReportData) -> str:
    header = report.header
    return _word("rehearsal") if header.simulated else _text(header.endpoint)


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
    found = report.verification
    if found is None:
        return ""
    lines = "".join(f"<li><code>{_text(line)}</code></li>" for line in found.lines[:_MOST_GROUPS])
    return (
        f'<section id="verification"><h2>{_word("verification")}</h2><p>{_text(found.ended_at)}</p>'
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
