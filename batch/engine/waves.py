"""Waves: the queue cut into parts that follow each other; waiting targets stay in the one shared iterator.

Whether a wave may start depends on all targets that settled so far, so that a resumed run need not know which target
was in which wave.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch.model import Wave

_Item = TypeVar("_Item")


def wave_sizes(waves: Sequence[Wave], targets: int) -> tuple[int, ...]:
    """Return how many of the plan's ``targets`` each wave has; the rest forms the last one.

    Shares are rounded up. Waves beyond the last target are omitted; at least one is returned, however small the plan.
    """
    found, left = [], targets
    for wave in waves:
        size = min(left, wave.count or ceil(wave.share * targets))
        if size:
            found.append(size)
        left -= size
    return (*found, left) if left or not found else tuple(found)


def take_first(queue: Iterator[_Item | None], count: int) -> Iterator[_Item | None]:
    """Yield the next ``count`` items of ``queue`` and the None placeholders between them, and take no more from it."""
    while count:
        try:
            item = next(queue)
        except StopIteration:
            return
        count -= item is not None
        yield item
