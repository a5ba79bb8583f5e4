"""How a run ended: the plan's targets counted from the manifest, told in a few lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from batch.engine.handover import handed
from batch.manifest import summary
from batch.model import Handed, State
from batch.report import ending_lines, exit_code

if TYPE_CHECKING:
    from pathlib import Path

    from batch.errors import ExitCode
    from batch.manifest import Past
    from batch.model import Plan

_CLUSTERED: Final = {State.FAILED, State.CONFLICT, State.UNCERTAIN}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    states: Counter[State]
    """The plan's targets by state."""
    handed: Handed = field(default_factory=Handed)

    @property
    def exit_code(self) -> ExitCode:
        """What the process ends with."""
        return exit_code(self.states, self.handed)


def outcome(plan: Plan, past: Past) -> Outcome:
    """Tell what the manifest says of the plan."""
    return Outcome(tally(plan, past), handed(plan, past))


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


def ending(path: Path, found: Outcome, *, again: str) -> str:
    """Tell what the run came to, failures by kind, and the command to run next."""
    clusters = summary(path).clusters if found.states.keys() & _CLUSTERED or found.handed.refused else ()
    return "\n".join(ending_lines(found.states, clusters, manifest=str(path), again=again, handed=found.handed))
