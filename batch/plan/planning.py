"""The planning of one run: which queries the server must answer, and the plan from its answers."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.errors import JobFileError, UsageError
from batch.jobfile.envelope import NAME_PATTERN
from batch.jobfile.input_files import CHANGED
from batch.jobfile.job import QueryEntry
from batch.jobfile.load import load
from batch.jobfile.problems import Complaint, Problems, fail, quote
from batch.model import Pins, Plan, Problem
from batch.plan.clones import CloneBuilder, warn_of_wide
from batch.plan.identity import Duplicates, PlanDigest
from batch.plan.pins import Answers, Questions, digest_pins, render_condition
from batch.plan.rearchitect import measure_coverage
from batch.plan.references import check_references
from batch.plan.render import RenderError, RunNames, render
from batch.zstack.params import BODY_PARAMS, too_new

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from batch.jobfile import Job
    from batch.jobfile.job import Target
    from batch.model import Clone, Place
    from batch.plan.rearchitect import Coverage
    from batch.plan.references import ServerResources

USED_UP: Final = "the clone of this uuid was undone, and the server keeps the uuid: give another one, or none"
FORMAT: Final = "zclone-plan-1"
"""Changes whenever the same inputs would give another plan."""

_NONE: Final = Pins()
_RUN: Final = re.compile(NAME_PATTERN)
_REARCHITECT: Final = frozenset({"cpuArchitectures", "architectureImages", "vendorToSpecUuidsMap"})
_SURROGATE: Final = b"\\ud"
"""Prefix of the escape of a character above U+FFFF in a body; a few others share it."""


class Setting(NamedTuple):
    """Origin of a parameter's value."""

    layer: str
    """``target``, ``from`` (the entry of its file), ``defaults``, ``source`` (``keep``) or ``rearchitect``."""
    place: Place
    """Place of the value as written; of the target for ``source`` and ``rearchitect``."""
    rendered: bool = False
    """Whether it was written with ``$`` and rendered by the plan."""

    def __str__(self) -> str:
        """Return layer and place."""
        how = ", rendered" if self.rendered else ""
        return f"{self.layer}{how}, {self.place.file}:{self.place.line}:{self.place.column}"


class Draft(NamedTuple):
    """A plan with placeholders for the server's missing answers; final where none is missing."""

    planning: Planning
    plan: Plan
    questions: Questions

    def finish(self, more: Pins) -> Plan:
        """Return the final plan with ``more`` answers. Raises JobFileError."""
        return self.planning.answer(more).plan() if self.questions else self.plan


