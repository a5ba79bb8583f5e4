"""The quarantine: Clones that were in flight in several killed processes run alone at the end, then are set aside.

A killed process dies with every Clone in flight, so that one death says nothing about any of them. A start without an
end is a death; the next process records which targets it continues (``taken_up``). After more than three deaths a
target runs alone and last; after one more it is uncertain with ZCLONE.QUARANTINED until ``zclone retry --state
uncertain``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.model import QUARANTINED, Record, State

if TYPE_CHECKING:
    from batch.clock import Clock
    from batch.engine.ports import Journal
    from batch.engine.survey import RunHistory
    from batch.model import Clone, Intent

_MOST_DEATHS: Final = 3
"""Deaths above which a Clone runs alone; with one more than that it died alone."""


@dataclass(frozen=True, slots=True)
class OpenClones:
    """The open Clones of a run, by the number of processes that died with them."""

    ordinary: tuple[Clone, ...]
    isolated: tuple[Clone, ...]
    """Run alone, after everything else."""
    quarantined: tuple[tuple[Clone, Intent], ...]
    """To be set aside."""


def sort_by_deaths(opened: tuple[Clone, ...], past: RunHistory) -> OpenClones:
    """Group the open Clones by deaths; those that were set aside before are left out."""
    intents = past.intents
    ordinary, isolated, quarantined = [], [], []
    for clone in opened:
        intent = intents[clone.key]
        # Planned again: a living process withdrew the attempt.
        deaths = 0 if intent.state is State.PLANNED else intent.deaths + past.is_cut_off
        if deaths > _MOST_DEATHS + 1:
            quarantined.append((clone, intent))
        elif deaths > _MOST_DEATHS:
            isolated.append(clone)
        elif intent.error_code != QUARANTINED:
            ordinary.append(clone)
    return OpenClones(tuple(ordinary), tuple(isolated), tuple(quarantined))


def quarantine(found: OpenClones, journal: Journal, clock: Clock) -> None:
    """Record the quarantined Clones as uncertain, with the next step for the operator."""
    for clone, intent in found.quarantined:
        text = (
            f"{_MOST_DEATHS + 2} processes died while it was in flight, the last one with nothing else in flight: "
            f"set aside; look for {clone.resource_uuid} on the server, then: zclone retry --state uncertain"
        )
        journal.note(
            Record(State.UNCERTAIN, clone.key, clock.time(), intent.attempt, error_code=QUARANTINED, error=text)
        )
