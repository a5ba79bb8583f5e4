"""The results of ``verify``: verdicts, one line per finding, a JSON document, and the exit code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.errors import ExitCode
from batch.schema import COUNT, FLAG, MAYBE_TEXT, TEXT, array, describe, document, record
from batch.text import cut, escape, iso, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.model import JsonValue
    from batch.schema import Schema
    from batch.zstack.params import Difference

FORMAT: Final = "zclone-verification"
VERSION: Final = 1
TAGS: Final = "(tags of the run)"
"""Placeholder for a key if the server did not report the tagged services."""
_LONGEST: Final = 80
"""Maximum length of a value in the table."""


class Verdict(StrEnum):
    """Verdict on a target or, for EXTRA and DUPLICATE, on a service."""

    IN_SYNC = "in-sync"
    DRIFTED = "drifted"
    MISSING = "missing"
    DUPLICATE = "duplicate"
    """A second service carries a target's tag."""
    EXTRA = "extra"
    """A service carries a tag of the run that belongs to no target."""
    UNKNOWN = "unknown"
    """The server's answer proves neither that the clone exists nor that it does not."""
    OPEN = "open"
    """The run has not finished with the target: planned, sent, accepted or uncertain."""
    FAILED = "failed"
    CONFLICT = "conflict"
    WITHDRAWN = "withdrawn"
    UNDONE = "undone"


_OF_SERVICES: Final = (Verdict.DUPLICATE, Verdict.EXTRA)
_UNSURE: Final = (Verdict.UNKNOWN, Verdict.OPEN)
_DIFFERENT: Final = (
    Verdict.DRIFTED,
    Verdict.MISSING,
    *_OF_SERVICES,
    Verdict.FAILED,
    Verdict.CONFLICT,
)


class Finding(NamedTuple):
    """One line of the report, for anything that is neither in sync nor open."""

    verdict: Verdict
    key: str
    """Key of the target; for an extra service, the key in its tag."""
    source_uuid: str = ""
    clone_uuid: str | None = None
    differences: tuple[Difference, ...] = ()
    is_edited: bool = False
    """Whether the target was edited since the clone was made; the comparison is with the current file."""
    detail: str = ""


@dataclass(slots=True)
class Verification:
    """All results of one ``verify``."""

    job: str
    run: str
    endpoint: str
    manifest: str
    tool: str
    began_at: float
    """Seconds since the epoch."""
    ended_at: float = 0.0
    server_version: str | None = None
    account: str | None = None
    """Uuid of the account that queried."""
    is_admin: bool = False
    plan_digest: str = ""
    shard: str = ""
    """``K/N`` if the manifest is of exactly that part of the job."""
    has_intent: bool = True
    """Whether there was a job file to compare with; without one, only existence and names are compared."""
    counts: Counter[Verdict] = field(default_factory=Counter)
    edited: int = 0
    """Number of targets edited since their clones were made."""
    not_shown: Counter[str] = field(default_factory=Counter)
    """Fields that the server shows for no clone, with their number of targets."""
    findings: list[Finding] = field(default_factory=list)
    unrecorded: int = 0
    """Number of open targets of the job file that are not in the manifest."""
    calls: int = 0

    def remark(self, details: Mapping[str, str], verdict: Verdict | None = None) -> None:
        """Set the detail of findings by key, and their verdict if ``verdict`` is given."""
        by_key = {one.key: one for one in self.findings}
        for key, why in details.items():
            before = by_key.get(key, Finding(Verdict.IN_SYNC, key))
            after = before.verdict if verdict is None else verdict
            by_key[key] = before._replace(verdict=after, detail=why)
            self.counts[before.verdict] -= 1
            self.counts[after] += 1
        self.findings = list(by_key.values())

    @property
    def extra_findings(self) -> list[Finding]:
        """Findings without a target: services with a tag of the run, and tags that could not be queried."""
        return [one for one in self.findings if one.verdict in _OF_SERVICES or (one.key, one.source_uuid) == (TAGS, "")]

    @property
    def exit_code(self) -> ExitCode:
        """Exit code for the counts."""
        return exit_code_of(self.counts)


def exit_code_of(counts: Mapping[Verdict, int]) -> ExitCode:
    """Return 4 if anything is unknown or open, else 3 if anything differs or failed, else 0."""
    if any(counts.get(verdict) for verdict in _UNSURE):
        return ExitCode.UNFINISHED
    return ExitCode.FAILED if any(counts.get(verdict) for verdict in _DIFFERENT) else ExitCode.OK


