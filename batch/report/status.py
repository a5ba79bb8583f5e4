"""``zclone status`` and the summary at the end of a run: counts, pace, failures by kind, and the next command."""

from __future__ import annotations

from itertools import islice
from shlex import quote
from typing import TYPE_CHECKING, Final

from batch.errors import HELD_BACK, NOT_OURS, EndReason, ExitCode
from batch.model import QUARANTINED, HandOverCounts, State
from batch.report.figures import NO_RUN, NOT_CLONED, REFUSED, UNFINISHED, command_for, exit_code, retry_command
from batch.text import cut, duration, escape, iso, shell_path
from batch.zstack.classify import with_hint

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from batch.manifest import Cluster, Summary
    from batch.manifest.kinds import ControlledLine
    from batch.zstack.classify import Language

_NONE: Final = HandOverCounts()
_MOST_CLUSTERS: Final = 10
_MOST_UUIDS: Final = 10
_LONGEST_ERROR: Final = 300


def status_lines(
    summary: Summary,
    *,
    manifest: Path,
    is_locked: bool,
    now: float,
    language: Language = "en",
    is_stopping: bool = False,
) -> list[str]:
    """Return the lines of ``zclone status``.

    ``is_locked``: whether a process holds the manifest's lock. ``now``: seconds since the epoch, for the time left.
    ``language``: that of the hints. ``is_stopping``: whether that process has stopped sending.
    """
    is_running = summary.ended is None and is_locked
    header = summary.header
    rehearsal = " (rehearsal on the embedded node)" if header.simulated else ""
    lines = [
        f"job       {escape(header.job)}, run {escape(header.run)}",
        f"endpoint  {escape(header.endpoint)}{rehearsal}",
        f"process   {_process(summary, is_running=is_running, is_stopping=is_stopping)}",
        *_engine(summary),
        *_warnings(summary),
        *_queries(summary.queries),
        f"targets   {_targets(summary)}",
        *count_lines(summary.counts),
        *_hand_over_lines(summary.handed),
        *_deletion_lines(summary.deleting),
    ]
    if is_running:
        lines += _limits(summary.controlled)
        lines += () if is_stopping else _pace(summary, now)
    lines += cluster_lines(summary.clusters, language)
    if not is_running:
        lines += _next_step(summary, manifest, now)
    return lines


def _queries(queries: Mapping[tuple[str, ...], Sequence[str]]) -> Iterator[str]:
    """Yield the results of each ``query:``, which determine the sources."""
    for conditions, uuids in queries.items():
        more = f" and {len(uuids) - _MOST_UUIDS} more" if len(uuids) > _MOST_UUIDS else ""
        shown = ", ".join(map(escape, uuids[:_MOST_UUIDS]))
        yield f"query     {escape(' '.join(conditions))}: {len(uuids)} found: {shown}{more}"


def _targets(summary: Summary) -> str:
    if summary.plan is None and not summary.counts:
        return NO_RUN
    part = f", shard {escape(summary.shard)} only" if summary.shard else ""
    return f"{summary.counts.total() - summary.counts[State.WITHDRAWN]}{part}"


def _next_step(summary: Summary, manifest: Path, now: float) -> Iterator[str]:
    reason = None if summary.ended is None else summary.ended.code
    code = exit_code(summary.counts, summary.handed, reason, overdue=summary.overdue(now, is_refused=reason in REFUSED))
    is_recorded = summary.plan is not None or summary.counts
    # A run clones again what `verify --reopen` recorded; after any other end the operator decides.
    is_reopened = (
        summary.counts[State.UNDONE]
        and not summary.deleting
        and summary.ended
        and summary.ended.exit_code == ExitCode.UNFINISHED
    )
    if code is ExitCode.UNFINISHED or not is_recorded or is_reopened:
        yield f"next      {escape(command_for(summary.header, manifest, State.PLANNED, shard=summary.shard))}"
    elif code is ExitCode.FAILED and reason in HELD_BACK:
        retry = retry_command(summary.header, manifest, summary.counts, shard=summary.shard)
        command = command_for(summary.header, manifest, State.PLANNED, shard=summary.shard)
        yield f"next      {_held_back(reason, retry, summary.counts, str(manifest), command)}"


def _held_back(reason: EndReason | None, retry: str, counts: Mapping[State, int], manifest: str, command: str) -> str:
    if reason is EndReason.WAVE and counts.get(State.UNCERTAIN):
        listing = f"zclone list {shell_path(manifest)} --state uncertain"
        return (
            f"held back by a wave before: look for the uncertain clones ({escape(listing)}), take those targets out of "
            f"the job file, then: {escape(command)}"
        )
    by = "a wave before" if reason is EndReason.WAVE else "max_failures"
    return f"held back by {by}: fix what failed (or raise max_failures), then: {escape(retry)}"


def count_lines(counts: Mapping[State, int]) -> list[str]:
    """Return one line per state that has targets, in protocol order."""
    return [f"  {state.value:<10}{counts[state]:>9}" for state in State if counts.get(state)]


def _hand_over_lines(hand_overs: HandOverCounts) -> Iterator[str]:
    text = handed_text(hand_overs)
    if text:
        yield f"hand-over {text}"


def _deletion_lines(count: int) -> Iterator[str]:
    if count:
        yield f"rollback  {count} clones with a DELETE on record, not known to be gone: zclone verify tells"


def handed_text(hand_overs: HandOverCounts) -> str:
    """Return the progress of hand-overs; empty if there are none."""
    total = hand_overs.done + hand_overs.open + hand_overs.refused
    refused = f", {hand_overs.refused} refused" if hand_overs.refused else ""
    return f"{hand_overs.done} of {total} clones handed over{refused}" if total else ""


