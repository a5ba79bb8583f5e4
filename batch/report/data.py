"""The data of a report: every target with its times and every process, and a verification if one is given."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from batch.errors import UsageError
from batch.jsoncodec import decode_own
from batch.manifest.hand_overs import hand_over_error
from batch.manifest.kinds import EndedLine, HandOverTry, PlanLine, PlannedLine, StartedLine
from batch.manifest.listing import Row
from batch.manifest.reader import is_locked, open_reader
from batch.manifest.records import parse_line
from batch.model import HandOverRecord, Record, State
from batch.report.verification import FORMAT, VERSION, Finding, Verdict, Verification, verification_lines
from batch.zstack.params import Difference

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from batch.manifest.line import Header

_ENDS: Final = frozenset({State.CLONED, State.FAILED, State.CONFLICT, State.UNCERTAIN, State.UNDONE})


@dataclass(slots=True)
class Span:
    """A period in which a target was in flight, from its first POST until it settled; seconds since the epoch."""

    sent_at: list[float]
    """Time of each attempt; a span without a POST has only the time of its end."""
    accepted_at: float | None = None
    ended_at: float | None = None
    """None while it is in flight."""
    state: State = State.SENT


@dataclass(slots=True)
class TargetData:
    """One target, with the fields of ``list`` and its times in flight."""

    key: str
    source_uuid: str
    last: Record | None = None
    spans: list[Span] = field(default_factory=list)
    hand_over: HandOverRecord | None = None
    """The last hand-over attempt."""

    @property
    def is_refused(self) -> bool:
        """Whether the server refused the clone's hand-over."""
        return self.state is State.CLONED and self.hand_over is not None and self.hand_over.error_code is not None

    @property
    def error_code(self) -> str | None:
        """Error code of the target or of its clone's hand-over."""
        if self.is_refused and self.hand_over is not None:
            return self.hand_over.error_code
        return None if self.last is None else self.last.error_code

    @property
    def error(self) -> str | None:
        """Error text of the target or of its clone's hand-over."""
        if self.is_refused and self.hand_over is not None:
            return hand_over_error(self.hand_over)
        return None if self.last is None else self.last.error

    @property
    def state(self) -> State:
        """Current state of the target."""
        return State.PLANNED if self.last is None else self.last.state

    def row(self) -> Row:
        """Return the target as ``list`` shows it."""
        last = self.last
        if last is None:
            return Row(self.key, self.source_uuid, State.PLANNED, None, None, 0, None, None, None, None)
        started = self.spans[0].sent_at[0] if self.spans and last.attempt else None
        settled = last.at if last.state.is_final else None
        return Row(
            self.key,
            self.source_uuid,
            last.state,
            last.clone_uuid,
            last.name,
            last.attempt,
            self.error_code,
            self.error,
            started,
            settled,
        )

    def add(self, record: Record) -> None:
        """Process the next record of this target."""
        self.source_uuid = self.source_uuid or record.source_uuid or ""
        self.last = record
        if record.state is State.UNDONE:
            self.hand_over = None
        span = self.spans[-1] if self.spans and self.spans[-1].ended_at is None else None
        if record.state is State.SENT and span is not None:
            span.sent_at.append(record.at)
            return
        if record.state in (State.PLANNED, State.WITHDRAWN, State.UNDONE):
            _close(span, record)
            return
        if span is None:
            span = Span([record.at])
            self.spans.append(span)
        if record.state is State.ACCEPTED:
            span.accepted_at = record.at
        if record.state in _ENDS:
            _close(span, record)


def _close(span: Span | None, record: Record) -> None:
    if span is not None:
        span.ended_at, span.state = record.at, record.state


@dataclass(slots=True)
class Process:
    """One process, from its first line in the manifest to its last."""

    started: StartedLine
    last_at: float
    ended: EndedLine | None = None
    """None while it runs, or if it was killed."""


@dataclass(frozen=True, slots=True)
class ReportData:
    """All data of a report."""

    path: Path
    header: Header
    plan: PlanLine | None
    processes: tuple[Process, ...]
    targets: tuple[TargetData, ...]
    """Targets in plan order."""
    is_running: bool
    """Whether the last process is still running."""
    torn_bytes: int
    """Number of bytes after the last complete line: a write in progress or a torn one."""
    verification: VerificationSection | None = None
    """Result of ``verify``, if given."""

    @property
    def shard(self) -> str:
        """The part of the job that the plan is of, ``K/N``; empty where it is of all of it."""
        return "" if self.plan is None else self.plan.shard


