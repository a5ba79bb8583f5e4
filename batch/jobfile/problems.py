"""Collects all problems of a job file, with their places, before any is reported."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from batch.errors import JobFileError
from batch.jobfile.values import YamlNode, find_place
from batch.model import Place, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from batch.model import JsonValue

MAX_SHOWN: Final = 100
"""Number of problems that are shown; the rest is counted."""
MAX_KEPT: Final = 10 * MAX_SHOWN
"""Number of problems that are compared, placed and explained, so that a file full of them costs no more."""

_LONGEST_NAME: Final = 64
_WIDE: Final = re.compile("[\U00010000-\U0010ffff]")
_NOISE: Final = re.compile(r"[\s_-]+")
_VALUE: Final = re.compile(r"""'[^']*'|"[^"]*"|\d+""")
_PREFIX: Final = re.compile(r"^param(?:eter)?s?[\s._-]+")


_Found = TypeVar("_Found")


class Complaint(NamedTuple):
    """A problem before its place is known: checks create it, the source of the value places it."""

    path: str
    message: str
    at_key: bool = False
    """Whether the problem concerns the key and not its value."""
    column: int = 0
    """Column in its line, where the check knows it; counts from 1, 0 where it does not."""
    kind: str = ""
    """As ``Problem.kind``."""


class NodeOrigin(NamedTuple):
    """Place of a layer in a YAML file."""

    file: str
    node: YamlNode
    path: str

    @property
    def place(self) -> Place:
        """Place where it begins."""
        return Place(self.file, self.node.line, self.node.column)

    def problem(self, complaint: Complaint) -> Problem:
        """Place ``complaint`` at its value, or its key."""
        line, column = find_place(self.node, complaint.path, at_key=complaint.at_key)
        path = ".".join(part for part in (self.path, complaint.path) if part)
        return Problem(Place(self.file, line, column), path, complaint.message, complaint.kind)


class RowOrigin(NamedTuple):
    """Place of a row in a JSON Lines or CSV file."""

    file: str
    line: int
    text: str
    """The JSON text; empty for CSV, whose rows are placed at their first column."""

    @property
    def place(self) -> Place:
        """Place where it begins."""
        return Place(self.file, self.line, 1)

    def problem(self, complaint: Complaint) -> Problem:
        """Place ``complaint`` at the innermost key of its path that occurs in the row."""
        steps = complaint.path.replace("[", ".").replace("]", "").split(".")
        offsets = (self.text.find(f'"{step}"') for step in reversed(steps))
        column = complaint.column or next((offset for offset in offsets if offset >= 0), 0) + 1
        kind = complaint.kind or f"{self.file}: {kind_of(complaint)}"
        return Problem(Place(self.file, self.line, column), complaint.path, complaint.message, kind)


def kind_of(complaint: Complaint) -> str:
    """Return what the same problem in other rows has in common with ``complaint``: all but the values."""
    return f"{complaint.path}: {_VALUE.sub('…', complaint.message)}"


class _Kind:
    """Problems of one kind."""

    def __init__(self, first: Problem) -> None:
        self._first = self._last = first
        self.count = 1

    def add(self, problem: Problem) -> None:
        if problem != self._last:
            self._last = problem
            self.count += 1

    def problem(self) -> Problem:
        """Return the first, with the number of all."""
        what = "rows" if self._first.kind.startswith(self._first.place.file) else "targets"
        times = "" if self.count == 1 else f" (in {self.count:,} {what})"
        return replace(self._first, message=self._first.message + times)


