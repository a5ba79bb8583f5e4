"""``zclone rollback``: delete a run's clones that are unchanged and not in use."""

from __future__ import annotations

import time
from asyncio import to_thread
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from batch import __version__
from batch.app.clone_changes import ChangeExecutor, Objection
from batch.app.deletions import CloneDeletion, find_pending, open_jobs_of, why_foreign
from batch.app.run_access import read_plan, run_locked
from batch.app.verifier import Item, Verifier
from batch.errors import ExitCode
from batch.model import State
from batch.report.verification import Verification
from batch.text import escape
from batch.zstack.calls import JOB_GRACE, LONGEST_JOB, UUIDS_A_QUERY, CloneReader, ServiceChanges
from batch.zstack.queries import QueryApi

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from batch.app.run_access import LockedRun, VerifyOptions
    from batch.manifest.targets import Targets
    from batch.model import Plan


_OPEN: Final = frozenset({State.SENT, State.ACCEPTED, State.UNCERTAIN})
_PENDING: Final = "an earlier attempt may still be executing: roll back again later"


class Candidates(NamedTuple):
    """The targets of a run, as a rollback classifies them."""

    items: tuple[Item, ...]
    """Targets whose clone this run made, newest first."""
    objections: Mapping[str, Objection]
    """Objections from manifest and job file, by key."""
    left: Mapping[str, str]
    """Reason why the other targets are left, by key."""

    def without(self, pending: Collection[str]) -> Candidates:
        """Return the candidates without those of which the server may still execute an earlier attempt, by key.

        It would make another clone once this one's uuid is free.
        """
        items = tuple(item for item in self.items if item.target.key not in pending)
        return self._replace(items=items, left={**self.left, **dict.fromkeys(pending, _PENDING)})


def find_candidates(targets: Targets, plan: Plan) -> Candidates:
    """Separate the clones of this run from others; ``plan``: with the uuids of the current generations."""
    items: list[Item] = []
    objections: dict[str, Objection] = {}
    left: dict[str, str] = {}
    for item in _items(targets, plan):
        if item.target.state is State.CLONED:
            foreign = why_foreign(item, targets)
            if foreign:
                left[item.target.key] = f"foreign: {foreign}"
                continue
            items.append(item)
            change = _change(item)
            if change:
                objections[item.target.key] = Objection(change)
        elif item.target.state in _OPEN:
            left[item.target.key] = f"{item.target.state}: not known yet whether it exists; zclone run settles it"
    items.sort(key=lambda item: item.target.at, reverse=True)
    return Candidates(tuple(items), objections, left)


def _items(targets: Targets, plan: Plan) -> Iterator[Item]:
    seen = bytearray(len(targets))
    for clone in plan.clones():
        ordinal = targets.find(clone.key)
        if ordinal is not None:
            seen[ordinal] = 1
            yield Item(ordinal, targets.read(ordinal), clone)
    for ordinal, is_seen in enumerate(seen):
        if not is_seen:
            yield Item(ordinal, targets.read(ordinal), None)


def _change(item: Item) -> str:
    """Return how a target was edited since its clone was made; empty if it was not."""
    if item.clone is None:
        return "edited: its target left the job file"
    return "" if item.target.digest == item.clone.digest else "edited: its target was changed since it was made"


@dataclass(slots=True)
class RollbackResult:
    """What a rollback found and did, by keys of targets, with a reason if there is one."""

    job: str
    run: str
    wanted: dict[str, str] = field(default_factory=dict)
    """Uuids of the clones to delete, newest first."""
    gone: list[str] = field(default_factory=list)
    """Clones that are already gone."""
    left: dict[str, str] = field(default_factory=dict)
    undone: set[str] = field(default_factory=set)
    unknown: dict[str, str] = field(default_factory=dict)
    shard: str = ""
    """``K/N`` where the manifest is of that part of the job only."""
    is_done: bool = False
    """Whether the operator confirmed and the rollback completed."""

    @property
    def exit_code(self) -> ExitCode:
        """Return 4 if anything is unknown or was not done, else 3 if anything was left, else 0."""
        if self.unknown or not self.is_done:
            return ExitCode.UNFINISHED
        return ExitCode.FAILED if self.left else ExitCode.OK

    def planned_lines(self) -> Iterator[str]:
        """Yield what would be deleted and what left."""
        yield self._head(f"{len(self.wanted)} to delete, {len(self.gone)} already gone, {len(self.left)} left")
        yield from (escape(f"delete    {key}  {uuid}") for key, uuid in self.wanted.items())
        yield from (escape(f"gone      {key}") for key in self.gone)
        yield from (escape(f"left      {key}  {why}") for key, why in self.left.items())

    def lines(self) -> Iterator[str]:
        """Yield what was deleted, what left, and what is unknown."""
        yield self._head(f"{len(self.undone)} undone, {len(self.left)} left, {len(self.unknown)} unknown")
        yield from (escape(f"left      {key}  {why}") for key, why in self.left.items())
        yield from (escape(f"unknown   {key}  {why}") for key, why in self.unknown.items())

    def _head(self, counts: str) -> str:
        part = f", shard {self.shard} only" if self.shard else ""
        return escape(f"{self.job}, run {self.run}{part}: {counts}")


