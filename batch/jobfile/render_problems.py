"""Problems as text: compiler style with the source line and a caret, or annotations for GitHub."""

from __future__ import annotations

import itertools
import re
import unicodedata
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.jobfile.inputs import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batch.model import Place, Problem

_WINDOW: Final = 100
_BEFORE: Final = 60
_SECRET: Final = re.compile("password|secret|session|token|access_key", re.IGNORECASE)
_INDENT: Final = "    "
_MAX_SHOWN_LINE: Final = 1 << 16


def source_line(place: Place) -> str | None:
    """Read the line of ``place`` from its file; None where that is not possible."""
    try:
        with TextIOWrapper(open_regular(Path(place.file)), encoding="utf-8", errors="replace", newline="\n") as stream:
            line = next(itertools.islice(stream, place.line - 1, None), None)
    except OSError:
        return None
    return None if line is None else line[:_MAX_SHOWN_LINE].rstrip("\r\n")


def as_text(problems: Iterable[Problem], line_of: Callable[[Place], str | None]) -> str:
    """Return one block a problem: ``file:line:column: path: message``, then the line and a caret below its column.

    Lines of ``endpoint`` and those that speak of secrets are not shown: what is written there by mistake stays there.
    """
    return "\n".join(itertools.chain.from_iterable(_block(problem, line_of) for problem in problems))


def as_github(problems: Iterable[Problem]) -> str:
    """Return workflow commands that GitHub shows as annotations of the files."""
    return "\n".join(map(_annotation, problems))


def _block(problem: Problem, line_of: Callable[[Place], str | None]) -> list[str]:
    line = None if problem.path.startswith("endpoint") else line_of(problem.place)
    if not line or not line.strip() or _SECRET.search(line):
        return [str(problem)]
    start = max(0, problem.place.column - 1 - _BEFORE)
    shown = line[start : start + _WINDOW]
    before = shown[: problem.place.column - 1 - start]
    return [str(problem), _INDENT + "".join(map(_visible, shown)), _INDENT + " " * sum(map(_width, before)) + "^"]


def _visible(char: str) -> str:
    return " " if char == "\t" else char if char.isprintable() else "\N{REPLACEMENT CHARACTER}"


def _width(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 0 if unicodedata.combining(char) else 1


def _annotation(problem: Problem) -> str:
    place = problem.place
    title = f",title={_property(problem.path)}" if problem.path else ""
    where = f"file={_property(place.file)},line={place.line},col={place.column}"
    return f"::error {where}{title}::{_data(problem.message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
