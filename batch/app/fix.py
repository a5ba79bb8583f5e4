"""``zclone verify --fix``: set drifted fields of a run's clones to the values of the job file.

One UpdateModelService call per clone sets all fields that the API accepts; the others are reported and stay drifted.
"""

from __future__ import annotations

import json
from asyncio import to_thread
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from batch.app.clone_changes import ChangeExecutor, Objection
from batch.app.deletions import why_foreign
from batch.app.run_access import next_command, read_plan, run_locked
from batch.app.verifier import Item
from batch.app.verify import read_back
from batch.errors import ExitCode, UsageError
from batch.manifest.kinds import UpdatedLine, UpdatingLine
from batch.manifest.targets import open_targets
from batch.model import State
from batch.report.verification import Verdict, verification_lines
from batch.text import escape
from batch.zstack.calls import ServiceChanges
from batch.zstack.params import SETTABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from batch.app.clone_changes import ChangeLine
    from batch.app.run_access import LockedRun, VerifyOptions
    from batch.app.verifier import Verifier
    from batch.manifest import Manifest
    from batch.manifest.targets import Targets
    from batch.model import JsonValue, Plan
    from batch.report.verification import Finding, Verification
    from batch.zstack.answers import SubmitAnswer

_UNSETTABLE = "UpdateModelService cannot set it"


@dataclass(slots=True)
class FixResult:
    """What a verification found, what was to be set, and what was set; by keys of targets."""

    found: Verification
    """The verification after the updates; the first one if nothing was updated."""
    next_command: str
    """The command that continues the run."""
    wanted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The fields to set."""
    left: dict[str, str] = field(default_factory=dict)
    """Reason why some or all drifted fields of a target are left as they are."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Reason why the outcome for a target is unknown."""
    failed: set[str] = field(default_factory=set)
    """Targets whose PUT changed nothing."""
    updated: set[str] = field(default_factory=set)
    """Targets whose wanted fields are set."""

    def planned_lines(self) -> Iterator[str]:
        """Yield the findings, then the fields to set."""
        yield from verification_lines(self.found, next_command=self.next_command)
        yield from (escape(f"to set    {key}  {', '.join(fields)}") for key, fields in self.wanted.items())


def fix_run(options: VerifyOptions, confirm: Callable[[FixResult], bool]) -> FixResult:
    """Verify a run and set drifted fields; ``confirm``: receives what would be set, and returns whether to proceed.

    Raises UsageError, ManifestError, UnreachableError, RunStoppedError.
    """
    if options.reopen or options.proof is not None:
        raise UsageError("--fix: cannot be combined with --reopen or --proof: use them in a separate zclone verify")
    return run_locked(options, lambda run: _fix(run, confirm), command="verify --fix", reason="clones were updated")


async def _fix(run: LockedRun, confirm: Callable[[FixResult], bool]) -> FixResult:
    plan = await read_plan(run.job, run.targets, run.server)
    found, verifier = await read_back(run.targets, plan, run.server, path=run.path)
    fix = FixResult(replace(found, findings=list(found.findings)), next_command(run.job, run.targets, run.path))
    drifted = {finding.key: finding for finding in found.findings if finding.verdict is Verdict.DRIFTED}
    earlier_calls = run.targets.updating
    items = await to_thread(lambda: list(_items(run.targets, plan, drifted.keys() | earlier_calls.keys())))
    _sort(items, drifted, run.targets, fix)
    fix.found.remark(fix.left)
    is_agreed = await to_thread(confirm, fix)
    # A call left open by an earlier process is closed by a record even if nothing is to be set, without a new call.
    keys = (fix.wanted.keys() if is_agreed else set()) | (earlier_calls.keys() - fix.wanted.keys())
    work = [item for item in items if item.target.key in keys]
    if work:
        await _update(run, work, CloneUpdate(verifier, ServiceChanges(await run.server.client()), fix.wanted), fix)
        await _verify_again(run, plan, fix)
    # A run clones undone targets again; the ending line of this process must not hide that.
    is_undone = run.manifest.past.counts[State.UNDONE] > 0
    run.exit_code = ExitCode.UNFINISHED if is_undone else fix.found.exit_code
    return fix


def _items(targets: Targets, plan: Plan, keys: set[str]) -> Iterator[Item]:
    """Yield the targets with these keys, if cloned and in the job file."""
    for clone in plan.clones():
        ordinal = targets.find(clone.key) if clone.key in keys else None
        item = None if ordinal is None else Item(ordinal, targets.read(ordinal), clone)
        if item is not None and item.target.state is State.CLONED:
            yield item