def read_report_data(path: Path) -> ReportData:
    """Read the manifest at ``path``, even while a run writes to it, in about 1 KB of memory per target.

    Raises UsageError or ManifestError if it cannot be read.
    """
    # Check the lock before reading: a process that ends in between has then written its ending line.
    was_locked = is_locked(path)
    with open_reader(path) as manifest:
        reader = _Reader()
        reader.add_all(map(parse_line, manifest.bodies()))
        torn_bytes = manifest.torn_bytes()
    reader.finish()
    return ReportData(
        path=path,
        header=manifest.header,
        plan=reader.plan,
        processes=tuple(reader.processes),
        targets=tuple(reader.targets.values()),
        is_running=was_locked and bool(reader.processes) and reader.processes[-1].ended is None,
        torn_bytes=torn_bytes,
    )


class _Reader:
    """Accumulates the lines of a manifest."""

    def __init__(self) -> None:
        self.plan: PlanLine | None = None
        self.processes: list[Process] = []
        self.targets: dict[str, TargetData] = {}

    def add_all(self, lines: Iterable[object]) -> None:
        for line in lines:
            match line:
                case Record(key=key, source_uuid=source):
                    target = self.targets.get(key) or self.targets.setdefault(key, TargetData(key, source or ""))
                    target.add(line)
                    self._touch(line.at)
                case HandOverRecord() | HandOverTry():
                    self._add_hand_over(line)
                case PlannedLine(targets):
                    for key, source_uuid in targets:
                        self.targets.setdefault(key, TargetData(key, source_uuid))
                case PlanLine():
                    self.plan = line
                    self._touch(line.at)
                case StartedLine(at):
                    self.processes.append(Process(line, at))
                case EndedLine(at):
                    self._touch(at)
                    if self.processes:
                        self.processes[-1].ended = line

    def _add_hand_over(self, line: HandOverRecord | HandOverTry) -> None:
        of = line.of if isinstance(line, HandOverTry) else line
        # A try opens it again.
        self.targets.setdefault(of.key, TargetData(of.key, "")).hand_over = None if of is not line else of
        self._touch(of.at)

    def finish(self) -> None:
        """Drop the refused hand-overs that the job file no longer has, by what the last process counted."""
        ended = self.processes[-1].ended if self.processes else None
        if ended is not None and ended.has_no_refusal:
            for target in self.targets.values():
                target.hand_over = None if target.is_refused else target.hand_over

    def _touch(self, at: float) -> None:
        if self.processes:
            self.processes[-1].last_at = max(self.processes[-1].last_at, at)


class VerificationSection(NamedTuple):
    """A verification for display in a report."""

    document: dict[str, Any]
    """The document as written."""
    lines: tuple[str, ...]
    """The summary, then one line per finding."""

    @property
    def ended_at(self) -> str:
        """End of the verification, in ISO 8601."""
        return str(self.document.get("ended_at"))


def read_verification(path: Path, header: Header) -> VerificationSection:
    """Read the document of ``verify -o json``. Raises UsageError for another document, or one of another run."""
    try:
        document = decode_own(path.read_bytes())
        verification = _verification(document)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: is not output of `zclone verify -o json`") from None
    if (verification.job, verification.run, verification.endpoint) != (header.job, header.run, header.endpoint):
        raise UsageError(f"{path}: is of the job {verification.job!r}, run {verification.run!r}, not of the manifest's")
    return VerificationSection(
        document, tuple(verification_lines(verification, next_command=f"zclone run {header.job_file}"))
    )


def _verification(document: dict[str, Any]) -> Verification:
    """Parse the document. Raises ValueError, KeyError, TypeError or AttributeError for anything else."""
    if (document["format"], document["version"]) != (FORMAT, VERSION):
        raise ValueError("another format")
    job, run, endpoint, manifest, tool = (
        str(document[name]) for name in ("job", "run", "endpoint", "manifest", "tool")
    )
    verification = Verification(job, run, endpoint, manifest, tool, 0.0, has_intent=document["has_intent"] is True)
    verification.edited, verification.shard = int(document["edited"]), str(document["shard"] or "")
    verification.counts = Counter({Verdict(name): int(count) for name, count in document["counts"].items()})
    verification.not_shown = Counter({str(name): int(count) for name, count in document["not_shown"].items()})
    verification.findings = [_finding(finding) for finding in document["findings"]]
    return verification


def _finding(finding: dict[str, Any]) -> Finding:
    uuid = finding["clone_uuid"]
    return Finding(
        Verdict(finding["verdict"]),
        str(finding["key"]),
        str(finding["source_uuid"] or ""),
        None if uuid is None else str(uuid),
        tuple(Difference(str(one["field"]), one["wanted"], one["found"]) for one in finding["differences"]),
        finding["edited"] is True,
        str(finding["detail"] or ""),
    )