class Planning:
    """One run of one job with the pinned answers of the server.

    ``draft`` checks everything that can be checked without the server and returns the queries that it must answer;
    ``answer`` returns the planning with the answers, and its ``plan`` is final. Each of these reads the job file again.
    """

    def __init__(self, job: Job, *, run: str | None, started_at: float, pins: Pins = _NONE) -> None:
        """Start with ``run`` of ``--run``, None for the job's own; ``started_at`` is the same on every resume.

        Raises UsageError or JobFileError as ``run_id`` does.
        """
        self.job = job
        self.run = run_id(job, run=run, started_at=started_at)
        self.started_at = started_at
        self.pins = pins
        self._names = {**RunNames.at(started_at, job.name, job.timezone)._asdict(), "run": self.run, **job.vars}

    def answer(self, more: Pins) -> Planning:
        """Return the planning with ``more`` answers of the server."""
        pins = Pins({**self.pins.sources, **more.sources}, {**self.pins.queries, **more.queries})
        return Planning(self.job, run=self.run, started_at=self.started_at, pins=pins)

    def draft(self) -> Draft:
        """Check and plan every target without the server. Raises JobFileError with all their problems."""
        questions = Questions(self.pins)
        return Draft(self, self._plan(questions), questions)

    def plan(self) -> Plan:
        """Check and plan every target. Raises JobFileError with all their problems."""
        return self._plan(Answers(self.pins))

    def inputs_digest(self) -> str:
        """Return 64 hex digits over everything that determines the plan: files, run, start, pins and the plan's format.

        Empty where a file cannot be read: ``draft`` and ``plan`` then report why.
        """
        job, names = self.job, RunNames.at(self.started_at, self.job.name, self.job.timezone)
        # A row of a from: file may contain ${date} too, so the start counts wherever there may be one.
        total = hashlib.sha256(f"{FORMAT}\0{job.name}\0{self.run}\0{names.date}\0{names.time}\0".encode())
        try:
            own, *others = job.targets.digests()
        except (OSError, JobFileError):
            return ""
        total.update(b"".join((own, f"{job.rearchitect}\0{digest_pins(self.pins)}".encode(), *others)))
        return total.hexdigest()

    def refuse_undone(self, was_undone: Callable[[str], bool]) -> None:
        """Raise JobFileError for each ``resourceUuid`` of the user's whose clone was undone."""
        problems = Problems()
        for target, clone in self._walk(Answers(self.pins), Problems()):
            if clone.is_given and was_undone(clone.resource_uuid):
                problems.add(target.problem(Complaint("params.resourceUuid", USED_UP)))
        problems.raise_any()

    def check(
        self,
        *,
        version: tuple[int, int, int] | None,
        absent: Collection[str] = (),
        resources: ServerResources | None = None,
    ) -> tuple[Problem, ...]:
        """Check the plan, which has no other problem, against the server; return the warnings.

        ``version``: the server's, None where it is unknown. ``absent``: source uuids that do not exist. ``resources``:
        what the server shows of the other resources that the plan names. Raises JobFileError with all problems, each at
        its place.
        """
        # zstack/README.md 4: older servers silently drop a parameter, and the clone is another one.
        missing = too_new(BODY_PARAMS, version) if version is not None else {}
        newer = {name: ".".join(map(str, since)) for name, since in missing.items()}
        if not newer and not absent and (resources is None or not resources.rows):
            return ()
        problems = Problems()
        for target, clone in self._walk(Answers(self.pins), problems):
            if target.uuid in absent:
                message = f"the source {target.uuid} does not exist on the server, or this account may not see it"
                problems.add(target.problem(Complaint("", message, kind=message)))
            for name in newer.keys() & clone.params.keys():
                message = f"{name} needs ZStack {newer[name]}; this server would silently drop it"
                problems.add(target.problem(Complaint(f"params.{name}", message)))
            for complaint, is_warning in check_references(clone, resources) if resources is not None else ():
                (problems.warn if is_warning else problems.add)(target.problem(complaint))
        problems.raise_any()
        return problems.warnings

    def locate(self, messages: Mapping[str, str]) -> Iterator[Problem]:
        """Place each of ``messages``, which are by source uuid, at the first target of its source."""
        left = dict(messages)
        for target in self._targets(Answers(self.pins), Problems()) if left else ():
            if target.uuid in left:
                yield target.problem(Complaint("", left.pop(target.uuid)))

    def explain(self) -> Iterator[tuple[Clone, Callable[[], Mapping[str, Setting]]]]:
        """Yield every clone with a function that returns the Setting of each of its parameters.

        Targets with problems are left out. Raises JobFileError where a file can no longer be read.
        """
        for target, clone in self.pairs():
            yield clone, partial(_settings, target, clone)

    def pairs(self) -> Iterator[tuple[Target, Clone]]:
        """Yield every clone with its target, as ``explain`` does."""
        return self._walk(Answers(self.pins), Problems())

    def coverage(self) -> Iterator[Coverage]:
        """Try the rules of ``rearchitect:`` on every pinned source."""
        if self.job.rearchitect is not None:
            targets = partial(self._targets, Answers(self.pins), Problems())
            yield from measure_coverage(self.job.rearchitect, self.pins, targets)

    def _walk(self, answers: Answers, problems: Problems) -> Iterator[tuple[Target, Clone]]:
        """Yield every clone with its target, as CloneBuilder does; those with problems are reported instead."""
        build, report = CloneBuilder(self.job, self.run, self._names, answers.source).pairs, problems.add
        for target in self._targets(answers, problems):
            yield from build(target, report)

    def _targets(self, answers: Answers, problems: Problems) -> Iterator[Target]:
        for row in self.job.targets.read(problems):
            if isinstance(row, QueryEntry):
                yield from map(row.target, self._find(row, answers, problems))
            else:
                yield row

    def _find(self, query: QueryEntry, answers: Answers, problems: Problems) -> Collection[str]:
        rendered = []
        for index, condition in enumerate(query.conditions):
            try:
                rendered.append(render_condition(condition, self._names))
            except RenderError as error:
                problems.add(query.origin.problem(Complaint(f"query[{index}]", str(error))))
                return ()
        uuids = answers.find(query.conditions, rendered)
        if not uuids:
            problems.add(query.origin.problem(Complaint("query", "finds no model service")))
        return uuids

    def _plan(self, answers: Answers) -> Plan:
        # Computed before the pass: files edited meanwhile must not get the digest of a plan without the edit.
        inputs = self.inputs_digest()
        problems = Problems()
        digest = self.check_targets(answers, problems)
        problems.raise_any()
        name, plan_digest = self.job.name, digest.hexdigest()
        clones = partial(self._stream, answers, plan_digest)
        return Plan(name, self.run, plan_digest, digest.count, clones, inputs, digest.hand_overs, problems.warnings)

    def check_targets(self, answers: Answers, problems: Problems) -> PlanDigest:
        """Add the problems of all targets to ``problems``, and return the digest of the targets without any."""
        digest, duplicates = PlanDigest(), Duplicates()
        try:
            for target, clone in self._walk(answers, problems):
                digest.add(clone)
                duplicates.add(target, clone)
                if _SURROGATE in clone.body:
                    warn_of_wide(target, clone, problems)
            duplicates.report(lambda: self._walk(answers, Problems()), problems)
        except JobFileError as error:
            problems.extend(error.problems)
        return digest

    def _stream(self, answers: Answers, digest: str) -> Iterator[Clone]:
        """Yield the clones of the plan that has ``digest``. Raises JobFileError where they have changed."""
        problems = Problems()
        streamed = PlanDigest()
        for _, clone in self._walk(answers, problems):
            streamed.add(clone)
            yield clone
        problems.raise_any()
        if streamed.hexdigest() != digest:
            raise fail(str(self.job.path), f"an input file {CHANGED}")


