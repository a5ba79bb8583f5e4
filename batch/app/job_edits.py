"""Edits of the job file since the last run: targets that were changed, removed or restored.

A target that left the job file gets a ``withdrawn`` record if it has no attempt in progress, so that every reader
counts the same. A settled target keeps its state, and an uncertain one is queried. ``--only`` and ``--shard`` withdraw
nothing.
"""

from __future__ import annotations

import time
from asyncio import to_thread
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batch.app.handover import is_hand_over_left
from batch.app.messages import warn
from batch.app.selection import retry_records
from batch.engine.survey import Survey, describe_outdated, refuse_changes, refuse_taken, survey
from batch.keytable import KeyTable
from batch.manifest import rows
from batch.model import Record, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batch.app.options import RunOptions
    from batch.manifest import Manifest
    from batch.model import Intent, Plan


def require_no_late_changes(options: RunOptions, survey: Survey) -> None:
    """Raise ManifestMismatchError for targets edited after they were sent; warn of those already cloned."""
    refuse_taken(survey.taken)
    if not options.accept_changes:
        refuse_changes(survey.changed)
    warning = describe_outdated(survey.outdated, is_strict=options.strict)
    if warning is not None:
        warn([warning])


@dataclass(frozen=True, slots=True)
class RemainingWork:
    """The part of a plan that its manifest shows as not done."""

    plan: Plan
    found: Survey
    retried: list[Record]
    """Records, not yet written, that plan targets again: those of ``retry``, and undone ones."""
    is_done: bool


async def find_remaining_work(options: RunOptions, plan: Plan, manifest: Manifest, *, whole: Plan) -> RemainingWork:
    """Return the remaining work of ``plan``, a part of ``whole``.

    Raises ManifestMismatchError for targets edited after they were sent.
    """
    past = manifest.past
    found = await to_thread(survey, plan, past, whole=whole)
    require_no_late_changes(options, found)
    if found.changed or found.outdated:
        # The clones differ from the job file, so unchanged inputs must not make a rerun take the run as finished.
        plan = replace(plan, inputs="")
    retried = await to_thread(retry_records, manifest, plan, options.retry)
    if options.retry is None:
        retried += await to_thread(_undone, manifest, plan)
    is_handed_over = not await to_thread(is_hand_over_left, plan, past, is_whole=plan.count == whole.count)
    is_done = found.is_nothing_left and not retried and is_handed_over
    return RemainingWork(plan, found, retried, is_done)


def _undone(manifest: Manifest, plan: Plan) -> list[Record]:
    """Return the records that plan undone targets again."""
    past = manifest.past
    if not past.counts[State.UNDONE]:
        return []
    finals = ((clone.key, past.final(clone.key)) for clone in plan.clones())
    return [Record(State.PLANNED, key, time.time()) for key, final in finals if final and final[0] is State.UNDONE]


async def record_edits_and_retries(manifest: Manifest, rest: RemainingWork, whole: Plan) -> Survey:
    """Record edits of the job file and retried targets; return the survey after that."""
    is_changed = await record_edits(manifest, whole)
    await record_all(manifest, rest.retried)
    if is_changed or rest.retried:
        return await to_thread(survey, rest.plan, manifest.past, whole=whole)
    return rest.found


async def record_edits(manifest: Manifest, whole: Plan) -> bool:
    """Record which targets left or returned to the job file, durably; return whether there are any.

    ``whole``: the plan of all targets in the file, even if the run covers only a part.
    """
    records = await to_thread(lambda: list(_edits(manifest, whole)))
    await record_all(manifest, records)
    withdrawn = sum(record.state is State.WITHDRAWN for record in records)
    if withdrawn:
        warn([f"{withdrawn} targets left the job file and have no clone: withdrawn"])
    return bool(records)


async def record_shard(manifest: Manifest, rest: RemainingWork) -> None:
    """Record the plan of a shard with nothing left, also an empty one: ``merge`` compares the whole plan of each."""
    if rest.is_done and rest.plan.shard:
        await manifest.write_plan(rest.plan, ())


async def record_all(manifest: Manifest, records: Iterable[Record]) -> None:
    """Append all ``records`` and flush them to disk."""
    for record in records:
        manifest.note(record)
    await manifest.flush()


def _edits(manifest: Manifest, whole: Plan) -> Iterator[Record]:
    past = manifest.past
    counts = past.counts
    withdrawn, undone = counts[State.WITHDRAWN], counts[State.UNDONE]
    # One that left the file in doubt is planned once its attempts have ended.
    may_be_left = counts[State.PLANNED] and counts.total() - withdrawn > whole.count
    if past.plan is None or (past.plan.digest == whole.digest and not (withdrawn or undone or may_be_left)):
        return
    in_file = KeyTable(1)
    known = 0
    for key, _ in whole.listing():
        in_file.put(hash(key), 0)
        known += past.is_planned(key)
    if known == counts.total() and not withdrawn:
        return
    intents = past.intents
    for row in rows(manifest.path):
        is_in_file = in_file.get(hash(row.key)) is not None
        is_without_clone = row.state is State.UNDONE or (
            row.state is State.PLANNED and _is_unsent(intents.get(row.key))
        )
        if is_without_clone and not is_in_file:
            yield Record(State.WITHDRAWN, row.key, time.time())
        elif row.state is State.WITHDRAWN and is_in_file:
            yield Record(State.PLANNED, row.key, time.time())


def _is_unsent(intent: Intent | None) -> bool:
    """Return whether no attempt of a planned target can be in progress: each was retracted or has ended."""
    return intent is None or (intent.job_uuid is None and not intent.open_jobs)
