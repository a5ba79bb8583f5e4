"""A whole manifest in a few figures, for ``status``, the summary of a run and its exit code."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from batch.manifest.fold import RETRIED, Past
from batch.manifest.handovers import HANDED_OVER, counted, parse_handed_over, refusal
from batch.manifest.kinds import EndedLine, PlanLine, StartedLine
from batch.manifest.line import fields
from batch.manifest.reading import reading
from batch.manifest.records import parse_line, parse_record
from batch.model import Handed, HandedOver, Intent, Record, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batch.manifest.header import Header

_RECENT: Final = 200
_ENDINGS: Final = tuple(f'{{"state":"{state.value}"'.encode() for state in State if state.is_final)
_FAILURES: Final = tuple(f'{{"state":"{state}"'.encode() for state in (State.FAILED, State.CONFLICT))
_PROCESS: Final = (b'{"started":', b'{"ended":')


@dataclass(frozen=True, slots=True)
class Cluster:
    """Targets that did not end well in the same way."""

    state: State
    code: str
    """ZStack's code or the tool's own; empty where there was none."""
    count: int
    key: str
    """One of them; empty where the one that was known is open again."""
    error: str
    """What was said of the first of them."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one manifest."""

    header: Header
    plan: PlanLine | None
    counts: Counter[State]
    clusters: tuple[Cluster, ...]
    """The largest first."""
    started: StartedLine | None
    """The last process that wrote."""
    ended: EndedLine | None
    """How that process ended; None while it runs or where it was killed."""
    settled_at: tuple[float, ...]
    """When the last few clones settled, seconds since the epoch."""
    torn_bytes: int
    """Bytes after the last whole line: a write under way or one cut short."""
    handed: Handed = field(default_factory=Handed)
    """Hand-overs, as far as the manifest alone can tell."""


class _Figures:
    """Folds lines into what Past does not keep."""

    def __init__(self) -> None:
        self.past = Past()
        self.clusters: dict[tuple[State, str], Cluster] = {}
        self.settled: deque[bytes] = deque(maxlen=_RECENT)
        self.refused: dict[str, HandedOver] = {}
        self.started: StartedLine | None = None
        self.ended: EndedLine | None = None

    def watch(self, bodies: Iterator[bytes]) -> Iterator[bytes]:
        """Pass the lines on, with a look at them."""
        for body in bodies:
            if body.startswith(_ENDINGS):
                self.settled.append(body)
                if body.startswith(_FAILURES):
                    self.count(parse_record(body))
            elif body.startswith(_PROCESS):
                self._turn(body)
            elif body.startswith(HANDED_OVER):
                self._hand_over(parse_handed_over(fields(body)))
            elif RETRIED in body:
                self._take_back(parse_record(body))
            yield body

    def _take_back(self, record: Record) -> None:
        """Forget a failure that was opened again."""
        for kind in ((State.FAILED, record.error_code or ""), (State.CONFLICT, record.error_code or "")):
            known = self.clusters.pop(kind, None)
            if known is not None:
                key = "" if known.key == record.key else known.key
                if known.count > 1:
                    self.clusters[kind] = replace(known, count=known.count - 1, key=key)
                return

    def _hand_over(self, line: HandedOver) -> None:
        self.refused.pop(line.key, None)
        if line.error_code is not None:
            self.refused[line.key] = line

    def _turn(self, body: bytes) -> None:
        line = parse_line(body)
        if isinstance(line, StartedLine):
            self.started, self.ended = line, None
        elif isinstance(line, EndedLine):
            self.ended = line

    def count(self, one: Record | Intent) -> None:
        code = one.error_code or ""
        known = self.clusters.get((one.state, code))
        self.clusters[one.state, code] = (
            Cluster(one.state, code, 1, one.key, one.error or "")
            if known is None
            else replace(known, count=known.count + 1, key=known.key or one.key)
        )


def summary(path: Path) -> Summary:
    """Return the figures of the manifest at ``path``. Raises UsageError or ManifestError where it cannot be read."""
    figures = _Figures()
    with reading(path) as manifest:
        figures.past.add_all(figures.watch(manifest.bodies()))
        figures.past.finish()
        torn_bytes = manifest.torn_bytes()
    for intent in figures.past.intents.values():
        if intent.state is State.UNCERTAIN:
            figures.count(intent)
    for line in figures.refused.values():
        figures.count(Record(State.CLONED, line.key, line.at, error_code=line.error_code, error=refusal(line)))
    overs = figures.past.hand_overs
    return Summary(
        header=manifest.header,
        plan=figures.past.plan,
        counts=figures.past.counts,
        clusters=tuple(sorted(figures.clusters.values(), key=lambda cluster: (-cluster.count, cluster.code))),
        started=figures.started,
        ended=figures.ended,
        settled_at=tuple(parse_record(body).at for body in figures.settled),
        torn_bytes=torn_bytes,
        handed=counted(figures.past.plan, figures.past.counts, done=overs.done, refused=overs.refused),
    )
