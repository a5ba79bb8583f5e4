"""From a Job to a Plan: every target merged, rendered and checked once, then streamed again as often as asked."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from batch.errors import JobFileError, UsageError
from batch.jobfile.envelope import NAME_PATTERN
from batch.jobfile.events import STREAMED, walk
from batch.jobfile.inputs import CHANGED
from batch.jobfile.nodes import Mapping as MappingNode
from batch.jobfile.nodes import Scalar
from batch.jobfile.problems import Problems, fail, shorten
from batch.jobfile.targets import read_targets
from batch.keytable import KeyTable
from batch.model import Pins, Plan, Problem
from batch.plan.identity import PlanDigest
from batch.plan.planner import Planner, keys
from batch.plan.render import RenderError, RunNames, render
from batch.plan.sources import askable, pins_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batch.jobfile import Job
    from batch.jobfile.job import Target
    from batch.model import Clone
    from batch.plan.sources import Sources

FORMAT: Final = "zclone-plan-1"
"""Changes whenever the same inputs would give another plan."""

_RUN: Final = re.compile(NAME_PATTERN)
_MAX_SUSPECTS: Final = 1000


def run_id(job: Job, *, run: str | None, started_at: float) -> str:
    """Return the run's identity: ``run`` (of ``--run``) or else the job's own, rendered at ``started_at``.

    Raises UsageError for a bad ``run``, JobFileError for a bad one in the file.
    """
    names = RunNames.at(started_at, job.name)
    try:
        found = render(job.run if run is None else run, names._asdict())
    except RenderError as error:
        raise _bad_run(job, run, str(error)) from None
    if not _RUN.fullmatch(found):
        raise _bad_run(job, run, f"must be letters, digits, . _ or -, at most 100, not {shorten(found)}")
    return found


def _bad_run(job: Job, run: str | None, message: str) -> UsageError:
    if run is not None:
        return UsageError(f"--run {message}")
    return JobFileError([Problem(job.run_place, "run", message)])


def expand(
    job: Job, *, run: str | None, started_at: float, sources: Sources | None = None, pins: Pins | None = None
) -> Plan:
    """Check and plan every target. Raises JobFileError with every problem of them.

    ``started_at``: the run's fixed start in seconds since the epoch, the same on every resume. ``sources``: the
    inventories, for ``${source.…}``, ``keep`` and ``rearchitect``; using them without is a problem. ``pins``: all that
    was taken from the server, and ``sources`` and ``query:`` targets answer from it.
    """
    identity = run_id(job, run=run, started_at=started_at)
    if pins is not None:
        job, sources = pinned(job, pins), pins.sources.get
    job = askable(job, run=identity, started_at=started_at)
    is_final = sources is None or pins is not None
    inputs = inputs_digest(job, run=run, started_at=started_at, pins=pins) if is_final else ""
    planner = Planner(job, identity, started_at, sources)
    problems = Problems()
    digest = _Survey(job, planner, problems).digest()
    problems.raise_any()
    found = _plan(job, planner, digest.hexdigest(), (digest.count, digest.hand_overs), inputs=inputs)
    return replace(found, warnings=problems.warnings)


def pinned(job: Job, pins: Pins) -> Job:
    """Return the job whose ``query:`` targets find what is pinned."""
    return replace(job, found=lambda conditions: pins.queries.get(conditions, ()))


def trusted(
    job: Job,
    *,
    run: str | None,
    started_at: float,
    digest: str,
    count: int,
    hand_overs: int = 0,
    pins: Pins | None = None,
) -> Plan:
    """Return the plan without checking it again.

    Only for inputs whose ``inputs_digest`` equals the one recorded with ``digest``, ``count`` and ``hand_overs``.
    """
    identity = run_id(job, run=run, started_at=started_at)
    inputs = inputs_digest(job, run=run, started_at=started_at, pins=pins)
    pins = pins or Pins()
    planner = Planner(job, identity, started_at, pins.sources.get)
    return _plan(pinned(job, pins), planner, digest, (count, hand_overs), inputs=inputs)


def inputs_digest(job: Job, *, run: str | None, started_at: float, pins: Pins | None = None) -> str:
    """Return 64 hex digits over all that decides the plan: files, run, start, pins and the plan's format.

    Empty where a file cannot be read: ``expand`` then says why.
    """
    identity = run_id(job, run=run, started_at=started_at)
    total = hashlib.sha256(f"{FORMAT}\0{job.name}\0{identity}\0{_dated(job, started_at)}\0".encode())
    total.update(job.content.digest)
    total.update(f"{job.rearchitect}\0{pins_digest(pins or Pins())}".encode())
    for path in input_files(job):
        try:
            with job.files.open(path, job.path.parent) as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError:
            return ""
    return total.hexdigest()


def _dated(job: Job, started_at: float) -> str:
    # A row of a from: file may hold ${date} too, so the start counts whenever there may be one.
    names = RunNames.at(started_at, job.name)
    return f"{names.date}\0{names.time}"


def input_files(job: Job) -> Iterator[Path]:
    """Yield the ``from:`` files in the order of the job file. Raises JobFileError where it cannot be read on."""
    if not job.content.may_name_files:
        # There is no need to read a long list of targets once more.
        return
    for key, node in walk(job.content, str(job.path), Problems()):
        if key.text == STREAMED and isinstance(node, MappingNode):
            for name, value in node.pairs:
                if name.text == "from" and isinstance(value, Scalar):
                    yield job.path.parent / value.text


def _plan(job: Job, planner: Planner, digest: str, counts: tuple[int, int], *, inputs: str) -> Plan:
    """Make the Plan; ``counts``: of the clones, and of those among them that are handed over."""

    def clones() -> Iterator[Clone]:
        problems = Problems()
        again = PlanDigest()
        made, report, count = planner.clones, problems.add, again.add
        for target in read_targets(job, problems, is_believed=True):
            for clone in made(target, report):
                count(clone)
                yield clone
        problems.raise_any()
        if again.hexdigest() != digest:
            raise fail(str(job.path), f"an input file {CHANGED}")

    def listed() -> Iterator[tuple[str, str]]:
        problems = Problems()
        count = 0
        for target in read_targets(job, problems, is_believed=True):
            for key in keys(target):
                count += 1
                yield key, target.uuid
        problems.raise_any()
        if count != counts[0]:
            raise fail(str(job.path), f"an input file {CHANGED}")

    return Plan(job.name, planner.run, digest, counts[0], clones, inputs, counts[1], listed=listed)


class _Survey:
    """The first walk: counts, digests and looks for two targets with one key or one resource uuid."""

    def __init__(self, job: Job, planner: Planner, problems: Problems) -> None:
        self._job = job
        self._planner = planner
        self._problems = problems
        self._keys = KeyTable(1)
        self._own_uuids = KeyTable(1)
        self._suspects: set[str] = set()

    def digest(self) -> PlanDigest:
        """Walk all targets; problems go to ``problems``."""
        total = PlanDigest()
        try:
            for target in read_targets(self._job, self._problems):
                for clone in self._planner.clones(target, self._problems.add):
                    total.add(clone)
                    self._look(clone, target)
            if self._suspects:
                self._compare("key", lambda clone: clone.key)
                self._compare("resourceUuid", lambda clone: clone.resource_uuid)
        except JobFileError as error:
            self._problems.extend(error.problems)
        return total

    def _look(self, clone: Clone, target: Target) -> None:
        # Python's own string hash has 64 well-spread bits; equal hashes are compared as texts later.
        if not self._keys.put(hash(clone.key), 0):
            self._suspect(clone.key)
        own = "resourceUuid" in target.layer.params or "resourceUuid" in target.entry.base.params
        if own and not self._own_uuids.put(hash(clone.resource_uuid), 0):
            self._suspect(clone.resource_uuid)

    def _suspect(self, text: str) -> None:
        if len(self._suspects) < _MAX_SUSPECTS:
            self._suspects.add(text)

    def _compare(self, what: str, name: Callable[[Clone], str]) -> None:
        """Find the first place of each suspect: equal hashes are not yet equal keys."""
        first: dict[str, Target] = {}
        for target in read_targets(self._job, Problems()):
            for clone in self._planner.clones(target, _ignore):
                shown = name(clone)
                if shown not in self._suspects:
                    continue
                if shown in first:
                    self._problems.add(target.twin_problem(what, shown, first[shown]))
                else:
                    first[shown] = target


def _ignore(_problem: Problem) -> None:
    """Drop a problem that the first walk has told."""
