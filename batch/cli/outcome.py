"""How a run ended: the plan's targets counted from the manifest, told in a few lines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from batch.manifest import summary
from batch.model import State
from batch.report import ending_lines

if TYPE_CHECKING:
    from pathlib import Path

    from batch.manifest import Past
    from batch.model import Plan

_CLUSTERED: Final = {State.FAILED, State.CONFLICT, State.UNCERTAIN}


def tally(plan: Plan, past: Past) -> Counter[State]:
    """Count the plan's targets by state; targets that left the job file do not count."""
    counts = Counter(past.counts)
    if counts.total() == plan.count and not counts[State.PLANNED]:
        return counts
    open_states = {key: intent.state for key, intent in past.intents.items()}
    states: Counter[State] = Counter()
    for clone in plan.clones():
        final = past.final(clone.key)
        states[open_states.get(clone.key, State.PLANNED) if final is None else final[0]] += 1
    return states


def ending(path: Path, states: Counter[State], *, again: str) -> str:
    """Tell what the run came to, failures by kind, and the command to run next."""
    clusters = summary(path).clusters if states.keys() & _CLUSTERED else ()
    return "\n".join(ending_lines(states, clusters, manifest=str(path), again=again))
