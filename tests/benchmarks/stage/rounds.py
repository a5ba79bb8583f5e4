"""Rounds in which contenders take turns, so that a noisy machine is noisy for all, and tables of their medians."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_Result = TypeVar("_Result")


def interleaved(contenders: Mapping[str, Callable[[], _Result]], rounds: int) -> dict[str, list[_Result]]:
    """Let the contenders run one after the other, ``rounds`` times: A B A B."""
    results: dict[str, list[_Result]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            results[name].append(contender())
    return results


def middle(results: Iterable[_Result], of: Callable[[_Result], float]) -> float:
    """Return the median of one figure over the rounds."""
    return median(map(of, results))


def ratio(ours: Sequence[_Result], theirs: Sequence[_Result], of: Callable[[_Result], float]) -> float:
    """Return the median of the ratios within each round."""
    return median(of(one) / of(other) for one, other in zip(ours, theirs, strict=True))


def share(values: Sequence[float], part: float) -> float:
    """Return the value below which ``part`` of the sorted ``values`` lie; 0 where there are none."""
    return values[min(len(values) - 1, int(len(values) * part))] if values else 0.0


class Table:
    """A table whose rows are printed as they come."""

    def __init__(self, title: str, *columns: str) -> None:
        self._widths = [max(9, len(column) + 1) for column in columns[1:]]
        print(f"\n{title}\n{columns[0]:34}" + self._line(columns[1:]), flush=True)

    def row(self, name: str, *cells: object) -> None:
        """Print one row; numbers get three significant digits."""
        print(f"{name:34}" + self._line([_cell(cell) for cell in cells]), flush=True)

    def _line(self, cells: Sequence[str]) -> str:
        return "".join(f"{cell:>{width}}" for cell, width in zip(cells, self._widths, strict=True))


def _cell(cell: object) -> str:
    if not isinstance(cell, float):
        return "–" if cell is None else str(cell)
    return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
