"""Everything wrong with a job file, gathered before anything is said."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.errors import JobFileError
from batch.model import Place, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

SHOWN: Final = 100
"""How many problems are spelt out; the rest is counted."""


class Complaint(NamedTuple):
    """A problem before its place is known: checks make them, the source of the value places them."""

    path: str
    message: str
    at_key: bool = False
    """Whether the key is wrong and not its value."""
    column: int = 0
    """Where in its line, when the check knows it; counts from 1, 0 when it does not."""


class Problems:
    """Problems in any order, each once; memory stays bounded however many there are."""

    def __init__(self) -> None:
        """Start with none."""
        self._seen: set[Problem] = set()
        self._more = 0
        self.warnings: tuple[Problem, ...] = ()
        """What is worth a word and no reason to stop."""

    def __len__(self) -> int:
        return len(self._seen) + self._more

    def add(self, problem: Problem) -> None:
        """Keep ``problem``, or count it where there are too many to tell them apart."""
        if len(self._seen) < 10 * SHOWN:
            self._seen.add(problem)
        elif problem not in self._seen:
            self._more += 1

    def extend(self, problems: Iterable[Problem]) -> None:
        """Keep each of ``problems``."""
        for problem in problems:
            self.add(problem)

    def warn(self, problem: Problem) -> None:
        """Keep ``problem`` among the warnings."""
        self.warnings += (problem,)

    def raise_any(self) -> None:
        """Raise JobFileError with the first hundred in order of place; return when there are none."""
        if not self._seen:
            return
        shown = sorted(self._seen)[:SHOWN]
        rest = len(self) - len(shown)
        if rest:
            shown.append(Problem(shown[-1].place, "", f"… and {rest} more"))
        raise JobFileError(shown) from None


def fail(file: str, message: str, *, at: tuple[int, int] = (1, 1)) -> JobFileError:
    """Make the error for a file that cannot be read on, ``at`` line and column; the caller raises it."""
    return JobFileError([Problem(Place(file, *at), "", message)])


def unknown(name: str, known: Iterable[str], *, what: str = "key") -> str:
    """Say that ``name`` is not one of ``known`` and which one was probably meant."""
    names = list(known)
    folded = {known_name.casefold(): known_name for known_name in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    hint = (
        f"; did you mean {folded[near[0]]}?" if near else f"; known are {', '.join(names)}" if len(names) < 12 else ""
    )
    return f"unknown {what} {shorten(name)}{hint}"


def shorten(value: object) -> str:
    """Quote a value from a file for a message: escaped, at most 60 characters."""
    if value is None:
        return "null"
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else text[:57] + "…" + text[-1:]
