"""The targets that a run executes: selected by flags, to retry, and left to do after edits of the job file.

A target that left the job file gets a ``withdrawn`` record if it has no attempt in progress, so that every reader
counts the same. A settled target keeps its state, and an uncertain one is queried. ``--only`` and ``--shard`` withdraw
nothing.
"""

from __future__ import annotations

import json
import shlex
import time
from asyncio import to_thread
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from batch.app.messages import say, warn
from batch.engine.survey import Survey, count_hand_overs, describe_outdated, refuse_changes, refuse_taken, survey
from batch.errors import UsageError
from batch.keytable import KeyTable
from batch.model import QUARANTINED, Record, State
from batch.plan.identity import digest_part

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from batch.app.options import RunOptions
    from batch.manifest import Manifest, ManifestFold
    from batch.manifest.listing import Row
    from batch.model import Clone, Intent, Plan
    from batch.report.filters import Filter

PLANNED: Final = frozenset({"key", "source", "name", "tag"})
"""Fields of a planned target."""
RETRIABLE = (State.FAILED, State.CONFLICT, State.UNCERTAIN)
"""The only uncertain targets to retry are quarantined ones; a plain run continues the others."""
_UNMADE: Final = (State.PLANNED, State.UNCERTAIN)
"""States in which a target may be without a clone and without an attempt in progress."""
_RESULT_TERMS: Final = ("state=", "state!=", "code=", "code!=")


def select(plan: Plan, *, only: Sequence[str], shard: str | None) -> Plan:
    """Return the part of ``plan`` that ``--only`` and ``--shard`` select, or all of it. Raises UsageError."""
    if not only and shard is None:
        return plan
    from batch.report.filters import read_filter

    wanted = read_filter(only, shard=shard, fields=PLANNED)
    if not wanted:
        return plan
    is_wanted = clone_filter(wanted)

    def clones() -> Iterator[Clone]:
        return filter(is_wanted, plan.clones())

    count, hand_overs = 0, 0
    for clone in clones():
        count += 1
        hand_overs += clone.hand_over is not None
    # A part has no digest of the input files, so that a checked part never makes the whole plan count as checked.
    digest = digest_part(plan.digest, wanted.label)
    part = replace(plan, digest=digest, count=count, clones=clones, inputs="", hand_overs=hand_overs)
    if shard is None or only:
        return part
    return replace(part, shard="/".join(str(int(number)) for number in shard.split("/")), whole=plan.digest)


def clone_filter(wanted: Filter) -> Callable[[Clone], bool]:
    """Return a predicate for clones that match a filter over ``PLANNED``."""
    has_tags = "tag" in wanted.fields()
    return lambda clone: wanted.matches(_fields(clone, has_tags=has_tags))


def require_match(plan: Plan, only: Sequence[str]) -> None:
    """Raise UsageError if ``--only`` matches nothing of ``plan``; an empty shard is allowed."""
    if only and not select(plan, only=only, shard=None).count:
        shown = " ".join(f"--only {shlex.quote(expression)}" for expression in only)
        raise UsageError(f"{shown} matches none of the {plan.count:,} targets: zclone plan shows their keys")


def _fields(clone: Clone, *, has_tags: bool) -> dict[str, Collection[str]]:
    name = clone.params.get("name")
    body = json.loads(clone.body) if has_tags else {}
    return {
        "key": (clone.key,),
        "source": (clone.source_uuid,),
        "name": () if name is None else (str(name),),
        "tag": [*(body.get("userTags") or ()), *(body.get("systemTags") or ())],
    }


@dataclass(frozen=True, slots=True)
class RetryFilter:
    """Which targets are retried."""

    states: frozenset[State]
    codes: frozenset[str]
    """Empty matches any code."""
    only: Filter
    """The terms of ``--only`` on state and code."""


