"""Clones that processes die of: counted over all processes, then run alone at the end, then set aside.

A process that is killed dies with every Clone in flight, and only one that comes up again and again is suspect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.model import Record, State

if TYPE_CHECKING:
    from batch.engine.ports import Clock, Journal
    from batch.engine.survey import Past
    from batch.model import Clone, Intent

SET_ASIDE: Final = "ZCLONE.QUARANTINED"
"""Error code of an uncertain Clone that no run asks about until the operator says so."""
_MOST_DEATHS: Final = 3
"""With more of them a Clone goes alone; with one more than that it died alone."""


@dataclass(frozen=True, slots=True)
class Triage:
    """The open Clones of a run, by how many processes died with them."""

    ordinary: tuple[Clone, ...]
    suspect: tuple[Clone, ...]
    """Run alone, after everything else."""
    deadly: tuple[tuple[Clone, Intent], ...]
    """To be set aside."""


def triage(opened: tuple[Clone, ...], past: Past) -> Triage:
    """Sort them; those that were set aside before are left out."""
    intents = past.intents
    ordinary, suspect, deadly = [], [], []
    for clone in opened:
        intent = intents[clone.key]
        # What is planned again was taken back by a process that lived.
        deaths = 0 if intent.state is State.PLANNED else intent.deaths + past.is_cut_off
        if deaths > _MOST_DEATHS + 1:
            deadly.append((clone, intent))
        elif deaths > _MOST_DEATHS:
            suspect.append(clone)
        elif intent.error_code != SET_ASIDE:
            ordinary.append(clone)
    return Triage(tuple(ordinary), tuple(suspect), tuple(deadly))


def set_aside(found: Triage, journal: Journal, clock: Clock) -> None:
    """Record the deadly as uncertain, with what the operator can do."""
    for clone, intent in found.deadly:
        text = (
            f"{_MOST_DEATHS + 2} processes died while it was in flight, the last one with nothing else in flight: "
            f"set aside; look for {clone.resource_uuid} on the server, then: zclone retry --state uncertain"
        )
        journal.note(Record(State.UNCERTAIN, clone.key, clock.time(), intent.attempt, error_code=SET_ASIDE, error=text))
