"""Writes the verifiable lines of a damaged manifest to a new one, and marks targets with unknown state as uncertain.

A target that failed before the damage is uncertain too: the lost lines may have retried it. In a repaired manifest any
target without records is looked for before it is sent.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError
from batch.manifest.files import Disk
from batch.manifest.header import parse_header
from batch.manifest.intents import jobs_after
from batch.manifest.kinds import PlannedLine, RepairedLine
from batch.manifest.line import without_batch
from batch.manifest.reading import exclude_writers, reading
from batch.manifest.records import encode_record, encode_repaired, parse_line
from batch.manifest.writer import write_manifest
from batch.model import UNKNOWN_JOB, Record, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batch.manifest.chain import Segment
    from batch.manifest.files import Files
    from batch.manifest.fold import ManifestFold
    from batch.manifest.kinds import Line
    from batch.model import Intent

CODE: Final = "ZCLONE.REPAIRED"
"""Error code of the targets that a repair left uncertain."""
_TEXT: Final = "records of this target were lost or damaged: the server must be queried"
_KEY: Final = re.compile(rb'"key":("(?:[^"\\]|\\.)*")')
_OTHER_STATE: Final = re.compile(rb'\{"state":"(?!sent")(?:' + "|".join(State).encode() + rb')"')
"""Prefix of records that permit no POST."""
_OTHER_KIND: Final = re.compile(rb'\{"(?!state":)[a-z_]+":')
"""Prefix of lines that are no records."""
_RETRIABLE: Final = (State.FAILED, State.CONFLICT)
_ENDS: Final = (State.CLONED, *_RETRIABLE)
"""States that end one attempt after another; that a clone was undone stays true of its uuid."""


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
    path: Path, out: Path, *, files: Files | None = None, clock: Callable[[], float] = time.time
) -> RepairReport:
    """Write a new manifest ``out`` with every line of ``path`` that can be verified; ``path`` is not changed.

    A target that a lost or damaged line may have named is left ``uncertain``. Raises UsageError where a file cannot be
    used, ManifestLockedError where a process writes to ``path``, ManifestError where the header is lost or the new file
    cannot be written.
    """
    with exclude_writers(path), reading(path) as manifest:
        findings = _Findings()
        for number, segment in enumerate(manifest.scan.segments()):
            findings.add(number, segment)
        findings.close()
        bodies = _bodies(manifest.scan.segments(), findings, clock())
        last = [encode_repaired(RepairedLine(clock(), findings.damaged))] if findings.damaged else []
        kept = write_manifest(out, bodies, files or Disk(), last=last)
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

    def _miss(self, number: int, damaged: bytes) -> None:
        self.damaged += 1
        self._missed = number
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
    for segment in segments:
        if not segment.is_intact:
            continue
        line = parse_line(segment.body) if segment.body.startswith(b'{"state":') else None
        if not (isinstance(line, Record) and line.state in _ENDS and line.key in findings.uncertain):
            yield without_batch(segment.body)
        if isinstance(line, Record) and line.state is State.UNDONE and line.key in findings.uncertain:
            # Replaces the line that may be lost: without it the following lines would refer to a clone that is gone.
            yield encode_record(Record(State.PLANNED, line.key, line.at))
    for key, target in findings.uncertain.items():
        yield encode_record(_uncertain(key, target, at))


def _uncertain(key: str, target: _Target | Intent, at: float) -> Record:
    return Record(
        State.UNCERTAIN,
        key,
        at,
        target.attempt,
        source_uuid=target.source_uuid or None,
        resource_uuid=target.resource_uuid or None,
        job_uuid=target.job_uuid,
        digest=target.digest or None,
        error_code=CODE,
        error=_TEXT,
        open_jobs=(*target.open_jobs, UNKNOWN_JOB),
    )


def lost_batch(tail: Iterator[Segment], past: ManifestFold, at: float) -> list[Record | RepairedLine]:
    """Return the records to write in place of a torn tail: none where it was never durable.

    A write that was cut short does not end like a complete batch. A damaged tail that does may have been durable, so
    that POSTs may have left: then the targets of its ``sent`` lines are uncertain, or all targets where one is
    illegible.
    """
    named: dict[str, None] = {}
    is_torn, names_nobody = True, False
    for number, segment in enumerate(tail):
        # Where the last newline is damaged, one byte is left after the seal.
        is_torn = segment.is_intact and not number if segment.has_end else len(segment.body) > 1
        if segment.has_end and not _OTHER_STATE.match(segment.body):
            keys = [key for key in map(_unquote, _KEY.findall(segment.body)) if past.is_planned(key)]
            named |= dict.fromkeys(keys)
            names_nobody = names_nobody or not (keys or _OTHER_KIND.match(segment.body))
    if is_torn:
        return []
    intents = past.intents
    found: list[Record | RepairedLine] = []
    for key in named:
        final = past.final(key)
        if final is not None and final[0] is State.UNDONE:
            found.append(Record(State.PLANNED, key, at))
        if final is None or final[0] is State.UNDONE:
            found.append(_uncertain(key, intents.get(key, _Target("")), at))
    return [*found, *([RepairedLine(at, 1)] if names_nobody else ())]
