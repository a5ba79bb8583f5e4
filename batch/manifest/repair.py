"""Writes the verifiable lines of a damaged manifest to a new one, and marks targets with unknown state as uncertain.

A target that failed before the damage is uncertain too: the lost lines may have retried it. In a repaired manifest any
target without records is looked for before it is sent.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Final

from batch.errors import REPAIRED, ManifestError
from batch.manifest.files import Disk, write_manifest
from batch.manifest.folds import jobs_after
from batch.manifest.kinds import PlannedLine, RepairedLine, StartedLine, UnknownLine
from batch.manifest.line import SEAL, parse_header, without_batch
from batch.manifest.reader import exclude_writers, open_reader
from batch.manifest.records import encode_record, encode_repaired, parse_line
from batch.model import UNKNOWN_JOB, Record, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batch.manifest.chain import Scan, Segment
    from batch.manifest.fold import ManifestFold
    from batch.manifest.kinds import Line

_TEXT: Final = "records of this target were lost or damaged: the server must be queried"
_KEY: Final = re.compile(rb'"key":("(?:[^"\\]|\\.)*")')
_AT_MOST_ONCE: Final = b'"at_most_once":true'
_RETRIABLE: Final = (State.FAILED, State.CONFLICT)
_ENDS: Final = (State.CLONED, *_RETRIABLE)
"""Final states whose records are not copied for an uncertain target; ``undone`` is, as it stays true of its uuid."""


@dataclass(frozen=True, slots=True)
class RepairReport:
    """Result of a repair."""

    path: Path
    kept: int
    """Lines that were copied, including the header."""
    damaged: int
    """Number of byte ranges that could not be verified."""
    uncertain: int
    """Targets for which the server must be queried."""


def repair_manifest(
    path: Path, out: Path, *, disk: Disk | None = None, clock: Callable[[], float] = time.time
) -> RepairReport:
    """Write a new manifest ``out`` with every line of ``path`` that can be verified; ``path`` is not changed.

    A target that a lost or damaged line may have named is left ``uncertain``. Raises UsageError where a file cannot be
    used, ManifestLockedError where a process writes to ``path``, ManifestError where the header is lost or the new file
    cannot be written.
    """
    with exclude_writers(path), open_reader(path) as manifest:
        findings = _Findings.of(manifest.scan.segments())
        bodies = _bodies(manifest.scan.segments(), findings, clock())
        last = [encode_repaired(RepairedLine(clock(), findings.damaged))] if findings.damaged else []
        kept = write_manifest(out, chain(bodies, last), disk or Disk())
    added = len(findings.uncertain) + bool(findings.damaged)
    return RepairReport(out, kept - added, findings.damaged, len(findings.uncertain))


@dataclass(slots=True)
class _Target:
    """What the verified lines record of one target."""

    source_uuid: str
    resource_uuid: str | None = None
    job_uuid: str | None = None
    open_jobs: tuple[str, ...] = ()
    digest: str | None = None
    attempt: int = 0
    state: State = State.PLANNED
    is_made: bool = False
    """Whether a clone is recorded that was not undone since."""
    place: int = -1
    """Number of the segment that contains the state."""


class _Findings:
    """One pass over a damaged manifest."""

    def __init__(self) -> None:
        self.damaged = 0
        self.uncertain: dict[str, _Target] = {}
        """Targets whose state is unknown."""
        self._targets: dict[str, _Target] = {}
        self._named: dict[str, int] = {}
        """The last damaged segment that names each target."""
        self._failed: dict[str, State] = {}
        """State of targets that failed and were not reopened since."""
        self._unlinked: set[str] = set()
        """Keys whose reopening record is lost."""
        self._missed = -1
        """The last damaged segment."""
        self.is_at_most_once = False
        """Whether a process ran with --at-most-once."""

    @classmethod
    def of(cls, segments: Iterator[Segment]) -> _Findings:
        findings = cls()
        for number, segment in enumerate(segments):
            findings.add(number, segment)
        findings.close()
        return findings

    def add(self, number: int, segment: Segment) -> None:
        if number == 0:
            if not segment.is_intact:
                raise ManifestError(
                    "the header is damaged: move the file away and run the same command again; the clones' uuids are "
                    "derived, so that none is made twice where the server honours resourceUuid (else look for each one)"
                )
            parse_header(segment.body)
        elif segment.is_intact:
            self._take(number, parse_line(segment.body))
        else:
            self._miss(number, segment.body)

    def _take(self, number: int, line: Line) -> None:
        if isinstance(line, PlannedLine):
            for key, source in line.targets:
                self._targets.setdefault(key, _Target(source))
        elif isinstance(line, StartedLine):
            self.is_at_most_once = self.is_at_most_once or line.at_most_once
        elif isinstance(line, Record):
            target = self._targets.setdefault(line.key, _Target(line.source_uuid or ""))
            target.resource_uuid = line.resource_uuid or target.resource_uuid
            target.job_uuid, target.open_jobs = _jobs(target, line)
            target.digest = line.digest or target.digest
            target.source_uuid = target.source_uuid or line.source_uuid or ""
            target.attempt = max(target.attempt, line.attempt)
            if line.state in _RETRIABLE:
                self._failed[line.key] = line.state
            elif line.retried and line.state is State.PLANNED:
                self._failed.pop(line.key, None)
            is_next = line.state is State.SENT and (target.is_made or target.state is State.UNDONE)
            target.is_made = line.state is State.CLONED or (target.is_made and line.state is not State.UNDONE)
            if is_next or self._failed.get(line.key, line.state) is not line.state:
                self._unlinked.add(line.key)
            target.state, target.place = line.state, number
            if line.state is State.UNDONE:
                # The next clone has another uuid, and the job file may have changed since.
                target.resource_uuid = target.digest = None

    def _miss(self, number: int, damaged: bytes) -> None:
        self.damaged += 1
        self._missed = number
        self.is_at_most_once = self.is_at_most_once or _AT_MOST_ONCE in damaged
        self._named |= {_unquote(quoted): number for quoted in _KEY.findall(damaged)}

    def close(self) -> None:
        """Determine the uncertain targets.

        The number of lines in a damaged range and their targets are unknown: any target that is not settled may have
        been sent, and any that had failed before may have been retried, sent and cloned. Other ends stay, unless a
        damaged line names the target later.
        """
        for key, target in self._targets.items():
            is_named = key in self._unlinked or self._named.get(key, -1) > target.place
            may_be_retried = target.state in _RETRIABLE and self._missed > target.place
            if is_named or may_be_retried or (self.damaged and not target.state.is_final):
                self.uncertain[key] = target


def _jobs(target: _Target, line: Record) -> tuple[str | None, tuple[str, ...]]:
    """Return the jobs that may be open after a record: those before an end are closed."""
    return (None, ()) if line.state.is_final else jobs_after(target.job_uuid, target.open_jobs, line)


def _unquote(quoted: bytes) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        return quoted.decode(errors="replace")


def _bodies(segments: Iterator[Segment], findings: _Findings, at: float) -> Iterator[bytes]:
    """Yield the open bodies of the new file; no end of an uncertain target is copied."""
    for number, segment in enumerate(segments):
        if not segment.is_intact:
            continue
        if number == 0 and findings.is_at_most_once:
            # The line of the process that began it may be lost.
            yield replace(parse_header(segment.body), at_most_once=True).body()
            continue
        line = parse_line(segment.body) if segment.body.startswith(b'{"state":') else None
        if not (isinstance(line, Record) and line.state in _ENDS and line.key in findings.uncertain):
            yield without_batch(segment.body)
        if isinstance(line, Record) and line.state is State.UNDONE and line.key in findings.uncertain:
            # Replaces the line that may be lost: without it the following lines would refer to a clone that is gone.
            yield encode_record(Record(State.PLANNED, line.key, line.at))
    for key, target in findings.uncertain.items():
        yield encode_record(_uncertain(key, target, at))


def _uncertain(key: str, target: _Target, at: float) -> Record:
    return Record(
        State.UNCERTAIN,
        key,
        at,
        target.attempt,
        source_uuid=target.source_uuid or None,
        resource_uuid=target.resource_uuid or None,
        job_uuid=target.job_uuid,
        digest=target.digest or None,
        error_code=REPAIRED,
        error=_TEXT,
        open_jobs=(*target.open_jobs, UNKNOWN_JOB),
    )


def lost_batch(scan: Scan, past: ManifestFold, at: float) -> list[Record | RepairedLine]:
    """Return the records to write in place of the bytes after the last verified line of ``scan``.

    They end like a complete batch, so that they may have been durable and POSTs may have left: the targets of their
    intact ``sent`` lines are uncertain, and whatever a repair leaves uncertain where a line is illegible.
    """
    hides_posts, named = False, set[str]()
    for segment in scan.segments():
        hides_posts = hides_posts or _may_hide_posts(segment, past.api_timeout)
        line = parse_line(segment.body) if segment.is_intact else None
        if isinstance(line, Record) and line.state is State.SENT:
            named.add(line.key)
    if not (hides_posts or named):
        return []
    found: list[Record | RepairedLine] = []
    for key, target in _Findings.of(scan.from_start().segments()).uncertain.items():
        final = past.final(key)
        is_made = final is not None and final[0] is State.CLONED
        # One without records is looked for because of the RepairedLine.
        if is_made or not (key in named or (hides_posts and target.place >= 0)):
            continue
        if final is not None:
            found.append(Record(State.PLANNED, key, at, retried=final[0] in _RETRIABLE or None))
        found.append(_uncertain(key, target, at))
    return [*found, *([RepairedLine(at, 1)] if hides_posts else ())]


def _may_hide_posts(segment: Segment, api_timeout: float) -> bool:
    """Return whether a damaged segment may contain a ``sent`` line, or one on which the meaning of those depends.

    ``api_timeout``: the longest that any other line states, in seconds.
    """
    if segment.is_intact or not segment.has_end:
        return False
    try:
        line = parse_line(segment.body[:-SEAL])
    except ManifestError:
        return True
    if isinstance(line, Record):
        is_longest = (line.api_timeout or 0.0) > api_timeout
        return line.state is State.SENT or is_longest or UNKNOWN_JOB in (line.open_jobs or ())
    return isinstance(line, RepairedLine | UnknownLine)