class Problems:
    """Problems in any order, each once, those of one kind as one; memory is limited however many there are."""

    def __init__(self) -> None:
        """Start with none."""
        self._seen: set[Problem] = set()
        self._kinds: dict[str, _Kind] = {}
        self._more = 0
        self._warnings: dict[Problem, None] = {}
        self._more_warnings = 0

    def __len__(self) -> int:
        return len(self._seen) + sum(kind.count for kind in self._kinds.values()) + self._more

    def add(self, problem: Problem) -> None:
        """Add ``problem``, or count it where there are too many to compare."""
        known = self._kinds.get(problem.kind)
        if known is not None:
            known.add(problem)
        elif len(self._seen) + len(self._kinds) < MAX_KEPT:
            if problem.kind:
                self._kinds[problem.kind] = _Kind(problem)
            else:
                self._seen.add(problem)
        elif problem not in self._seen:
            self._more += 1

    def extend(self, problems: Iterable[Problem]) -> None:
        """Add each of ``problems``."""
        for problem in problems:
            self.add(problem)

    def place(self, complaints: Sequence[_Found], origin: Callable[[_Found], Problem]) -> None:
        """Add each of ``complaints`` at the place that ``origin`` gives; those beyond the limit are only counted."""
        room = max(MAX_KEPT - len(self._seen) - len(self._kinds), 0)
        self.extend(map(origin, complaints[:room]))
        self._more += len(complaints[room:])

    def warn(self, problem: Problem) -> None:
        """Add ``problem`` to the warnings, once; count it where there are too many to show."""
        if len(self._warnings) < MAX_SHOWN:
            self._warnings[problem] = None
        elif problem not in self._warnings:
            self._more_warnings += 1

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Warnings, which are reported and not fatal: the first hundred in the order of reading."""
        shown = tuple(self._warnings)
        if not self._more_warnings:
            return shown
        return (*shown, Problem(shown[-1].place, "", f"warning: … and {self._more_warnings} more"))

    def raise_any(self) -> None:
        """Raise JobFileError with the first hundred in the order of places; return where there are none."""
        problems = sorted([*self._seen, *(kind.problem() for kind in self._kinds.values())])
        if not problems:
            return
        shown = problems[:MAX_SHOWN]
        rest = len(problems) - len(shown) + self._more
        if rest:
            shown.append(Problem(shown[-1].place, "", f"… and {rest} more"))
        raise JobFileError(shown) from None


def fail(file: str, message: str, *, at: tuple[int, int] = (1, 1)) -> JobFileError:
    """Return the error for a file that can no longer be read, ``at`` line and column."""
    return JobFileError([Problem(Place(file, *at), "", message)])


def fold(name: str) -> str:
    """Return ``name`` normalised to find near misses: case, ``_``, ``-``, spaces, plural, ``params.`` prefix."""
    return _NOISE.sub("", _PREFIX.sub("", name.strip().casefold())).removesuffix("s")


def unknown(name: str, known: Iterable[str], *, what: str = "key") -> str:
    """Return the message that ``name`` is not one of ``known``, with the likely intended one."""
    names = list(known)
    folded = {fold(known_name): known_name for known_name in names}
    near = difflib.get_close_matches(fold(name[:_LONGEST_NAME]), folded, n=1, cutoff=0.6)
    # A part of a name, such as cpu for requestCpu, is not a close match of it.
    near = near or [text for text in folded if text.endswith(fold(name))] if len(fold(name)) > 2 else near
    hint = (
        f"; did you mean {folded[near[0]]}?" if near else f"; known are {', '.join(names)}" if len(names) < 12 else ""
    )
    return f"unknown {what} {quote(name)}{hint}"


def complain_of_unknown(
    names: Iterable[str], known: Collection[str], complaints: list[Complaint], *, path: str = ""
) -> None:
    """Complain of each of ``names`` that is not ``known``; only the first ones, which may be shown, get a hint."""
    for name in names:
        if name not in known:
            message = unknown(name, known) if len(complaints) < MAX_KEPT else "unknown key"
            complaints.append(Complaint(f"{path}{name}", message, at_key=True))


def wide_characters(path: str, value: JsonValue) -> Iterator[Complaint]:
    """Yield a warning for each text in ``value`` with a character that tables of three-byte UTF-8 cannot hold."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from wide_characters(path, name)
            yield from wide_characters(f"{path}.{name}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from wide_characters(f"{path}[{index}]", inner)
    elif isinstance(value, str) and (match := _WIDE.search(value)):
        message = f"has a character above U+FFFF at position {match.start()}: many ZStack databases refuse it"
        yield Complaint(path, f"warning: {message}")


def quote(value: object) -> str:
    """Quote a value from a file for a message: escaped, at most 60 characters."""
    if value is None:
        return "null"
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else text[:57] + "…" + text[-1:]
