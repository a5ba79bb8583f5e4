"""The result of a run: the plan's targets counted from the manifest, and its summary as text."""

from __future__ import annotations

import shlex
import sys
import textwrap
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.app.messages import is_terminal, terminal_width
from batch.app.options import LogFormat
from batch.engine.control import GRACE
from batch.engine.survey import count_hand_overs
from batch.errors import HELD_BACK, EndReason, JobFileError, RunStoppedError, UnreachableError
from batch.manifest import summary
from batch.model import QUARANTINED, HandOverCounts, State, waits_for_operator
from batch.report.figures import REFUSED, command_for, exit_code, retry_command
from batch.report.status import ending_lines
from batch.text import duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from batch.app.prepare import Setup
    from batch.errors import ExitCode
    from batch.manifest import Manifest, ManifestFold, Summary
    from batch.model import Plan

_STDERR: Final = 2
_CLUSTERED: Final = {State.FAILED, State.CONFLICT, State.UNCERTAIN}


class EarlyEnd(NamedTuple):
    """Why a run ended before everything was tried: a text, and a reason code if there is one."""

    text: str | None = None
    reason: EndReason | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a run."""

    states: Counter[State]
    """Number of the plan's targets by state."""
    hand_overs: HandOverCounts = field(default_factory=HandOverCounts)
    early: EarlyEnd = field(default_factory=EarlyEnd)
    overdue: int = 0
    """Number of uncertain targets that no rerun can settle."""
    made: int = 0
    """Number of clones made by this process."""

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the process."""
        return exit_code(self.states, self.hand_overs, self.early.reason, overdue=self.overdue)


def read_result(plan: Plan, past: ManifestFold, early: EarlyEnd, *, is_part: bool) -> RunResult:
    """Return the result of a run from its plan and manifest.

    ``is_part``: whether ``--only`` reduced the plan; for a whole plan every recorded target counts.
    """
    states, overdue = tally(plan, past, now=time.time(), is_refused=early.reason in REFUSED, is_part=is_part)
    return RunResult(states, count_hand_overs(plan, past), early, overdue)


def tally(
    plan: Plan, past: ManifestFold, *, now: float, is_refused: bool = False, is_part: bool = False
) -> tuple[Counter[State], int]:
    """Return the number of targets by state, and of those that no rerun settles; of a part only its own targets.

    Targets that are not on record count as planned. ``now``: seconds since the epoch; ``is_refused``: whether the
    server refused every request.
    """
    waiting = {key for key, one in past.intents.items() if waits_for_operator(one, now, is_refused=is_refused)}
    if not is_part:
        counts = Counter(past.counts)
        if past.plan is None or past.plan.digest != plan.digest or past.is_repaired:
            counts[State.PLANNED] += sum(not past.is_planned(key) for key, _ in plan.listing())
        return +counts, len(waiting)
    open_states = {key: intent.state for key, intent in past.intents.items()}
    states, overdue = Counter[State](), 0
    for clone in plan.clones():
        final = past.final(clone.key)
        states[open_states.get(clone.key, State.PLANNED) if final is None else final[0]] += 1
        overdue += clone.key in waiting
    return states, overdue


def summary_text(setup: Setup, result: RunResult) -> str:
    """Return the summary: counts, failures by kind, and the next command."""
    path, only = setup.path, setup.options.only
    # The command as typed, with --run if it would name another run later.
    arguments = [one for one in sys.argv[1:] if one != "--new-run" or not setup.run_flag]
    reason = result.early.reason
    is_needed = result.states.keys() & _CLUSTERED or result.hand_overs.refused or reason in HELD_BACK
    seen = summary(path) if is_needed else None
    part = "".join(f" --only {shlex.quote(expression)}" for expression in only)
    return "\n".join(
        ending_lines(
            result.states,
            () if seen is None else seen.clusters,
            manifest=str(path),
            command=shlex.join(["zclone", *arguments, *setup.run_flag]),
            retry="" if seen is None else _retry(seen, path, result.states) + part,
            hand_overs=result.hand_overs,
            reason=reason,
            overdue=result.overdue,
            language=setup.language,
        )
    )


def _retry(summary: Summary, path: Path, states: Mapping[State, int]) -> str:
    """Return the command that retries failed, conflicting or quarantined targets."""
    is_set_aside = any(cluster.code == QUARANTINED for cluster in summary.clusters)
    if is_set_aside and not (states.get(State.FAILED) or states.get(State.CONFLICT)):
        return command_for(summary.header, path, State.UNCERTAIN, QUARANTINED, shard=summary.shard)
    return retry_command(summary.header, path, states, shard=summary.shard)


@contextmanager
def unfinished_once_sent(manifest: Manifest) -> Iterator[None]:
    """Turn UnreachableError into an unfinished run if anything was sent, as exit code 5 means that nothing was.

    A run that an earlier process started on Temporal may have sent requests whose lines are not copied yet.
    """
    was_remote = manifest.past.remote is not None
    try:
        yield
    except UnreachableError as error:
        if not (manifest.past.was_sent or was_remote):
            raise
        raise RunStoppedError(str(error), error.reason) from None


@contextmanager
def unfinished_by_inputs() -> Iterator[None]:
    """Turn JobFileError for inputs changed during the run into an unfinished run, as exit code 2 means nothing sent."""
    try:
        yield
    except JobFileError as changed:
        raise RunStoppedError(str(changed), EndReason.CHANGED_INPUT) from None


def stop_text(setup: Setup, signal: str, counts: Mapping[State, int], *, is_local: bool) -> str:
    """Return the message for the first signal: what happens now, and how to exit at once.

    ``counts``: targets by state. On a terminal it begins with a line break, because the terminal echoes ``^C``.
    """
    in_flight = counts.get(State.SENT, 0) + counts.get(State.ACCEPTED, 0)
    if not is_local:
        action = "Leaving: the run continues on Temporal."
    elif in_flight:
        action = f"Stopping: waiting up to {GRACE:.0f} s for {in_flight} clone{'' if in_flight == 1 else 's'}."
    else:
        action = "Stopping: no clone is in flight."
    is_shown = is_terminal(_STDERR) and setup.options.log_format is not LogFormat.JSON
    if signal != "SIGINT":
        text = f"{action} ({signal}; a second signal leaves now.)"
        return wrap(text) if is_shown else text
    text = f"{action} Ctrl-C again to leave now."
    return "\n" + wrap(text) if is_shown else text


def wrap(text: str) -> str:
    """Break ``text`` between words into lines that fit the terminal of stderr, which would break within them."""
    columns = terminal_width(_STDERR)
    return textwrap.fill(text, columns, break_on_hyphens=False) if columns else text


def success_text(setup: Setup, result: RunResult, *, seconds: float) -> str:
    """Return the last line of a successful run: duration, rate, manifest and report."""
    files = [f"manifest {setup.path}"]
    files += [f"report {setup.options.report}"] if setup.options.report is not None else []
    if not result.made:
        return f"nothing was left to do; {', '.join(files)}"
    return f"took {duration(seconds)}, {result.made / max(seconds, 0.001):.3g} clones/s; {', '.join(files)}"
