"""``zclone verify --fix``: drifted fields of a run's clones set as the job file asks for.

One UpdateModelService sets all fields of a clone that it can. The others are named and stay drifted.
"""

from __future__ import annotations

import json
from asyncio import to_thread
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from batch.app.clone_changes import ChangeExecutor, Objection
from batch.app.locked_run import run_locked
from batch.app.rollback_checks import has_own_uuid
from batch.app.verifier import Item
from batch.app.verify import next_command, read_back, read_plan
from batch.errors import ExitCode
from batch.manifest.kinds import MendedLine, MendingLine
from batch.manifest.targets import open_targets
from batch.model import State
from batch.report.verification import Verdict
from batch.zstack.service_jobs import SETTABLE, ServiceJobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from batch.app.clone_changes import ChangeLine
    from batch.app.locked_run import LockedRun
    from batch.app.verifier import Verifier
    from batch.app.verify import VerifyOptions
    from batch.manifest import Manifest
    from batch.manifest.targets import Targets
    from batch.model import JsonValue, Plan
    from batch.report.verification import Finding, Verification
    from batch.zstack.answers import SubmitAnswer

_UNSETTABLE = "UpdateModelService cannot set it"


@dataclass(slots=True)
class FixResult:
    """What a verification found, what was to be set of it, and what was; by keys of targets."""

    found: Verification
    """What is so once all was set, as a second verification found it; the first one where nothing was."""
    again: str
    """The command that goes on with the run."""
    wanted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The fields that are to be set."""
    left: dict[str, str] = field(default_factory=dict)
    """Why drifted fields, or all of a target's, are left."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Why nobody knows what becomes of a target."""
    failed: set[str] = field(default_factory=set)
    """Targets of which a PUT set nothing."""
    updated: set[str] = field(default_factory=set)
    """Targets whose fields that were to be set are."""


def fix_run(options: VerifyOptions, confirm: Callable[[FixResult], bool]) -> FixResult:
    """Verify a run and set what drifted. ``confirm``: shown what would be set, and asked whether it may be.

    Raises UsageError, ManifestError, UnreachableError, RunStoppedError.
    """
    return run_locked(options, lambda run: _fix(run, confirm), command="verify --fix", reason="clones were updated")


async def _fix(run: LockedRun, confirm: Callable[[FixResult], bool]) -> FixResult:
    plan = await read_plan(run.job, run.targets, run.server)
    found, verifier = await read_back(run.targets, plan, run.server, path=run.path)
    fix = FixResult(replace(found, findings=list(found.findings)), next_command(run.job, run.targets, run.path))
    drifted = {finding.key: finding for finding in found.findings if finding.verdict is Verdict.DRIFTED}
    begun = run.targets.mending
    items = await to_thread(lambda: list(_items(run.targets, plan, drifted.keys() | begun.keys())))
    _sort(items, drifted, run.targets, fix)
    fix.found.remark(fix.left)
    is_agreed = await to_thread(confirm, fix)
    # What an earlier process left open and nothing is to be set of wants a record, and nothing is sent for it.
    keys = (fix.wanted.keys() if is_agreed else set()) | (begun.keys() - fix.wanted.keys())
    work = [item for item in items if item.target.key in keys]
    if work:
        await _update(run, work, CloneUpdate(verifier, ServiceJobs(await run.server.client()), fix.wanted), fix)
        await _verify_again(run, plan, fix)
    # What was undone a run makes again, and the end of this process must not hide that.
    is_undone = run.manifest.past.counts[State.UNDONE] > 0
    run.exit_code = ExitCode.UNFINISHED if is_undone else fix.found.exit_code
    return fix


def _items(targets: Targets, plan: Plan, keys: set[str]) -> Iterator[Item]:
    """Yield the targets with these keys that have a clone and are in the job file."""
    for clone in plan.clones():
        ordinal = targets.find(clone.key) if clone.key in keys else None
        item = None if ordinal is None else Item(ordinal, targets.read(ordinal), clone)
        if item is not None and item.target.state is State.CLONED:
            yield item


def _sort(items: Iterable[Item], drifted: Mapping[str, Finding], targets: Targets, fix: FixResult) -> None:
    """Tell the fields that are to be set from those that are left."""
    for item in items:
        key = item.target.key
        if key not in drifted:
            continue
        settable, others = _split(drifted[key])
        if not has_own_uuid(item, targets):
            fix.left[key] = "its uuid is neither derived nor in the job file"
        elif key in targets.deleting:
            fix.left[key] = "a DELETE of it is on record: zclone rollback goes on with that"
        else:
            if settable:
                fix.wanted[key] = settable
            if others:
                fix.left[key] = f"{', '.join(others)}: {_UNSETTABLE}"
    for key in drifted.keys() - fix.wanted.keys() - fix.left.keys():
        fix.left[key] = "its target left the job file, which no longer says what it is to be"


