"""Whether a run is finished, by the last line of its manifest: no record is read, every checksum is.

Kept for the budget of a million targets: to fold their lines takes three times the six seconds that a rerun may.

The end of a process counts its targets by state. When all are settled, the chain of checksums holds and no input
changed, a rerun reads nothing else, calls nobody and writes nothing; with hand-overs only after exit code 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError, UsageError
from batch.manifest.files import Disk
from batch.manifest.header import PROCESSES, Header, Users, parse_header
from batch.manifest.kinds import EndedLine, PlanLine
from batch.manifest.line import SEAL
from batch.manifest.pins import PinFold
from batch.manifest.reading import Reading, reading
from batch.manifest.records import parse_line
from batch.model import Pins, State

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

_TAIL: Final = 1 << 12
_PLAN: Final = (b'{"pinned":', b'{"plan":', *PROCESSES)
_USUAL: Final = b'{"state":"'


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What the last process left behind: nothing to do, as long as the plan is still ``plan``."""

    header: Header
    plan: PlanLine
    pins: Pins
    counts: Counter[State]
    """Targets by state, all of them final or withdrawn; as many final ones as the plan has."""
    users: Users


def read_finished(path: Path) -> FinishedRun | None:
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
        ended = _settled_end(manifest)
        return None if ended is None else _verify_chain(manifest, ended)
    except (ManifestError, OSError):
        return None
    finally:
        disk.close(handle)


def last_end(path: Path) -> EndedLine | None:
    """Return how the last process ended, by its last line; None where it runs, or was killed.

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
    """Return the last line where it says that every target is settled for good; it is not yet known to be true."""
    line = _last_end(manifest)
    if line is None or not line.counts:
        return None
    # What was undone a run makes again.
    is_over = all((state.is_final and state is not State.UNDONE) or state is State.WITHDRAWN for state in line.counts)
    return line if is_over else None


def _verify_chain(manifest: Reading, ended: EndedLine) -> FinishedRun | None:
    """Follow the chain of checksums from the first line to the last."""
    header: Header | None = None
    plan: PlanLine | None = None
    pinned, users = PinFold(), Users()
    for bodies in manifest.scan.chunks():
        header = header or parse_header(bodies[0])
        for body in [body for body in bodies if body[: len(_USUAL)] != _USUAL and body.startswith(_PLAN)]:
            line = parse_line(body)
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
