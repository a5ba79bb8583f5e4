"""Renders problems: compiler style with the source line and a caret, or annotations for GitHub."""

from __future__ import annotations

import itertools
import re
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.jobfile.input_files import open_regular
from batch.jobfile.tables import XLSX
from batch.text import escape, width

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batch.model import Place, Problem

_WINDOW: Final = 100
_BEFORE: Final = 60
_SECRET: Final = re.compile("password|secret|session|token|access_key", re.IGNORECASE)
_INDENT: Final = "    "
_MAX_SHOWN_LINE: Final = 1 << 16


def source_line(place: Place) -> str | None:
    """Return the line of ``place`` from its file; None where that is not possible.

    A workbook has no lines. In a CSV file a CR alone ends a line too, as its reader and editors treat it.
    """
    if place.file.lower().endswith(XLSX):
        return None
    newline = "" if place.file.lower().endswith(".csv") else "\n"
    try:
        with TextIOWrapper(
            open_regular(Path(place.file)), encoding="utf-8", errors="replace", newline=newline
        ) as stream:
            line = next(itertools.islice(stream, place.line - 1, None), None)
    except OSError:
        return None
    return None if line is None else line[:_MAX_SHOWN_LINE].rstrip("\r\n")


def render_text(problems: Iterable[Problem], line_of: Callable[[Place], str | None]) -> str:
    """Return one block a problem: ``file:line:column: path: message``, then the line and a caret below its column.

    Lines of ``endpoint`` and those that mention secrets are not shown, as a secret may be written there by mistake.
    """
    return "\n".join(itertools.chain.from_iterable(_block(problem, line_of) for problem in problems))


def render_github(problems: Iterable[Problem]) -> str:
    """Return workflow commands that GitHub shows as annotations of the files."""
    return "\n".join(map(_annotation, problems))


def _block(problem: Problem, line_of: Callable[[Place], str | None]) -> list[str]:
    line = None if problem.path.startswith("endpoint") else line_of(problem.place)
    if not line or not line.strip() or _SECRET.search(line):
        return [escape(str(problem))]
    start = max(0, problem.place.column - 1 - _BEFORE)
    shown = line[start : start + _WINDOW]
    before = shown[: problem.place.column - 1 - start]
    return [escape(str(problem)), _INDENT + _visible(shown), _INDENT + " " * width(_visible(before)) + "^"]


def _visible(line: str) -> str:
    return escape(line.replace("\t", " "))


def _annotation(problem: Problem) -> str:
    place = problem.place
    title = f",title={_property(problem.path)}" if problem.path else ""
    where = f"file={_property(place.file)},line={place.line},col={place.column}"
    return f"::error {where}{title}::{_data(problem.message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
