"""``zclone status`` and the summary at a run's end: counts, pace, failures by kind, and the command to run next."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from batch.errors import ExitCode
from batch.model import Handed, State
from batch.report.exits import UNFINISHED, exit_code
from batch.report.failures import command_for
from batch.report.text import clean, duration, iso

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from batch.manifest import Cluster, Summary

_NONE: Final = Handed()
_MOST_CLUSTERS: Final = 10
_LONGEST_ERROR: Final = 300


def status_lines(summary: Summary, *, manifest: Path, is_held: bool, now: float) -> list[str]:
    """Return what ``zclone status`` prints.

    ``is_held``: whether a process has the manifest's lock. ``now``: seconds since the epoch, for the time left.
    """
    is_running = summary.ended is None and is_held
    header = summary.header
    rehearsal = " (rehearsal on the embedded node)" if header.simulated else ""
    lines = [
        f"job       {clean(header.job)}, run {clean(header.run)}",
        f"endpoint  {clean(header.endpoint)}{rehearsal}",
        f"process   {_process(summary, is_running=is_running)}",
        *_warnings(summary),
        f"targets   {summary.counts.total()}",
        *count_lines(summary.counts),
        *_handed(summary.handed),
    ]
    if is_running:
        lines += _pace(summary, now)
    lines += cluster_lines(summary.clusters)
    if not is_running and exit_code(summary.counts, summary.handed) is ExitCode.UNFINISHED:
        lines.append(f"go on     {clean(command_for(summary.header, manifest, State.PLANNED))}")
    return lines


def count_lines(counts: Mapping[State, int]) -> list[str]:
    """Return one line a state that has targets, in the order of the protocol."""
    return [f"  {state.value:<10}{counts[state]:>9}" for state in State if counts.get(state)]


def _handed(handed: Handed) -> Iterator[str]:
    told = handed_text(handed)
    if told:
        yield f"handed    {told}"


def handed_text(handed: Handed) -> str:
    """Say how many of the clones that are to be handed over are; empty where none is to be."""
    total = handed.done + handed.open + handed.refused
    refused = f", {handed.refused} refused" if handed.refused else ""
    return f"{handed.done} of {total} clones handed over{refused}" if total else ""


def _process(summary: Summary, *, is_running: bool) -> str:
    started, ended = summary.started, summary.ended
    if started is None:
        return "none has recorded anything yet"
    if ended is None:
        who = f"since {iso(started.at)}, process {started.pid} on {clean(started.host)}"
        return f"running {who}" if is_running else f"killed: none holds the manifest; it had run {who}"
    reason = f" ({clean(ended.reason)})" if ended.reason else ""
    return f"ended {iso(ended.at)} with exit code {ended.exit_code}{reason}"


def _warnings(summary: Summary) -> Iterator[str]:
    for warning in summary.started.warnings if summary.started is not None else ():
        yield f"warning   {clean(warning)}"


def _pace(summary: Summary, now: float) -> Iterator[str]:
    times = summary.settled_at
    if len(times) < 2 or max(times[-1], now) <= times[0]:
        return
    rate = (len(times) - 1) / (max(times[-1], now) - times[0])
    left = sum(summary.counts.get(state, 0) for state in UNFINISHED)
    yield f"pace      {rate:.3g} clones/s, about {duration(left / rate)} left"


def cluster_lines(clusters: Sequence[Cluster]) -> list[str]:
    """Return the largest groups of targets that ended alike, with an example of each."""
    lines = [_cluster(cluster) for cluster in clusters[:_MOST_CLUSTERS]]
    more = len(clusters) - _MOST_CLUSTERS
    return lines if more <= 0 else [*lines, f"  … and {more} more kinds"]


def _cluster(cluster: Cluster) -> str:
    error = clean(cluster.error)
    error = error if len(error) <= _LONGEST_ERROR else error[:_LONGEST_ERROR] + "…"
    code = clean(cluster.code) or "no code"
    example = f" (such as {clean(cluster.key)})" if cluster.key else ""
    return f"  {cluster.count} {cluster.state.value} with {code}: {error}{example}"


def ending_lines(
    counts: Counter[State], clusters: Sequence[Cluster], *, manifest: str, again: str, handed: Handed = _NONE
) -> list[str]:
    """Return the text at a run's end. ``manifest``: its path; ``again``: the run's own command, as typed."""
    cloned, total = counts.get(State.CLONED, 0), counts.total()
    head = f"{cloned} of {total} targets cloned"
    rest = ", ".join(f"{counts[state]} {state.value}" for state in State if counts.get(state) and state != State.CLONED)
    lines = ["; ".join(filter(None, (head, rest, handed_text(handed)))), *cluster_lines(clusters)]
    match exit_code(counts, handed):
        case ExitCode.UNFINISHED:
            lines.append(f"unfinished: run the same command again: {clean(again)}")
        case ExitCode.FAILED:
            kinds = (state for state in (State.FAILED, State.CONFLICT, State.UNDONE) if counts.get(state))
            lines += [f"see which: zclone list {clean(manifest)} --state {kind.value}" for kind in islice(kinds, 1)]
            if handed.refused:
                lines.append(f"to hand over the rest, mend what was refused and run again: {clean(again)}")
        case _:
            pass
    return lines
