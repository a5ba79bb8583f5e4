"""Merges the manifests of all shards of one run into a new one, which every command reads like that of a whole run."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from batch.errors import ExitCode, ManifestError, ManifestMismatchError
from batch.keytable import KeyTable
from batch.manifest.files import Disk, write_manifest
from batch.manifest.fold import ManifestFold
from batch.manifest.kinds import EndedLine, MergedLine, PlanLine, PlannedLine, StartedLine
from batch.manifest.line import encode_line, without_batch
from batch.manifest.reader import exclude_writers, open_reader
from batch.manifest.records import encode_ended, encode_plan, parse_line
from batch.model import HandOverCounts, Record, State
from batch.text import shell_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from batch.manifest.line import Header
    from batch.model import JsonValue

_SAME: Final = ("job", "run", "endpoint", "simulated", "tag")
_NAMED: Final = 10
_WORST: Final = (ExitCode.BROKEN, ExitCode.UNFINISHED, ExitCode.FAILED)
_PLAN: Final = b'{"plan":'
_PINNED: Final = b'{"pinned":'


@dataclass(frozen=True, slots=True)
class Merge:
    """Result of a merge."""

    path: Path
    shards: int
    counts: Counter[State]
    """Targets of all shards by state."""


@dataclass(slots=True)
class _Shard:
    """The manifest of one shard."""

    path: Path
    header: Header
    plan: PlanLine
    number: int
    """K of K/N, from 0."""
    of: int
    past: ManifestFold
    ended: EndedLine | None
    lines: int
    crc: int

    @property
    def name(self) -> str:
        return f"{self.number}/{self.of}"


def merge(
    paths: Sequence[Path], out: Path, *, tool: str, disk: Disk | None = None, clock: Callable[[], float] = time.time
) -> Merge:
    """Write ``out`` from the manifests of all shards of one run; those are not changed.

    ``tool``: name and version of the writer. ``clock``: returns seconds since the epoch. Raises UsageError where a file
    cannot be used, ManifestMismatchError naming what does not belong together or has to be run or repaired first,
    ManifestLockedError where a process writes to one of them, ManifestError where one is damaged before its end or
    ``out`` cannot be written.
    """
    with ExitStack() as locks:
        for path in paths:
            locks.enter_context(exclude_writers(path))
        shards = sorted(map(_read, paths), key=lambda shard: shard.number)
        _require_one_run(shards)
        _require_all(shards)
        _require_disjoint(shards)
        for shard in shards:
            _require_no_workflow(shard)
        # A shard whose process was killed comes last, so that the new file has no end of a process either.
        shards.sort(key=lambda shard: shard.ended is None)
        header = replace(
            shards[0].header,
            tool=tool,
            created_at=min(shard.header.created_at for shard in shards),
            at_most_once=any(shard.past.is_at_most_once for shard in shards),
        )
        counts = sum((shard.past.counts for shard in shards), Counter[State]())
        write_manifest(out, _bodies(shards, header, clock(), counts), disk or Disk())
    return Merge(out, len(shards), counts)


def _read(path: Path) -> _Shard:
    """Fold a manifest.

    Raises ManifestMismatchError where its end is damaged, or it is not known to belong to a shard.
    """
    past, plan, ended = ManifestFold(), None, None
    with open_reader(path) as manifest:
        for body in manifest.bodies():
            line = parse_line(body)
            past.add(line)
            if isinstance(line, PlanLine) and line.shard:
                plan = line
            elif isinstance(line, StartedLine | EndedLine):
                ended = line if isinstance(line, EndedLine) else None
        past.finish()
        past.is_at_most_once |= manifest.header.at_most_once
        lines, crc = manifest.scan.line, manifest.scan.crc
        is_end_damaged = manifest.scan.may_be_durable()
    if is_end_damaged:
        # The lines may have been durable, and only a run or a repair of this manifest records what they may have sent.
        raise ManifestMismatchError(
            f"{path}: line {lines + 1}: damaged, and targets may have been sent because of it: run this shard again "
            f"with its --shard and merge then, or run `zclone repair {shell_path(path)}`"
        )
    if plan is None:
        raise ManifestMismatchError(
            f"{path}: no plan of a shard is recorded: it belongs to a whole run or an older zclone, or the run never "
            "began; only what `zclone run --shard K/N` wrote can be merged"
        )
    number, of = _numbers(path, plan.shard)
    return _Shard(path, manifest.header, plan, number, of, past, ended, lines, crc)


def _numbers(path: Path, shard: str) -> tuple[int, int]:
    number, _, of = shard.partition("/")
    if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise ManifestError(f"{path}: its plan is of the shard {shard!r}, which is not K/N: not written by zclone")
    return int(number), int(of)


def _require_one_run(shards: Sequence[_Shard]) -> None:
    first = shards[0]
    for other in shards[1:]:
        for name in _SAME:
            ours, theirs = getattr(first.header, name), getattr(other.header, name)
            if ours != theirs:
                raise ManifestMismatchError(f"{name}: {first.path} is of {ours!r}, {other.path} of {theirs!r}")
        if first.of != other.of:
            raise ManifestMismatchError(f"shards: {first.path} is {first.name}, {other.path} is {other.name}")
        if first.plan.whole != other.plan.whole:
            raise ManifestMismatchError(
                f"plan: {first.path} is of the whole plan {first.plan.whole}, {other.path} of {other.plan.whole}: the "
                "job file or what it found on the server differed; run the shards again with the same job file"
            )


def _require_all(shards: Sequence[_Shard]) -> None:
    """Raise ManifestMismatchError for a shard that is given twice, or not at all."""
    by_number: dict[int, _Shard] = {}
    for shard in shards:
        twin = by_number.setdefault(shard.number, shard)
        if twin is not shard:
            raise ManifestMismatchError(f"overlap: {twin.path} and {shard.path} both belong to shard {shard.name}")
    missing = [f"{number}/{shards[0].of}" for number in range(shards[0].of) if number not in by_number]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise ManifestMismatchError(f"gap: no manifest of shard {', '.join(missing[:_NAMED])}{more}")


def _require_disjoint(shards: Sequence[_Shard]) -> None:
    """Raise ManifestMismatchError for a target that is recorded in two shards."""
    seen = KeyTable(4)
    suspects: dict[int, set[str]] = {}
    for ordinal, shard in enumerate(shards):
        for key in _keys(shard.path):
            known = seen.get(hash(key))
            if known is None:
                seen.put(hash(key), ordinal)
            elif known != ordinal:
                # Two keys may share a hash: only equal ones are an overlap.
                suspects.setdefault(known, set()).add(key)
    for ordinal, keys in suspects.items():
        for key in _keys(shards[ordinal].path):
            if key in keys:
                others = [shard.path for shard in shards if shard.past.is_planned(key)]
                raise ManifestMismatchError(f"overlap: the target {key} is in {' and in '.join(map(str, others[:2]))}")


def _require_no_workflow(shard: _Shard) -> None:
    """Raise ManifestMismatchError where Temporal may still make clones: only this shard collects them."""
    past = shard.past
    if past.remote is not None and any(not state.is_final and state is not State.WITHDRAWN for state in past.counts):
        raise ManifestMismatchError(
            f"{shard.path}: the shard may still be in progress on Temporal, workflow {past.remote.workflow_id}: follow "
            f"it to its end with zclone run JOB --engine temporal --shard {shard.name}, or end it with --cancel as well"
        )


def _keys(path: Path) -> Iterator[str]:
    with open_reader(path) as manifest:
        for body in manifest.bodies():
            line = parse_line(body)
            if isinstance(line, PlannedLine):
                yield from (key for key, _ in line.targets)
            elif isinstance(line, Record):
                yield line.key


def _bodies(shards: Sequence[_Shard], header: Header, at: float, counts: Counter[State]) -> Iterator[bytes]:
    """Yield the open bodies of the new file."""
    yield header.body()
    for number, shard in enumerate(shards):
        yield _encode_merged(MergedLine(str(shard.path), shard.name, shard.lines, f"{shard.crc:08x}", at))
        with open_reader(shard.path) as manifest:
            for body in manifest.bodies():
                if body.startswith(_PLAN):
                    yield from _earlier_plan(shard, body)
                # The plans of all shards have the same pins: once is enough.
                elif not (number and body.startswith(_PINNED)):
                    yield without_batch(body)
    plan = shards[0].plan
    targets, hand_overs = (sum(getattr(shard.plan, name) for shard in shards) for name in ("targets", "hand_overs"))
    # Without the digest of the inputs: no process has verified that they still give the whole plan.
    yield encode_plan(PlanLine(plan.whole, "", targets, max(shard.plan.at for shard in shards), hand_overs))
    ended = [shard.ended for shard in shards if shard.ended is not None]
    if len(ended) == len(shards):
        yield encode_ended(_end(ended, counts))


def _earlier_plan(shard: _Shard, body: bytes) -> Iterator[bytes]:
    """Yield the plan line in ``body`` unless it is of the shard's last plan, which the whole plan contains.

    Earlier plans say whether a clone may have been handed over that has no hand-over now.
    """
    line = parse_line(body)
    assert isinstance(line, PlanLine)
    if line.digest != shard.plan.digest:
        yield encode_plan(replace(line, inputs="", shard="", whole=""))


def _encode_merged(merged: MergedLine) -> bytes:
    head: list[tuple[str, JsonValue]] = [("merged", merged.path), ("shard", merged.shard), ("lines", merged.lines)]
    return encode_line([*head, ("checksum", merged.checksum), ("at", merged.at)])


def _end(ended: Sequence[EndedLine], counts: Counter[State]) -> EndedLine:
    """Return the end line for a run whose shards ended with ``ended``: the worst one gives the reason."""
    worst = min(ended, key=lambda end: _WORST.index(end.exit_code) if end.exit_code in _WORST else len(_WORST))
    handed = [end.handed for end in ended if end.handed is not None]
    total = None
    if len(handed) == len(ended):
        total = HandOverCounts(*(sum(getattr(one, name) for one in handed) for name in ("done", "open", "refused")))
    return replace(worst, at=max(end.at for end in ended), counts=counts, handed=total)
