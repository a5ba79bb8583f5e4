"""The figures and failures of a run as all report formats show them, among them the exit code and the next command.

Both come from the manifest, so that they agree. Failures are unsuccessful targets, grouped by code and cause.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.errors import HELD_BACK, EndReason, ExitCode
from batch.manifest.hand_overs import estimate_hand_overs
from batch.model import QUARANTINED, HandOverCounts, State, waits_for_operator
from batch.text import shell_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batch.manifest import Header
    from batch.report.data import ReportData, TargetData

UNFINISHED: Final = (State.PLANNED, State.SENT, State.ACCEPTED, State.UNCERTAIN)
"""States that a rerun continues from."""
NOT_CLONED: Final = (State.FAILED, State.CONFLICT, State.UNDONE)
"""States without a clone that a rerun does not change."""

_NONE: Final = HandOverCounts()
REFUSED: Final = frozenset({EndReason.DENIED, EndReason.RESOURCE_UUID})
"""Reasons that would end a rerun in the same way."""
_IN_DOUBT: Final = (State.SENT, State.ACCEPTED, State.UNCERTAIN)
NO_RUN: Final = "no run recorded yet"
"""Text for a manifest whose process was killed before it recorded its plan."""

_EXAMPLES: Final = 5
_VARYING: Final = re.compile(
    r"(?P<uuid>\b[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\b)|(?P<number>\b\d+(?:\.\d+)*\b)", re.IGNORECASE
)
_PART: Final = re.compile(r"\.shard-(\d+)-of-(\d+)(?=\.manifest\.jsonl$)")
_BAD: Final = (State.FAILED, State.CONFLICT, State.UNCERTAIN)


def exit_code(
    counts: Mapping[State, int],
    hand_overs: HandOverCounts = _NONE,
    reason: EndReason | None = None,
    *,
    overdue: int = 0,
) -> ExitCode:
    """Return 0 only if every target is cloned and handed over, 4 while a rerun can settle anything, 3 otherwise.

    If only refused hand-overs are left, the code is 3, although a rerun retries them. ``reason``: why the last process
    ended early; ``overdue``: number of uncertain targets that no rerun settles by itself.
    """
    is_left = bool(hand_overs.open or counts.get(State.PLANNED))
    in_doubt = sum(counts.get(state, 0) for state in _IN_DOUBT) - overdue
    if reason is EndReason.RESOURCE_UUID:
        return ExitCode.FAILED
    if not in_doubt and (reason in REFUSED or (is_left and reason in HELD_BACK)):
        return ExitCode.FAILED
    if is_left or in_doubt:
        return ExitCode.UNFINISHED
    if overdue or hand_overs.refused or any(counts.get(state) for state in NOT_CLONED):
        return ExitCode.FAILED
    return ExitCode.OK


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts and times of a run."""

    counts: Counter[State]
    retries: int
    """Number of POSTs after the first of each target."""
    began: float
    """Seconds since the epoch."""
    until: float
    """Time of the last record, seconds since the epoch."""
    seconds: float
    """Total run time of all processes, without the pauses between them."""
    handed: HandOverCounts
    overdue: int
    """Number of uncertain targets that no rerun settles by itself, as of the last record."""
    is_recorded: bool
    """Whether any process recorded its plan."""
    reason: EndReason | None
    """Why the last process ended early; None if it did not, is running, or was killed."""

    @property
    def targets(self) -> int:
        """Number of targets of the job, without withdrawn ones."""
        return self.counts.total() - self.counts[State.WITHDRAWN]

    @property
    def exit_code(self) -> ExitCode | None:
        """Exit code of a run that ends in this state; None if no run is recorded yet."""
        if not self.is_recorded:
            return None
        return exit_code(self.counts, self.handed, self.reason, overdue=self.overdue)


