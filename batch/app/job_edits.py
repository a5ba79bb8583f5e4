"""Targets that changed in, left or returned to a job file that was edited since the last run.

A target that left the job file is withdrawn by a record, so that every reader counts the same, where no attempt of it
is under way. What has an end keeps it, and what is in doubt is asked about. ``--only`` and ``--shard`` withdraw
nothing.
"""

from __future__ import annotations

import time
from asyncio import to_thread
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batch.app.handover import is_hand_over_left
from batch.app.messages import warn
from batch.app.retry import retry_records
from batch.engine.survey import Survey, describe_outdated, refuse_changes, refuse_taken, survey
from batch.keytable import KeyTable
from batch.manifest import rows
from batch.model import Record, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batch.app.options import RunOptions
    from batch.manifest import Manifest
    from batch.model import Intent, Plan


def require_no_late_changes(options: RunOptions, found: Survey) -> None:
    """Raise ManifestMismatchError for targets that were changed too late; warn of those that are made already."""
    refuse_taken(found.taken)
    if not options.accept_changes:
        refuse_changes(found.changed)
    warning = describe_outdated(found.outdated, is_strict=options.strict)
    if warning is not None:
        warn([warning])


@dataclass(frozen=True, slots=True)
class RemainingWork:
    """What is left to do of a plan, by its manifest."""

    plan: Plan
    found: Survey
    retried: list[Record]
    """Of the targets that ``retry`` opens again, or that were undone; not yet recorded."""
    is_done: bool


async def find_remaining_work(options: RunOptions, plan: Plan, manifest: Manifest, *, whole: Plan) -> RemainingWork:
    """Return what is left to do of ``plan``, a part of ``whole``.

    Raises ManifestMismatchError for targets that were changed too late.
    """
    past = manifest.past
    found = await to_thread(survey, plan, past, whole=whole)
    require_no_late_changes(options, found)
    if found.changed or found.outdated:
        # The clones differ from the job file: a rerun must not take the run for finished by unchanged files.
        plan = replace(plan, inputs="")
    retried = await to_thread(retry_records, manifest, plan, options.retry)
    if options.retry is None:
        retried += await to_thread(_undone, manifest, plan)
    is_done = found.is_nothing_left and not retried and not await to_thread(is_hand_over_left, plan, past)
    return RemainingWork(plan, found, retried, is_done)


def _undone(manifest: Manifest, plan: Plan) -> list[Record]:
    """Return the records by which the run makes anew what was undone."""
    past = manifest.past
    if not past.counts[State.UNDONE]:
        return []
    finals = ((clone.key, past.final(clone.key)) for clone in plan.clones())
    return [Record(State.PLANNED, key, time.time()) for key, final in finals if final and final[0] is State.UNDONE]


async def record_edits_and_retries(manifest: Manifest, rest: RemainingWork, whole: Plan) -> Survey:
    """Record what changed in the job file and what is retried; return what is found after that."""
    is_changed = await record_edits(manifest, whole)
    await record_all(manifest, rest.retried)
    if is_changed or rest.retried:
        return await to_thread(survey, rest.plan, manifest.past, whole=whole)
    return rest.found


async def record_edits(manifest: Manifest, whole: Plan) -> bool:
    """Record which targets left the job file or are back; durable on return. Return whether there are any.

    ``whole``: the plan of all targets that the file has, also where a run is only of a part.
    """
    records = await to_thread(lambda: list(_edits(manifest, whole)))
    await record_all(manifest, records)
    withdrawn = sum(record.state is State.WITHDRAWN for record in records)
    if withdrawn:
        warn([f"{withdrawn} targets left the job file before they were sent: withdrawn"])
    return bool(records)


async def record_all(manifest: Manifest, records: Iterable[Record]) -> None:
    """Append all ``records``; durable on return."""
    for record in records:
        manifest.note(record)
    await manifest.flush()


def _edits(manifest: Manifest, whole: Plan) -> Iterator[Record]:
    past = manifest.past
    withdrawn = past.counts[State.WITHDRAWN]
    if past.plan is None or (past.plan.digest == whole.digest and not withdrawn):
        return
    in_file = KeyTable(1)
    known = 0
    for key, _ in whole.listing():
        in_file.put(hash(key), 0)
        known += past.is_planned(key)
    if known == past.counts.total() and not withdrawn:
        return
    intents = past.intents
    for row in rows(manifest.path):
        is_in_file = in_file.get(hash(row.key)) is not None
        if row.state is State.PLANNED and not is_in_file and _is_unsent(intents.get(row.key)):
            yield Record(State.WITHDRAWN, row.key, time.time())
        elif row.state is State.WITHDRAWN and is_in_file:
            yield Record(State.PLANNED, row.key, time.time())


def _is_unsent(intent: Intent | None) -> bool:
    """Whether no attempt of a planned target can be under way: each was taken back or ended."""
    return intent is None or (intent.job_uuid is None and not intent.open_jobs)