def _process(summary: Summary, *, is_running: bool, is_stopping: bool) -> str:
    started, ended = summary.started, summary.ended
    if started is None:
        return "no run recorded yet"
    if ended is None:
        who = f"since {iso(started.at)}, process {started.pid} on {escape(started.host)}"
        return (
            f"{'stopping, ' if is_stopping else ''}running {who}"
            if is_running
            else f"killed: no process holds the manifest; it ran {who}"
        )
    why = ": ".join(filter(None, (ended.code, ended.reason and escape(ended.reason))))
    reason = f" ({why})" if why else ""
    return f"ended {iso(ended.at)} with exit code {ended.exit_code}{reason}"


def _engine(summary: Summary) -> Iterator[str]:
    """Yield the place of a run on Temporal, which continues without a local process, and the command that shows it."""
    remote = None if summary.started is None else summary.started.remote
    if remote is not None:
        place = f"--address {quote(remote.address)} --namespace {quote(remote.namespace)}"
        yield f"engine    Temporal at {escape(remote.address)}, namespace {escape(remote.namespace)}; it shows the run:"
        yield f"          {escape(f'temporal workflow describe {place} --workflow-id {quote(remote.workflow_id)}')}"


def _warnings(summary: Summary) -> Iterator[str]:
    for warning in summary.started.warnings if summary.started is not None else ():
        yield f"warning   {escape(warning)}"


def _limits(line: ControlledLine | None) -> Iterator[str]:
    if line is not None:
        yield f"limits    {limits_text(line)}, by zclone control since {iso(line.at)}"


def limits_text(line: ControlledLine) -> str:
    """Return the limits in force."""
    phase = ", draining" if line.is_draining else ", paused" if line.is_paused else ""
    return f"{line.rate:g} calls/s, {line.concurrency} in flight at most{phase}"


def _pace(summary: Summary, now: float) -> Iterator[str]:
    oldest = summary.oldest
    if oldest is not None and not summary.counts.get(State.PLANNED):
        # The rest has settled, and its pace says nothing about the last ones.
        until = "" if oldest.deadline is None else f", until {iso(oldest.deadline)} at the latest"
        yield f"waiting   for {escape(oldest.key)}, sent {iso(oldest.first_sent_at)}{until}"
        return
    times = summary.settled_at
    if len(times) < 2 or max(times[-1], now) <= times[0]:
        return
    rate = (len(times) - 1) / (max(times[-1], now) - times[0])
    left = sum(summary.counts.get(state, 0) for state in UNFINISHED)
    yield f"pace      {rate:.3g} clones/s, about {duration(left / rate)} left"


def cluster_lines(clusters: Sequence[Cluster], language: Language = "en") -> list[str]:
    """Return the largest groups of targets with the same outcome, each with an example."""
    lines = [_cluster(cluster, language) for cluster in clusters[:_MOST_CLUSTERS]]
    more = len(clusters) - _MOST_CLUSTERS
    return lines if more <= 0 else [*lines, f"  … and {more} more kinds"]


def _cluster(cluster: Cluster, language: Language) -> str:
    error = cut(escape(with_hint(cluster.code, cluster.error, language) or ""), _LONGEST_ERROR)
    code = escape(cluster.code) or "no code"
    example = f" (such as {escape(cluster.key)})" if cluster.key else ""
    until = "" if cluster.until is None else f"; not queried after {iso(cluster.until)}"
    return f"  {cluster.count} {cluster.state.value} with {code}: {error}{example}{until}"


def ending_lines(  # noqa: PLR0913 - each part of the text is a value of its own
    counts: Counter[State],
    clusters: Sequence[Cluster],
    *,
    manifest: str,
    command: str,
    retry: str = "",
    hand_overs: HandOverCounts = _NONE,
    reason: EndReason | None = None,
    overdue: int = 0,
    language: Language = "en",
) -> list[str]:
    """Return the summary at the end of a run.

    ``manifest``: its path; ``command``: the run's command as typed; ``retry``: the command that retries failed targets;
    ``reason``: why the run ended early; ``overdue``: number of uncertain targets that no rerun settles by itself;
    ``language``: that of the hints.
    """
    cloned, total = counts.get(State.CLONED, 0), counts.total() - counts.get(State.WITHDRAWN, 0)
    head = f"{cloned} of {total} targets cloned"
    rest = ", ".join(f"{counts[state]} {state.value}" for state in State if counts.get(state) and state != State.CLONED)
    lines = ["; ".join(filter(None, (head, rest, handed_text(hand_overs)))), *cluster_lines(clusters, language)]
    match exit_code(counts, hand_overs, reason, overdue=overdue):
        case ExitCode.UNFINISHED:
            lines.append(f"unfinished: run the same command again: {escape(command)}")
        case ExitCode.FAILED if reason in HELD_BACK:
            lines.append(_held_back(reason, retry, counts, manifest, command))
        case ExitCode.FAILED:
            kinds = (state for state in (*NOT_CLONED, State.UNCERTAIN) if counts.get(state))
            listing = escape(f"zclone list {shell_path(manifest)}")
            lines += [f"list them: {listing} --state {kind.value}" for kind in islice(kinds, 1)]
            is_retried = any(cluster.code == QUARANTINED for cluster in clusters) or any(map(counts.get, NOT_CLONED))
            if retry and is_retried:
                lines.append(f"fix what failed, then: {escape(retry)}")
            refusals = {cluster.code for cluster in clusters if cluster.state is State.CLONED}
            if hand_overs.refused and refusals != {NOT_OURS}:
                lines.append(f"to hand over the rest, fix what was refused, then: {escape(command)}")
        case _:
            pass
    return lines
