"""A part of a plan: the Clones that a filter keeps, as a Plan of their own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch.model import Clone, Plan

_DIGITS: Final = 32


def select(plan: Plan, keep: Callable[[Clone], bool], *, label: str) -> Plan:
    """Return the Clones of ``plan`` that ``keep`` is true of, counted by one walk; ``label`` names the filter.

    Uuids are those of the whole plan. Its digest is another one, and it claims no input files, so that the whole
    plan is never taken for checked because a part of it was.
    """

    def clones() -> Iterator[Clone]:
        return filter(keep, plan.clones())

    digest = hashlib.sha256(f"{plan.digest}\n{label}".encode()).hexdigest()[:_DIGITS]
    count, hand_overs = 0, 0
    for clone in clones():
        count += 1
        hand_overs += clone.hand_over is not None
    return replace(plan, digest=digest, count=count, clones=clones, inputs="", hand_overs=hand_overs, listed=None)
