"""Write what can be verified of a damaged manifest into a new one, and mark what cannot be known as uncertain."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError, UsageError
from batch.manifest.files import Disk
from batch.manifest.header import parse_header
from batch.manifest.kinds import PlannedLine
from batch.manifest.reading import reading
from batch.manifest.records import encode_record, parse_line
from batch.manifest.writer import End, Writer
from batch.model import Record, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batch.manifest.chain import Segment
    from batch.manifest.files import Files
    from batch.manifest.kinds import Line

CODE: Final = "ZCLONE.REPAIRED"
"""Error code of the targets that a repair left uncertain."""
_TEXT: Final = "records of this target were lost or damaged: the server must be asked"
_KEY: Final = re.compile(rb'"key":("(?:[^"\\]|\\.)*")')
_BATCH_FIELDS: Final = re.compile(rb',"batch":\d+(?:,"more":true)?$')
_RETRIABLE: Final = (State.FAILED, State.CONFLICT)
_AFTER_A_RETRY: Final = frozenset({State.SENT, State.CLONED, State.FAILED, State.CONFLICT})
"""What follows a failure only where a record that opened it again stood between."""
_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair kept and what it could not know."""

    path: Path
    kept: int
    """Lines taken over, the header among them."""
    damaged: int
    """Stretches of bytes that could not be verified."""
    uncertain: int
    """Targets that the server must be asked about."""


def repair(
    path: Path, out: Path, *, files: Files | None = None, clock: Callable[[], float] = time.time
) -> RepairReport:
    """Write a new manifest ``out`` with every line of ``path`` that can be verified; ``path`` stays as it is.

    A target that a lost or damaged line may have been about is left ``uncertain``. Raises UsageError where a file
    cannot be used, ManifestError where the header is lost or the new file cannot be written.
    """
    with reading(path) as manifest:
        findings = _Findings()
        for number, segment in enumerate(manifest.scan.segments()):
            findings.add(number, segment)
        findings.close()
        bodies = _bodies(manifest.scan.segments(), findings, clock())
        kept = _write(out, bodies, files or Disk())
    return RepairReport(out, kept - len(findings.uncertain), findings.damaged, len(findings.uncertain))


@dataclass(slots=True)
class _Target:
    """What the verified lines say of one target."""

    source_uuid: str
    resource_uuid: str | None = None
    job_uuid: str | None = None
    digest: str | None = None
    attempt: int = 0
    state: State = State.PLANNED
    place: int = -1
    """Number of the segment that told the state."""


class _Findings:
    """One pass over a damaged manifest."""

    def __init__(self) -> None:
        self.damaged = 0
        self.uncertain: dict[str, _Target] = {}
        """Targets whose state cannot be known."""
        self._targets: dict[str, _Target] = {}
        self._named: dict[str, int] = {}
        """The last damaged segment that names a target."""
        self._unlinked: set[str] = set()
        """Keys of which the record that opened them again is lost."""
        self._missed = -1
        """The last damaged segment."""

    def add(self, number: int, segment: Segment) -> None:
        if number == 0:
            if not segment.is_intact:
                raise ManifestError(
                    "the header is damaged: move the file away and run the same command again; "
                    "the clones' uuids are derived, so that none is made twice"
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
            target.job_uuid = line.job_uuid or target.job_uuid
            target.digest = line.digest or target.digest
            target.source_uuid = target.source_uuid or line.source_uuid or ""
            target.attempt = max(target.attempt, line.attempt)
            if target.state in _RETRIABLE and line.state in _AFTER_A_RETRY - {target.state}:
                self._unlinked.add(line.key)
            target.state, target.place = line.state, number

    def _miss(self, number: int, damaged: bytes) -> None:
        self.damaged += 1
        self._missed = number
        self._named |= {_unquote(quoted): number for quoted in _KEY.findall(damaged)}

    def close(self) -> None:
        """Decide who is uncertain.

        Nobody knows how many lines a damaged stretch held, nor of whom, so whoever is not settled may have been sent,
        and whoever had failed before it may have been retried, sent and cloned. Other ends stay, unless something
        damaged names them later.
        """
        for key, target in self._targets.items():
            is_named = key in self._unlinked or self._named.get(key, -1) > target.place
            may_be_retried = target.state in _RETRIABLE and self._missed > target.place
            if is_named or may_be_retried or (self.damaged and not target.state.is_final):
                self.uncertain[key] = target


def _unquote(quoted: bytes) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        return quoted.decode(errors="replace")


def _bodies(segments: Iterator[Segment], findings: _Findings, at: float) -> Iterator[bytes]:
    """Yield the open bodies of the new file; of an uncertain target no end is taken over."""
    for segment in segments:
        if not segment.is_intact:
            continue
        line = parse_line(segment.body) if segment.body.startswith(b'{"state":') else None
        if not (isinstance(line, Record) and line.state.is_final and line.key in findings.uncertain):
            yield _BATCH_FIELDS.sub(b"", segment.body)
    for key, target in findings.uncertain.items():
        yield encode_record(
            Record(
                State.UNCERTAIN,
                key,
                at,
                target.attempt,
                source_uuid=target.source_uuid,
                resource_uuid=target.resource_uuid,
                job_uuid=target.job_uuid,
                digest=target.digest,
                error_code=CODE,
                error=_TEXT,
            )
        )


def _write(out: Path, bodies: Iterator[bytes], files: Files) -> int:
    """Return the number of lines written."""
    try:
        handle = files.create(out)
    except OSError as error:
        raise UsageError(f"{out}: {error.strerror or 'cannot be made'}") from None
    lines, size = 0, 1
    writer = Writer(files, handle, End(0, 0, 0))
    try:
        while batch := list(islice(bodies, size)):
            writer.write(batch)
            lines, size = lines + len(batch), _BATCH
        files.sync_directory(out)
    except OSError as error:
        raise ManifestError(f"{out}: {error.strerror or error}") from None
    finally:
        writer.close()
    return lines
