"""Detects a finished run by the last line of its manifest, verifying every checksum without parsing the records.

Needed for the time budget of a million targets: folding their lines takes three times the six seconds allowed for a
rerun.

The end line of a process counts its targets by state. When all are settled, the chain of checksums holds and no input
changed, a rerun reads nothing else, makes no call and writes nothing; with hand-overs only after exit code 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError, UsageError
from batch.manifest.files import Disk
from batch.manifest.header import PROCESSES, Header, Users, parse_header
from batch.manifest.kinds import DeletingLine, EndedLine, PlanLine
from batch.manifest.line import SEAL
from batch.manifest.pins import PinFold
from batch.manifest.reading import Reading, reading
from batch.manifest.records import parse_line
from batch.model import Pins, State

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

_TAIL: Final = 1 << 12
_PLAN: Final = (b'{"pinned":', b'{"plan":', b'{"deleting":', *PROCESSES)
_USUAL: Final = b'{"state":"'


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A finished run: there is nothing to do, as long as the plan is still ``plan``."""

    header: Header
    plan: PlanLine
    pins: Pins
    counts: Counter[State]
    """Targets by state, all of them final or withdrawn; the final ones are as many as the plan has."""
    users: Users


def read_finished(path: Path) -> FinishedRun | None:
    """Return the finished run at ``path``; None where it is not finished, or only a fold can tell.

    Works without the lock: a process that has it and wrote nothing has changed nothing. Trusts only a file that could
    be opened for writing: no link, owned by this user, and writable by no one else.
    """
    disk = Disk()
    try:
        handle = disk.open(path)
    except (UsageError, OSError):
        # Opening the manifest for writing reports the problem, with its place.
        return None
    try:
        manifest = Reading(handle)
        ended = _settled_end(manifest)
        return None if ended is None else _verify_chain(manifest, ended)
    except (ManifestError, OSError):
        return None
    finally:
        disk.close(handle)


def last_end(path: Path) -> EndedLine | None:
    """Return the end of the last process, from the last line; None where it is running, or was killed.

    Raises UsageError where the file cannot be opened.
    """
    with reading(path) as manifest:
        return _last_end(manifest)


def _last_end(manifest: Reading) -> EndedLine | None:
    tail = manifest.read(max(0, manifest.size - _TAIL), _TAIL)
    body = tail[tail.rfind(b"\n", 0, -1) + 1 : -1 - SEAL]
    if tail[-1:] != b"\n" or not body.startswith(b'{"ended":'):
        return None
    line = parse_line(body)
    return line if isinstance(line, EndedLine) else None


def _settled_end(manifest: Reading) -> EndedLine | None:
    """Return the end line where no target that it counts is left to do; the chain is not verified yet."""
    line = _last_end(manifest)
    if line is None or not line.counts:
        return None
    # A run clones undone targets again.
    is_over = all((state.is_final and state is not State.UNDONE) or state is State.WITHDRAWN for state in line.counts)
    return line if is_over else None


def _verify_chain(manifest: Reading, ended: EndedLine) -> FinishedRun | None:
    """Verify the chain of checksums from the first line to the last."""
    header: Header | None = None
    plan: PlanLine | None = None
    pinned, users = PinFold(), Users()
    for bodies in manifest.scan.chunks():
        header = header or parse_header(bodies[0])
        for body in [body for body in bodies if body[: len(_USUAL)] != _USUAL and body.startswith(_PLAN)]:
            line = parse_line(body)
            if isinstance(line, DeletingLine):
                # Only a fold can determine whether the clone is known to be gone.
                return None
            if isinstance(line, PlanLine):
                plan = line
            elif isinstance(line, Pins):
                pinned.take(line)
            users.add(line)
    if (
        header is None
        or plan is None
        or manifest.torn_bytes()
        or plan.targets != ended.counts.total() - ended.counts[State.WITHDRAWN]
    ):
        return None
    return FinishedRun(header, plan, pinned.pins, ended.counts, users)