def _split(finding: Finding) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the parameters of a finding that can be set, and the fields that cannot."""
    names = {one.field: one.field.partition("[")[0] for one in finding.differences}
    others = tuple(shown for shown, name in names.items() if name not in SETTABLE)
    return tuple(dict.fromkeys(name for name in names.values() if name in SETTABLE)), others


class CloneUpdate:
    """The change that sets drifted fields: those that were listed, as far as they differ when it looks."""

    api = "UpdateModelService"
    participle = "set as asked for"
    is_repeatable = True

    def __init__(self, verifier: Verifier, jobs: ServiceJobs, listed: Mapping[str, tuple[str, ...]]) -> None:
        """Share a ``verifier`` that has seen all clones, and so knows which fields the server shows."""
        self._verifier = verifier
        self._jobs = jobs
        self._listed = listed
        self._fields: dict[str, tuple[str, ...]] = {}
        """By key: what is to be set by the last look."""

    async def objections(self, page: Sequence[Item]) -> dict[str, Objection]:
        """Return by key what speaks against updating clones of the page. Raises CallFailedError."""
        findings = await self._verifier.compare_page(page)
        found = ((item.target.key, self._objection(item, findings.get(item.target.key))) for item in page)
        return {key: objection for key, objection in found if objection is not None}

    def _objection(self, item: Item, finding: Finding | None) -> Objection | None:
        key = item.target.key
        if finding is None:
            return Objection("in sync", is_done=True)
        if finding.verdict is not Verdict.DRIFTED:
            return Objection(": ".join(filter(None, (finding.verdict, finding.detail))), is_unseen=True)
        fields = tuple(name for name in _split(finding)[0] if name in self._listed.get(key, ()))
        if not fields:
            return Objection("what differs cannot be set or was not listed", is_done=True)
        self._fields[key] = fields
        return None

    def line(self, item: Item, *, at: float, job_uuid: str) -> ChangeLine:
        """Return what is recorded before a PUT."""
        key, uuid = item.target.key, str(item.target.clone_uuid)
        return MendingLine(key, at, uuid, job_uuid, self._fields[key], _digest(item))

    def is_same(self, item: Item, line: ChangeLine) -> bool:
        """Whether a PUT on record sets the same fields to the same values."""
        wanted = self.line(item, at=line.at, job_uuid=line.job_uuid)
        return line == wanted

    def contradicts(self, item: Item, line: ChangeLine) -> bool:
        """Whether a PUT on record sets values of another job file."""
        return isinstance(line, MendingLine) and line.digest != _digest(item)

    async def send(self, item: Item, job_uuid: str) -> SubmitAnswer:
        """Send the PUT."""
        assert item.clone is not None
        params: dict[str, JsonValue] = json.loads(item.clone.body)["params"]
        values = {name: params[name] for name in self._fields[item.target.key]}
        return await self._jobs.update(str(item.target.clone_uuid), values, job_uuid)

    def note_done(self, manifest: Manifest, item: Item, line: ChangeLine | None, *, at: float) -> None:
        """Record that what the last PUT was to set, if there was one, is as asked for."""
        if isinstance(line, MendingLine):
            manifest.note_operation(MendedLine(item.target.key, at, line.clone_uuid, line.fields))


def _digest(item: Item) -> str:
    assert item.clone is not None
    return item.clone.digest


async def _update(run: LockedRun, work: Sequence[Item], update: CloneUpdate, fix: FixResult) -> None:
    """Set the fields of ``work``, and say in ``fix`` what became of them."""
    jobs, concurrency = ServiceJobs(await run.server.client()), run.job.limits.concurrency
    clock, stop = run.server.clock, run.stop
    executor = ChangeExecutor(run.manifest, update, jobs, clock=clock, stop=stop, concurrency=concurrency)
    await executor.run(work, run.targets.mending)
    fix.updated = executor.done & fix.wanted.keys()
    fix.failed = set(executor.left)
    for key, why in executor.left.items():
        fix.left[key] = "; ".join(filter(None, (fix.left.get(key), why)))
    fix.unknown = executor.unknown


async def _verify_again(run: LockedRun, plan: Plan, fix: FixResult) -> None:
    """Let ``fix`` say what a verification finds now, but that a target whose PUT may still be executed is unknown."""
    await run.manifest.flush()
    with open_targets(run.path) as targets:
        fix.found, _ = await read_back(targets, plan, run.server, path=run.path)
    still = {finding.key for finding in fix.found.findings if finding.verdict is Verdict.DRIFTED}
    fix.found.remark({key: why for key, why in fix.left.items() if key in still})
    fix.found.remark(fix.unknown, Verdict.UNKNOWN)