def figures(report: ReportData) -> Figures:
    """Compute the figures in one pass over the targets."""
    sends = [sum(len(span.sent_at) for span in target.spans) for target in report.targets]
    began = min((process.started.at for process in report.processes), default=report.header.created_at)
    counts = Counter(target.state for target in report.targets)
    tried = [target for target in report.targets if target.hand_over is not None and target.state is State.CLONED]
    refused = sum(target.is_refused for target in tried)
    ended = report.processes[-1].ended if report.processes else None
    reason = None if ended is None else ended.code
    until = max((process.last_at for process in report.processes), default=began)
    lasts = [target.last for target in report.targets if target.last is not None]
    estimated = estimate_hand_overs(report.plan, counts, done=len(tried) - refused, refused=refused)
    return Figures(
        counts=counts,
        retries=sum(sends) - sum(1 for number in sends if number),
        began=began,
        until=until,
        seconds=sum(max(0.0, process.last_at - process.started.at) for process in report.processes),
        handed=estimated if ended is None or ended.handed is None else ended.handed,
        overdue=sum(waits_for_operator(last, until, is_refused=reason in REFUSED) for last in lasts),
        is_recorded=report.plan is not None or bool(counts),
        reason=reason,
    )


@dataclass(frozen=True, slots=True)
class Failures:
    """Targets with one state, code and cause."""

    state: State
    code: str
    """Error code of ZStack or zclone; empty if there is none."""
    cause: str
    """Error text without uuids and numbers."""
    count: int
    keys: tuple[str, ...]
    """The first of their keys."""
    error: str
    """Original error text of the first target."""
    command: str
    """The next command; it selects every target with this code."""


def cause_of(error: str) -> str:
    """Return the error text without uuids and numbers, which differ between targets."""
    return _VARYING.sub(lambda found: "<uuid>" if found["uuid"] else "<n>", error)


def failures(report: ReportData) -> list[Failures]:
    """Return the groups, largest first."""
    groups: dict[tuple[State, str, str], list[TargetData]] = {}
    for target in report.targets:
        if target.state in _BAD or target.is_refused:
            kind = (target.state, target.error_code or "", cause_of(target.error or ""))
            groups.setdefault(kind, []).append(target)
    summaries = (_group(report, kind, targets) for kind, targets in groups.items())
    return sorted(summaries, key=lambda group: (-group.count, group.code, group.cause))


def _group(report: ReportData, kind: tuple[State, str, str], targets: list[TargetData]) -> Failures:
    state, code, cause = kind
    return Failures(
        state=state,
        code=code,
        cause=cause,
        count=len(targets),
        keys=tuple(target.key for target in targets[:_EXAMPLES]),
        error=targets[0].error or "",
        command=command_for(report.header, report.path, state, code, shard=report.shard),
    )


def command_for(header: Header, manifest: Path, state: State, code: str = "", *, shard: str = "") -> str:
    """Return the command that continues such targets, with the placeholder JOB if no job file is recorded.

    ``shard``: the part of the job in the manifest's plan, ``K/N``; empty if none is recorded.
    """
    words: list[str] = []
    is_retry = state in (State.FAILED, State.CONFLICT) or code == QUARANTINED
    if is_retry:
        words += [*(["--state", state.value] if state is not State.FAILED else []), *(["--code", code] if code else [])]
    words += ["--simulate"] if header.simulated else []
    words += ["--run", header.run] if header.run != "default" else []
    # Without --shard the command would process the targets of the other shards too.
    part = _PART.search(manifest.name)
    shard = shard or (f"{part[1]}/{part[2]}" if part else "")
    words += ["--shard", shard] if shard else []
    if manifest.name != _default_name(header, shard):
        words += ["--manifest", str(manifest)]
    job = shell_path(header.job_file or "JOB")
    return " ".join(["zclone", "retry" if is_retry else "run", job, *map(shlex.quote, words)])


def retry_command(header: Header, manifest: Path, counts: Mapping[State, int], *, shard: str = "") -> str:
    """Return the command that retries failed targets or, if there are none, conflicting ones."""
    is_conflict = counts.get(State.CONFLICT) and not counts.get(State.FAILED)
    return command_for(header, manifest, State.CONFLICT if is_conflict else State.FAILED, shard=shard)


def _default_name(header: Header, shard: str) -> str:
    stem = header.job_file.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
    run = [] if header.run == "default" else [header.run]
    part = [f"shard-{shard.replace('/', '-of-')}"] if shard else []
    return ".".join([stem, *run, *(["simulated"] if header.simulated else []), *part, "manifest.jsonl"])