def _sort(items: Iterable[Item], drifted: Mapping[str, Finding], targets: Targets, fix: FixResult) -> None:
    """Divide the drifted fields into those to set and those to leave."""
    for item in items:
        key = item.target.key
        if key not in drifted:
            continue
        settable, others = _split(drifted[key])
        if foreign := why_foreign(item, targets):
            fix.left[key] = f"foreign: {foreign}"
        elif key in targets.deleting:
            fix.left[key] = "a DELETE of it is on record: zclone rollback continues that"
        else:
            if settable:
                fix.wanted[key] = settable
            if others:
                fix.left[key] = f"{', '.join(others)}: {_UNSETTABLE}"
    for key in drifted.keys() - fix.wanted.keys() - fix.left.keys():
        fix.left[key] = "its target left the job file, which no longer gives its values"


def _split(finding: Finding) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a finding's parameters that can be set, and its fields that cannot."""
    names = {one.field: one.field.partition("[")[0] for one in finding.differences}
    others = tuple(shown for shown, name in names.items() if name not in SETTABLE)
    return tuple(dict.fromkeys(name for name in names.values() if name in SETTABLE)), others


class CloneUpdate:
    """The change that sets drifted fields: those that were listed and still differ at the check."""

    api = "UpdateModelService"
    past_tense = "updated"
    is_repeatable = True

    def __init__(
        self, verifier: Verifier, service_changes: ServiceChanges, listed: Mapping[str, tuple[str, ...]]
    ) -> None:
        """Use a ``verifier`` that has read all clones and so knows which fields the server shows."""
        self._verifier = verifier
        self._service_changes = service_changes
        self._listed = listed
        self._fields: dict[str, tuple[str, ...]] = {}
        """Fields to set according to the last check, by key."""

    async def objections(self, page: Sequence[Item]) -> dict[str, Objection]:
        """Return the objections to updating clones of the page, by key. Raises CallFailedError."""
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
            return Objection("the differing fields cannot be set or were not listed", is_done=True)
        self._fields[key] = fields
        return None

    def line(self, item: Item, *, at: float, job_uuid: str) -> ChangeLine:
        """Return the line to record before a PUT."""
        key, uuid = item.target.key, str(item.target.clone_uuid)
        return UpdatingLine(key, at, uuid, job_uuid, self._fields[key], _digest(item))

    def is_same(self, item: Item, line: ChangeLine) -> bool:
        """Return whether a recorded PUT sets the same fields to the same values."""
        wanted = self.line(item, at=line.at, job_uuid=line.job_uuid)
        return replace(line, was_sent_before=False) == wanted

    def contradicts(self, item: Item, line: ChangeLine) -> bool:
        """Return whether a recorded PUT sets values of another job file."""
        return isinstance(line, UpdatingLine) and line.digest != _digest(item)

    async def send(self, item: Item, job_uuid: str) -> SubmitAnswer:
        """Send the PUT."""
        assert item.clone is not None
        params: dict[str, JsonValue] = json.loads(item.clone.body)["params"]
        values = {name: params[name] for name in self._fields[item.target.key]}
        return await self._service_changes.update(str(item.target.clone_uuid), values, job_uuid)

    def note_done(self, manifest: Manifest, item: Item, line: ChangeLine | None, *, at: float) -> None:
        """Record that the fields of the last PUT, if there was one, have the wanted values."""
        if isinstance(line, UpdatingLine):
            manifest.note_operation(UpdatedLine(item.target.key, at, line.clone_uuid, line.fields))


def _digest(item: Item) -> str:
    assert item.clone is not None
    return item.clone.digest


async def _update(run: LockedRun, work: Sequence[Item], update: CloneUpdate, fix: FixResult) -> None:
    """Set the fields of ``work`` and store the outcome in ``fix``."""
    service_changes, concurrency = ServiceChanges(await run.server.client()), run.job.limits.concurrency
    clock, stop = run.server.clock, run.stop
    executor = ChangeExecutor(run.manifest, update, service_changes, clock=clock, stop=stop, concurrency=concurrency)
    await executor.run(work, run.targets.updating)
    fix.updated = executor.done & fix.wanted.keys()
    fix.failed = set(executor.left)
    for key, why in executor.left.items():
        fix.left[key] = "; ".join(filter(None, (fix.left.get(key), why)))
    fix.unknown = executor.unknown


async def _verify_again(run: LockedRun, plan: Plan, fix: FixResult) -> None:
    """Store a second verification in ``fix``; a target whose PUT may still be executed is unknown."""
    await run.manifest.flush()
    with open_targets(run.path) as targets:
        fix.found, _ = await read_back(targets, plan, run.server, path=run.path)
    still = {finding.key for finding in fix.found.findings if finding.verdict is Verdict.DRIFTED}
    fix.found.remark({key: why for key, why in fix.left.items() if key in still})
    fix.found.remark(fix.unknown, Verdict.UNKNOWN)
