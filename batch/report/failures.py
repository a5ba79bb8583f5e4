"""Targets that did not end well, gathered by code and shared cause, each with the command that tries them again."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.model import State

if TYPE_CHECKING:
    from pathlib import Path

    from batch.manifest import Header
    from batch.report.chronicle import Chronicle, Course

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
    """ZStack's code or the tool's own; empty where there was none."""
    cause: str
    """What was said, with uuids and numbers taken out."""
    count: int
    keys: tuple[str, ...]
    """The first of them."""
    error: str
    """What was said of the first, word for word."""
    command: str
    """What to run; it takes every target with this code."""


def cause_of(error: str) -> str:
    """Return the error without what differs from target to target: uuids and numbers."""
    return _VARYING.sub(lambda found: "<uuid>" if found["uuid"] else "<n>", error)


def failures(chronicle: Chronicle) -> list[Failures]:
    """Return the groups, the largest first."""
    groups: dict[tuple[State, str, str], list[Course]] = {}
    for course in chronicle.courses:
        if course.state in _BAD or course.is_refused:
            kind = (course.state, course.error_code or "", cause_of(course.error or ""))
            groups.setdefault(kind, []).append(course)
    found = [_group(chronicle, kind, courses) for kind, courses in groups.items()]
    return sorted(found, key=lambda group: (-group.count, group.code, group.cause))


def _group(chronicle: Chronicle, kind: tuple[State, str, str], courses: list[Course]) -> Failures:
    state, code, cause = kind
    return Failures(
        state=state,
        code=code,
        cause=cause,
        count=len(courses),
        keys=tuple(course.key for course in courses[:_EXAMPLES]),
        error=courses[0].error or "",
        command=command_for(chronicle.header, chronicle.path, state, code),
    )


def command_for(header: Header, manifest: Path, state: State, code: str = "") -> str:
    """Return the command line that goes on with such targets; ``JOB`` stands where the manifest knows no job file."""
    words = ["zclone", "retry" if state in (State.FAILED, State.CONFLICT) else "run", header.job_file or "JOB"]
    if words[1] == "retry":
        words += [*(["--state", "conflict"] if state is State.CONFLICT else []), *(["--code", code] if code else [])]
    words += ["--simulate"] if header.simulated else []
    words += ["--run", header.run] if header.run != "default" else []
    # Without its part of the targets, the command would do those of the other parts as well.
    part = _PART.search(manifest.name)
    words += ["--shard", f"{part[1]}/{part[2]}"] if part else []
    if manifest.name != _default_name(header, part[0] if part else ""):
        words += ["--manifest", str(manifest)]
    return shlex.join(words)


def _default_name(header: Header, part: str) -> str:
    stem = header.job_file.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
    run = [] if header.run == "default" else [header.run]
    return ".".join([stem, *run, *(["simulated"] if header.simulated else [])]) + part + ".manifest.jsonl"
