"""What a run tells at a stop and at a good end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.app.messages import is_terminal
from batch.app.options import LogFormat
from batch.engine.stop import GRACE
from batch.model import State
from batch.report.text import duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.app.outcome import RunResult
    from batch.app.prepare import Setup

_STDERR = 2


def stop_text(setup: Setup, signal: str, counts: Mapping[State, int], *, is_local: bool) -> str:
    """Return what is said at the first signal: what happens now, and how to leave at once.

    ``counts``: the targets by state. On a terminal a new line is begun, since what is typed is shown there.
    """
    in_flight = counts.get(State.SENT, 0) + counts.get(State.ACCEPTED, 0)
    if not is_local:
        action = "Leaving: the run continues on Temporal."
    elif in_flight:
        action = f"Stopping: waiting up to {GRACE:.0f} s for {in_flight} clone{'' if in_flight == 1 else 's'}."
    else:
        action = "Stopping: no clone is in flight."
    if signal != "SIGINT":
        return f"{action} ({signal}; a second signal leaves now.)"
    is_echoed = is_terminal(_STDERR) and setup.options.log_format is not LogFormat.JSON
    return ("\n" if is_echoed else "") + f"{action} Ctrl-C again to leave now."


def success_text(setup: Setup, result: RunResult, *, seconds: float) -> str:
    """Return the last line of a run that cloned all: time, rate, manifest and report."""
    files = [f"manifest {setup.path}"]
    files += [f"report {setup.options.report}"] if setup.options.report is not None else []
    if not result.made:
        return f"nothing was left to do; {', '.join(files)}"
    return f"took {duration(seconds)}, {result.made / max(seconds, 0.001):.3g} clones/s; {', '.join(files)}"
