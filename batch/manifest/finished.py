"""A run that is finished, told from the last line of its manifest: no record is read, every checksum is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError, UsageError
from batch.manifest.files import Disk
from batch.manifest.header import Header, parse_header
from batch.manifest.kinds import EndedLine, PlanLine
from batch.manifest.line import SEAL
from batch.manifest.pinned import Pinned
from batch.manifest.reading import Reading
from batch.manifest.records import parse_line
from batch.model import Pins, State

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

_TAIL: Final = 1 << 12
_PLAN: Final = (b'{"pinned":', b'{"plan":')
_USUAL: Final = b'{"state":"'


@dataclass(frozen=True, slots=True)
class Finished:
    """What the last process left behind: nothing to do, as long as the plan is still ``plan``."""

    header: Header
    plan: PlanLine
    pins: Pins
    counts: Counter[State]
    """Targets by state, all of them final; as many as the plan has."""


def finished(path: Path) -> Finished | None:
    """Return how the run at ``path`` ended, None where it did not end, or where only a fold can tell.

    Without the lock: a process that has it and wrote nothing has changed nothing. Believed is only a file that could
    be gone on with: no link, nobody else's, and nobody else may write to it.
    """
    disk = Disk()
    try:
        handle = disk.open(path)
    except (UsageError, OSError):
        # Whoever opens the manifest to go on with it says what is wrong with it, and where.
        return None
    try:
        manifest = Reading(handle)
        ended = _ended(manifest)
        return None if ended is None else _checked(manifest, ended)
    except (ManifestError, OSError):
        return None
    finally:
        disk.close(handle)


def _ended(manifest: Reading) -> EndedLine | None:
    """Return the last line where it says that every target is settled for good; it is not yet known to be true."""
    tail = manifest.read(max(0, manifest.size - _TAIL), _TAIL)
    body = tail[tail.rfind(b"\n", 0, -1) + 1 : -1 - SEAL]
    if tail[-1:] != b"\n" or not body.startswith(b'{"ended":'):
        return None
    line = parse_line(body)
    if not isinstance(line, EndedLine) or not line.counts:
        return None
    return line if all(state.is_final for state in line.counts) else None


def _checked(manifest: Reading, ended: EndedLine) -> Finished | None:
    """Follow the chain of checksums from the first line to the last."""
    header: Header | None = None
    plan: PlanLine | None = None
    pinned = Pinned()
    for bodies in manifest.scan.chunks():
        header = header or parse_header(bodies[0])
        for body in [body for body in bodies if body[: len(_USUAL)] != _USUAL and body.startswith(_PLAN)]:
            line = parse_line(body)
            if isinstance(line, PlanLine):
                plan = line
            elif isinstance(line, Pins):
                pinned.take(line)
    if header is None or plan is None or manifest.torn_bytes() or plan.targets != ended.counts.total():
        return None
    return Finished(header, plan, pinned.pins, ended.counts)