def roll_back(options: VerifyOptions, confirm: Callable[[RollbackResult], bool]) -> RollbackResult:
    """Roll a run back; ``confirm``: receives what would be deleted and left, and returns whether to proceed.

    Raises UsageError, ManifestError, UnreachableError, RunStoppedError.
    """
    return run_locked(
        options, lambda run: _roll_back(run, confirm), command="rollback", reason="clones were rolled back"
    )


async def _roll_back(run: LockedRun, confirm: Callable[[RollbackResult], bool]) -> RollbackResult:
    found = await roll_back_plan(run, await read_plan(run.job, run.targets, run.server), confirm)
    run.exit_code = found.exit_code
    return found


async def roll_back_plan(run: LockedRun, plan: Plan, confirm: Callable[[RollbackResult], bool]) -> RollbackResult:
    """Roll back a locked run; ``plan``: the plan of the current job file. Raises RunStoppedError."""
    targets, manifest, server = run.targets, run.manifest, run.server
    client, header = await server.client(), targets.header
    query_api, readback = QueryApi(client), CloneReader(client)
    identity = await query_api.identity()
    service_changes = ServiceChanges(client)
    candidates = await to_thread(find_candidates, targets, plan)
    jobs = open_jobs_of(item.target for item in candidates.items)
    pending = await find_pending(jobs, service_changes, server.clock, api_timeout=targets.api_timeout)
    candidates = candidates.without(pending)
    tool = f"zclone {__version__}"
    shown = Verification(header.job, header.run, header.endpoint, str(manifest.path), tool, time.time())
    verifier = Verifier(targets, plan, shown, identity=identity, readback=readback, query_api=query_api)
    deletion = CloneDeletion(
        verifier,
        readback,
        service_changes,
        identity=identity,
        objections=candidates.objections,
        longest_job=LONGEST_JOB if targets.api_timeout is None else targets.api_timeout + JOB_GRACE,
    )
    shard = "" if targets.plan is None else targets.plan.shard
    found = RollbackResult(header.job, header.run, left=dict(candidates.left), shard=shard)
    await _survey(candidates, deletion, found)
    found.is_done = not found.wanted and not found.gone and not _has_begun(candidates, targets)
    if found.is_done or not await to_thread(confirm, found):
        return found
    executor = ChangeExecutor(
        manifest, deletion, service_changes, clock=server.clock, stop=run.stop, concurrency=run.job.limits.concurrency
    )
    try:
        await executor.run(candidates.items, targets.deleting)
        found.is_done = True
    finally:
        found.left = {**candidates.left, **executor.left}
        found.undone, found.unknown = executor.done, executor.unknown
    return found


def _has_begun(candidates: Candidates, targets: Targets) -> bool:
    return any(item.target.key in targets.deleting for item in candidates.items)


async def _survey(candidates: Candidates, deletion: CloneDeletion, result: RollbackResult) -> None:
    """Check every clone once, for the list to confirm."""
    page: list[Item] = []
    for start in range(0, len(candidates.items), UUIDS_A_QUERY):
        page = list(candidates.items[start : start + UUIDS_A_QUERY])
        objections = await deletion.objections(page)
        for item in page:
            _sort(item, objections.get(item.target.key), result)


def _sort(item: Item, objection: Objection | None, result: RollbackResult) -> None:
    key = item.target.key
    if objection is None:
        result.wanted[key] = str(item.target.clone_uuid)
    elif objection.is_done:
        result.gone.append(key)
    else:
        result.left[key] = objection.text
