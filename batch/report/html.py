"""The report as one HTML file: everything inline, under a policy that lets it load and send nothing."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Final

from batch.errors import ExitCode
from batch.model import State
from batch.report.exits import UNFINISHED
from batch.report.failures import failures
from batch.report.figures import figures
from batch.report.page_data import page_data
from batch.report.text import clean, duration, iso
from batch.report.words import CHINESE, ENGLISH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.report.chronicle import Chronicle, Process
    from batch.report.failures import Failures
    from batch.report.figures import Figures

_VERDICTS: Final = {ExitCode.OK: "all_cloned", ExitCode.FAILED: "some_failed", ExitCode.UNFINISHED: "unfinished"}
_MOST_GROUPS: Final = 200
_LONGEST: Final = 600


def html_report(chronicle: Chronicle, *, at: float) -> str:
    """Return the page; ``at``: when it is written, seconds since the epoch."""
    style, script = _part("page.css"), _part("page.js")
    known, header = figures(chronicle), chronicle.header
    verdict = _VERDICTS[known.exit_code]
    values = {
        **{word: escape(text) for word, text in ENGLISH.items()},
        "title": _text(f"{header.job} {header.run} | zclone"),
        "job": _text(header.job),
        "run": _text(header.run),
        "tool": _text(header.tool),
        "verdict": verdict,
        "verdict_text": ENGLISH[verdict],
        "subtitle": _subtitle(chronicle),
        "cards": "".join(_cards(known)),
        "failures_title": ENGLISH["failures"],
        "failures": _failures(failures(chronicle)),
        "environment_title": ENGLISH["environment"],
        "environment": _facts(chronicle, at),
        "data": page_data(chronicle, {"en": ENGLISH, "zh": CHINESE}),
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
    return escape(clean(str(value)))


def _word(word: str) -> str:
    return f'<span data-t="{word}">{escape(ENGLISH[word])}</span>'


def _subtitle(chronicle: Chronicle) -> str:
    header = chronicle.header
    return _word("rehearsal") if header.simulated else _text(header.endpoint)


def _cards(known: Figures) -> Iterator[str]:
    yield _card("targets", known.counts.total())
    for state in (State.CLONED, State.FAILED, State.CONFLICT, State.UNCERTAIN):
        if known.counts[state] or state in (State.CLONED, State.FAILED):
            yield _card(state.value, known.counts[state])
    still_open = sum(known.counts[state] for state in UNFINISHED if state is not State.UNCERTAIN)
    if still_open:
        yield _card("open", still_open)
    yield _card("retries", known.retries)
    yield _card("duration", duration(known.seconds))
    if known.seconds > 0:
        yield _card("pace", f"{known.counts[State.CLONED] / known.seconds:.3g}")


def _card(word: str, value: object) -> str:
    shown = f"{value:,}" if isinstance(value, int) else value
    lit = word if value else "none"
    return f'<div class="card {lit}"><b>{shown}</b>{_word(word)}</div>'


def _failures(groups: list[Failures]) -> str:
    if not groups:
        return f"<p>{_word('none_failed')}</p>"
    return "".join(map(_group, groups[:_MOST_GROUPS])) + (
        f"<p>+ {len(groups) - _MOST_GROUPS}</p>" if len(groups) > _MOST_GROUPS else ""
    )


def _group(group: Failures) -> str:
    named = ", ".join(f"<code>{_text(key)}</code>" for key in group.keys)
    return (
        f'<div class="group {group.state.value}"><p><b>{group.count}</b> &times; {_word(group.state.value)} '
        f"<code>{_text(group.code or '-')}</code> {_text(group.error[:_LONGEST])}</p>"
        f'<p class="hint">{_word("such_as")} {named}</p><pre><code>{_text(group.command)}</code></pre></div>'
    )


def _facts(chronicle: Chronicle, at: float) -> str:
    header, plan = chronicle.header, chronicle.plan
    rows = [("job", header.job), ("run", header.run), ("endpoint", header.endpoint), ("tool", header.tool)]
    rows += [("digest", plan.digest), ("inputs", plan.inputs)] if plan is not None else []
    rows += [("manifest", chronicle.path.name), ("created", iso(header.created_at) or "")]
    cells = "".join(f"<tr><td>{_word(word)}</td><td>{_text(value)}</td></tr>" for word, value in rows)
    cells += "".join(map(_process, chronicle.processes))
    if chronicle.torn_bytes:
        cells += f"<tr><td>{_word('torn')}</td><td>{chronicle.torn_bytes}</td></tr>"
    written = f"<tr><td>{_word('written')}</td><td>{iso(at)}</td></tr>"
    return f'<div class="scroll"><table class="facts">{cells}{written}</table></div>'


def _process(process: Process) -> str:
    started, ended = process.started, process.ended
    who = _text(f"{started.pid} @ {started.host} ({started.tool}), {iso(started.at)} to {iso(process.last_at)}: ")
    reason = "" if ended is None or not ended.reason else f", {ended.reason}"
    end = _word("running") if ended is None else _text(f"exit {ended.exit_code}{reason}")
    return f"<tr><td>{_word('process')}</td><td>{who}{end}</td></tr>"
