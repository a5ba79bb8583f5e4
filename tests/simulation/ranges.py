"""Which seeds to run: ranges cut into chunks, and the list of those that failed before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulation.schedule import Verdict

DEFAULT_SCHEDULES: Final = 400
"""Enough for a check of everything; CI's proof continues with the seeds that follow."""
CHUNK: Final = 100
_RECORD: Final = Path(__file__).with_name("seeds.txt")


def chunks(first: int, count: int, size: int) -> Iterator[range]:
    """Cut ``count`` seeds from ``first`` on into ranges of ``size``."""
    for start in range(first, first + count, size):
        yield range(start, min(start + size, first + count))


def seeds_on_record() -> list[int]:
    """Return the seeds that failed before, without repetition."""
    lines = _RECORD.read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(int(line.split()[0]) for line in lines if line and not line.startswith("#")))


def put_on_record(verdict: Verdict) -> None:
    """Append a failing seed, once."""
    if verdict.seed not in seeds_on_record():
        with _RECORD.open("a", encoding="utf-8") as record:
            record.write(f"{verdict.seed} {verdict.problems[0]}\n")


def describe(verdict: Verdict, *, kind: str = "random") -> str:
    """Return a report of a failing schedule, with the command to repeat it."""
    again = f"python -m tests.simulation --kind '{kind}' --processes 1 --schedules 1 --seed {verdict.seed}"
    return "\n".join((f"seed {verdict.seed}:", *verdict.problems, f"again: {again}", *verdict.trace[-40:]))