def verification_lines(verification: Verification, *, next_command: str) -> Iterator[str]:
    """Yield the summary, then one line per finding; ``next_command``: the command that continues the run."""
    total = verification.counts.total() - len(verification.extra_findings)
    shown = ", ".join(
        f"{verification.counts[verdict]} {verdict}" for verdict in Verdict if verification.counts[verdict]
    )
    part = f", shard {verification.shard} only" if verification.shard else ""
    yield escape(f"{verification.job}, run {verification.run}{part}: {total} targets: {shown or 'none'}")
    if not verification.has_intent:
        yield "no job file: only existence and names are compared"
    if verification.edited:
        yield f"{verification.edited} edited since they were made: compared with the job file as it is now"
    if verification.not_shown:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(verification.not_shown.items()))
        yield escape(f"not shown by the server, so neither in sync nor drifted: {names}")
    for finding in verification.findings:
        yield _line(finding)
    if verification.counts[Verdict.OPEN]:
        yield escape(f"next, for what is open: {next_command}")


def _line(finding: Finding) -> str:
    parts = [f"{finding.verdict:<10}{finding.key}"]
    if finding.clone_uuid:
        parts.append(finding.clone_uuid)
    if finding.is_edited:
        parts.append("edited")
    parts += [f"{one.field}: {_short(one.wanted)} -> {_short(one.found)}" for one in finding.differences]
    if finding.detail:
        parts.append(cut(finding.detail, 4 * _LONGEST))
    return escape("  ".join(parts))


def _short(value: JsonValue) -> str:
    return cut(to_json(value), _LONGEST)


def verification_document(verification: Verification) -> Iterator[str]:
    """Yield one JSON document, one line per finding; ``zclone schema --verify`` describes it."""
    yield to_json(_head(verification)).removesuffix("}") + ', "findings": ['
    separator = ""
    for finding in verification.findings:
        if separator:
            yield separator
        separator = to_json(_values(finding)) + ","
    if separator:
        yield separator.removesuffix(",")
    yield "]}"


def _head(verification: Verification) -> dict[str, JsonValue]:
    counts: dict[str, JsonValue] = {verdict.value: verification.counts[verdict] for verdict in Verdict}
    not_shown: dict[str, JsonValue] = dict(sorted(verification.not_shown.items()))
    texts = ("job", "run", "endpoint", "manifest", "tool", "server_version", "account", "is_admin", "plan_digest")
    return {
        "format": FORMAT,
        "version": VERSION,
        **{name: getattr(verification, name) for name in texts},
        "shard": verification.shard or None,
        "began_at": iso(verification.began_at),
        "ended_at": iso(verification.ended_at),
        "calls": verification.calls,
        "exit_code": int(verification.exit_code),
        "has_intent": verification.has_intent,
        "counts": counts,
        "edited": verification.edited,
        "not_shown": not_shown,
    }


def _values(finding: Finding) -> dict[str, JsonValue]:
    return {
        "verdict": finding.verdict.value,
        "key": finding.key,
        "source_uuid": finding.source_uuid or None,
        "clone_uuid": finding.clone_uuid,
        "edited": finding.is_edited,
        "differences": [dict(one._asdict()) for one in finding.differences],
        "detail": finding.detail or None,
    }


def verification_schema() -> Schema:
    """Return the schema of the document; readers must ignore fields they do not know."""
    difference: dict[str, Schema] = {
        "field": describe(TEXT, "such as requestCpu or architectureImages[AARCH64].dockerImage"),
        "wanted": describe({}, "value in the job file"),
        "found": describe({}, "value on the server; null if it has none"),
    }
    finding: dict[str, Schema] = {
        "verdict": {"enum": [verdict.value for verdict in Verdict]},
        "key": TEXT,
        "source_uuid": MAYBE_TEXT,
        "clone_uuid": MAYBE_TEXT,
        "edited": describe(FLAG, "whether the target was edited since; compared with the current job file"),
        "differences": array(record(difference)),
        "detail": MAYBE_TEXT,
    }
    head: dict[str, Schema] = {
        "format": {"const": FORMAT},
        "version": {"const": VERSION},
        **dict.fromkeys(("job", "run", "endpoint", "manifest", "tool", "plan_digest"), TEXT),
        **dict.fromkeys(("server_version", "account"), MAYBE_TEXT),
        "shard": describe(MAYBE_TEXT, "K/N if the manifest is of exactly that part of the job"),
        "is_admin": describe(FLAG, "whether the querying account sees everything"),
        **dict.fromkeys(("began_at", "ended_at"), describe(MAYBE_TEXT, "ISO 8601, UTC, milliseconds")),
        "calls": COUNT,
        "exit_code": {"enum": [0, 3, 4]},
        "has_intent": describe(FLAG, "whether there was a job file to compare with"),
        "counts": record({verdict.value: COUNT for verdict in Verdict}),
        "edited": COUNT,
        "not_shown": describe({"type": "object", "additionalProperties": COUNT}, "targets by field"),
        "findings": array(record(finding)),
    }
    return document("What zclone verify found", record(head))
