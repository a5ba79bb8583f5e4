"""The summary of a whole manifest, for ``status``, the end of a run and its exit code."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from batch.manifest.fold import ManifestFold
from batch.manifest.hand_overs import estimate_hand_overs, hand_over_error
from batch.manifest.kinds import ControlledLine, EndedLine, HandOverTry, PlanLine, StartedLine
from batch.manifest.reader import open_reader
from batch.manifest.records import parse_line
from batch.model import HandOverCounts, HandOverRecord, Intent, Record, State, waits_for_operator

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batch.manifest.kinds import Line
    from batch.manifest.line import Header

_RECENT: Final = 200
_STARTED: Final = b'{"started":'
_FAILURES: Final = frozenset({State.FAILED, State.CONFLICT})


@dataclass(frozen=True, slots=True)
class Cluster:
    """Targets with the same state and error code: failed, in conflict, uncertain, or with a refused hand-over."""

    state: State
    code: str
    """Error code of ZStack or of zclone; empty where there was none."""
    count: int
    key: str
    """Key of one of them; empty where the known one was reopened."""
    error: str
    """Error text of the first of them."""
    until: float | None = None
    """When the last POST of uncertain ones can no longer be executed, seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The summary of one manifest."""

    header: Header
    plan: PlanLine | None
    counts: Counter[State]
    clusters: tuple[Cluster, ...]
    """The largest first."""
    started: StartedLine | None
    """The last process that wrote."""
    ended: EndedLine | None
    """End of that process; None while it runs or where it was killed."""
    settled_at: tuple[float, ...]
    """When the last few clones settled, seconds since the epoch."""
    torn_bytes: int
    """Bytes after the last whole line: a write in progress or one cut short."""
    queries: Mapping[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    """The uuids that each ``query:`` returned, by its conditions: the sources of its targets."""
    handed: HandOverCounts = field(default_factory=HandOverCounts)
    """Hand-overs as the last process counted them, or as far as they follow from the manifest alone."""
    open: tuple[Intent, ...] = ()
    """Clones that were started and are not settled."""
    controlled: ControlledLine | None = None
    """Limits in force in the last process, where they were changed."""
    deleting: int = 0
    """Clones with a DELETE of a rollback on record that are not known to be gone."""
    has_undone: bool = False
    """Whether a clone was ever undone, so that only this manifest knows which uuids are used up."""

    @property
    def is_settled(self) -> bool:
        """Whether the last process recorded its end, and no target, hand-over or DELETE is left to do."""
        # A run clones undone targets again.
        is_over = all(state.is_final or state is State.WITHDRAWN for state, count in self.counts.items() if count)
        is_left = self.counts[State.UNDONE] or self.deleting or self.handed.open or self.handed.refused
        return self.ended is not None and self.plan is not None and is_over and not is_left

    @property
    def is_removable(self) -> bool:
        """Whether nothing is lost with the manifest but the history of a settled run."""
        return self.is_settled and not self.has_undone

    @property
    def shard(self) -> str:
        """The part of the job that the plan is of, ``K/N``; empty where it is of all of it."""
        return "" if self.plan is None else self.plan.shard

    @property
    def oldest(self) -> Intent | None:
        """The clone in flight that was sent first."""
        in_flight = (intent for intent in self.open if intent.state in (State.SENT, State.ACCEPTED))
        return min(in_flight, key=lambda intent: intent.first_sent_at, default=None)

    def overdue(self, now: float, *, is_refused: bool) -> int:
        """Return how many open clones no rerun settles by itself; ``now`` in seconds since the epoch."""
        return sum(waits_for_operator(intent, now, is_refused=is_refused) for intent in self.open)


class _Figures:
    """Folds the lines into what a Summary has beyond ManifestFold."""

    def __init__(self) -> None:
        self.past = ManifestFold()
        self.clusters: dict[tuple[State, str], Cluster] = {}
        self.settled: deque[float] = deque(maxlen=_RECENT)
        self.refused: dict[str, HandOverRecord] = {}
        self.started: StartedLine | None = None
        self.ended: EndedLine | None = None
        self.controlled: ControlledLine | None = None

    def add(self, line: Line) -> None:
        """Add a line."""
        self.past.add(line)
        if isinstance(line, Record):
            self._add_record(line)
        elif isinstance(line, StartedLine):
            self.started, self.ended, self.controlled = line, None, None
        elif isinstance(line, ControlledLine):
            self.controlled = line
        elif isinstance(line, EndedLine):
            self.ended = line
        elif isinstance(line, HandOverRecord):
            self._hand_over(line)
        elif isinstance(line, HandOverTry):
            self.refused.pop(line.of.key, None)

    def _add_record(self, record: Record) -> None:
        if record.state is State.UNDONE:
            self.refused.pop(record.key, None)
        if record.state.is_final:
            self.settled.append(record.at)
            if record.state in _FAILURES:
                self.count(record)
        elif record.retried:
            self._take_back(record)

    def _take_back(self, record: Record) -> None:
        """Remove a failure that was reopened."""
        for kind in ((State.FAILED, record.error_code or ""), (State.CONFLICT, record.error_code or "")):
            known = self.clusters.pop(kind, None)
            if known is not None:
                key = "" if known.key == record.key else known.key
                if known.count > 1:
                    self.clusters[kind] = replace(known, count=known.count - 1, key=key)
                return

    def _hand_over(self, line: HandOverRecord) -> None:
        self.refused.pop(line.key, None)
        if line.error_code is not None:
            self.refused[line.key] = line

    def count(self, one: Record | Intent) -> None:
        code = one.error_code or ""
        known = self.clusters.get((one.state, code))
        self.clusters[one.state, code] = (
            Cluster(one.state, code, 1, one.key, one.error or "", one.until)
            if known is None
            else replace(
                known,
                count=known.count + 1,
                key=known.key or one.key,
                until=max(filter(None, (known.until, one.until)), default=None),
            )
        )


def summary(path: Path) -> Summary:
    """Return the summary of the manifest at ``path``. Raises UsageError or ManifestError where it cannot be read."""
    figures = _Figures()
    with open_reader(path) as manifest:
        for body in manifest.bodies():
            figures.add(parse_line(body))
        figures.past.finish()
        torn_bytes = manifest.torn_bytes()
    intents = tuple(figures.past.intents.values())
    for intent in intents:
        if intent.state is State.UNCERTAIN:
            figures.count(intent)
    # What was refused before the last process may not be in the job file any more: only that process read it.
    is_over = figures.ended is not None and figures.ended.has_no_refusal
    for line in () if is_over else figures.refused.values():
        figures.count(Record(State.CLONED, line.key, line.at, error_code=line.error_code, error=hand_over_error(line)))
    overs, ended = figures.past.hand_overs, figures.ended
    estimated = estimate_hand_overs(figures.past.plan, figures.past.counts, done=overs.done, refused=overs.refused)
    return Summary(
        header=manifest.header,
        plan=figures.past.plan,
        counts=figures.past.counts,
        clusters=tuple(sorted(figures.clusters.values(), key=lambda cluster: (-cluster.count, cluster.code))),
        started=figures.started,
        ended=figures.ended,
        settled_at=tuple(figures.settled),
        torn_bytes=torn_bytes,
        queries=figures.past.pinned.pins.queries,
        handed=estimated if ended is None or ended.handed is None else ended.handed,
        open=intents,
        controlled=figures.controlled,
        deleting=len(figures.past.undone.deleting),
        has_undone=bool(figures.past.undone),
    )


def was_at_most_once(path: Path) -> bool:
    """Return whether a process of a manifest ran with --at-most-once. Raises UsageError, ManifestError."""
    with open_reader(path) as manifest:
        return any(body.startswith(_STARTED) and b'"at_most_once":true' in body for body in manifest.bodies())
