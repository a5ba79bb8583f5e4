"""Unsuccessful targets, grouped by code and cause, each group with the command to run next."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.model import QUARANTINED, State
from batch.text import shell_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batch.manifest import Header
    from batch.report.data import ReportData, TargetData

_EXAMPLES: Final = 5
_VARYING: Final = re.compile(
    r"(?P<uuid>\b[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\b)|(?P<number>\b\d+(?:\.\d+)*\b)", re.IGNORECASE
)
_PART: Final = re.compile(r"\.shard-(\d+)-of-(\d+)(?=\.manifest\.jsonl$)")
_BAD: Final = (State.FAILED, State.CONFLICT, State.UNCERTAIN)


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
    found = [_group(report, kind, targets) for kind, targets in groups.items()]
    return sorted(found, key=lambda group: (-group.count, group.code, group.cause))


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