def read_retry(
    states: Collection[State] | None, codes: Collection[str] | None, only: Iterable[str]
) -> tuple[RetryFilter, tuple[str, ...]]:
    """Combine ``--state``, ``--code`` and the terms of ``--only`` on both; return the other terms, on the plan, too.

    A state in ``--only`` replaces the default. Raises UsageError for a state that cannot be retried.
    """
    from batch.report.filters import read_filter

    words = [word for expression in only for word in expression.split()]
    of_results = tuple(word for word in words if word.startswith(_RESULT_TERMS))
    results = read_filter(of_results, shard=None, fields=("state", "code"))
    named = [state for state in RETRIABLE if results.matches_field("state", state.value)]
    wanted = frozenset(states or (named if "state" in results.fields() else (State.FAILED,)))
    if not wanted or not wanted <= frozenset(RETRIABLE):
        raise UsageError(
            "--state takes failed, conflict, and uncertain for targets that were set aside; "
            "zclone run continues the others"
        )
    of_plan = tuple(word for word in words if word not in of_results)
    return RetryFilter(wanted, frozenset(codes or ()), results), of_plan


def retry_records(manifest: Manifest, plan: Plan, wanted: RetryFilter | None) -> list[Record]:
    """Return the records that plan the ``wanted`` targets again, under the same uuids.

    ``wanted``: None for ``run``, which retries nothing.
    """
    if wanted is None:
        return []
    from batch.manifest import rows

    ended = {row.key: row for row in rows(manifest.path) if _is_retried(row, wanted)}
    records = [_retry(ended[clone.key]) for clone in plan.clones() if clone.key in ended]
    say(f"retrying {len(records)} target{'' if len(records) == 1 else 's'}", level="info")
    return records


def _is_retried(row: Row, wanted: RetryFilter) -> bool:
    is_stuck = row.state is not State.UNCERTAIN or row.error_code == QUARANTINED
    is_named = row.state in wanted.states and (not wanted.codes or row.error_code in wanted.codes)
    values = {"key": (row.key,), "state": (row.state.value,), "code": (row.error_code or "",)}
    return is_stuck and is_named and wanted.only.matches(values)


def _retry(row: Row) -> Record:
    """Plan the target again; a quarantined one keeps its attempts and is queried first, as it may have been sent."""
    if row.state is State.UNCERTAIN:
        return Record(State.UNCERTAIN, row.key, time.time(), row.attempts, retried=True)
    return Record(State.PLANNED, row.key, time.time(), 0, error_code=row.error_code, retried=True)


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
        retried += await to_thread(_replan_undone, manifest, plan)
    is_handed_over = not await to_thread(_is_hand_over_left, plan, past, is_whole=plan.count == whole.count)
    is_done = found.is_nothing_left and not retried and is_handed_over
    return RemainingWork(plan, found, retried, is_done)


def _is_hand_over_left(plan: Plan, past: ManifestFold, *, is_whole: bool) -> bool:
    """Return whether a clone of the plan is cloned but not handed over; a refused hand-over counts as not done.

    So does a refused one that the whole plan no longer has, as the manifest still counts it.
    """
    found = count_hand_overs(plan, past)
    return bool(found.open or found.refused or (is_whole and past.hand_overs.refused))


def _replan_undone(manifest: Manifest, plan: Plan) -> list[Record]:
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
    # An unresolved target that left the file is planned, or uncertain without an open job, once its attempts ended.
    may_be_left = any(counts[state] for state in _UNMADE) and counts.total() - withdrawn > whole.count
    if past.plan is None or (past.plan.digest == whole.digest and not (withdrawn or undone or may_be_left)):
        return
    in_file = KeyTable(1)
    known = 0
    for key, _ in whole.listing():
        in_file.put(hash(key), 0)
        known += past.is_planned(key)
    if known == counts.total() and not withdrawn:
        return
    from batch.manifest import rows

    intents = past.intents
    for row in rows(manifest.path):
        is_in_file = in_file.get(hash(row.key)) is not None
        is_unmade = row.state in _UNMADE and has_no_open_job(intents.get(row.key))
        if (is_unmade or row.state is State.UNDONE) and not is_in_file:
            yield Record(State.WITHDRAWN, row.key, time.time())
        elif row.state is State.WITHDRAWN and is_in_file:
            yield Record(State.PLANNED, row.key, time.time())


def has_no_open_job(intent: Intent | None) -> bool:
    """Return whether no attempt of a planned or uncertain target is in progress: each was retracted or has ended."""
    if intent is None:
        return True
    # Also a job that ended unexecuted is open: of a request that arrived twice only the last end is known.
    return intent.job_uuid is None and not intent.open_jobs