def load_job(path: Path) -> Job:
    """Read a job file. Raises JobFileError with all its problems, those of its targets as ``draft`` finds them."""
    return load(path, check=_check_targets)


def _check_targets(job: Job, problems: Problems) -> None:
    # The value of `run:` affects no problem of a target.
    Planning(job, run=job.name, started_at=0.0).check_targets(Questions(_NONE), problems)


def run_id(job: Job, *, run: str | None, started_at: float) -> str:
    """Return the run's identity: ``run`` (of ``--run``) or else the job's own, rendered at ``started_at``.

    Raises UsageError for a bad ``run``, JobFileError for a bad one in the file.
    """
    names = RunNames.at(started_at, job.name, job.timezone)
    try:
        rendered_run = render(job.run if run is None else run, names._asdict())
    except RenderError as error:
        raise _bad_run(job, run, str(error)) from None
    if not _RUN.fullmatch(rendered_run):
        raise _bad_run(job, run, f"must be letters, digits, . _ or -, at most 100, not {quote(rendered_run)}")
    return rendered_run


def _bad_run(job: Job, run: str | None, message: str) -> UsageError:
    if run is not None:
        return UsageError(f"--run {message}")
    return JobFileError([Problem(job.run_place, "run", message)])


def _settings(target: Target, clone: Clone) -> Mapping[str, Setting]:
    return {name: _setting(target, name) for name in clone.params}


def _setting(target: Target, name: str) -> Setting:
    place = target.problem(Complaint(f"params.{name}", "")).place
    if name in target.layer.params:
        return Setting("target", place, name in target.layer.templates)
    rendered = name in target.entry.base.templates
    if name in target.entry.own:
        return Setting("from", place, rendered)
    if name in target.entry.base.params:
        return Setting("defaults", place, rendered)
    return Setting("rearchitect" if name in _REARCHITECT else "source", place)
