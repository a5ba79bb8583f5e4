"""Waves: the queue cut into parts that follow each other; waiting targets stay in the one shared iterator.

A wave is judged by all targets that settled so far, not by its own: a resumed run needs to know no places.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch.model import Wave

_Item = TypeVar("_Item")


def wave_sizes(waves: Sequence[Wave], targets: int) -> tuple[int, ...]:
    """Return how many of the plan's ``targets`` go in each wave; what is left over is the last one.

    Shares are rounded up. Waves beyond the last target are left out; at least one is left, however small the plan.
    """
    found, left = [], targets
    for wave in waves:
        size = min(left, wave.count or ceil(wave.share * targets))
        if size:
            found.append(size)
        left -= size
    return (*found, left) if left or not found else tuple(found)


def take_first(queue: Iterator[_Item | None], count: int) -> Iterator[_Item | None]:
    """Yield the next ``count`` items of ``queue``, and what stands for none between them, and take no more from it."""
    while count:
        try:
            item = next(queue)
        except StopIteration:
            return
        count -= item is not None
        yield item
