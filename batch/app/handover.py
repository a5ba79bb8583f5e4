"""Hand-over, the last phase of a run: clones are shared and their owners changed."""

from __future__ import annotations

from asyncio import to_thread
from typing import TYPE_CHECKING

from batch.app.messages import say
from batch.clock import SystemClock
from batch.engine import hand_over_all
from batch.engine.handover import count_hand_overs
from batch.errors import ManifestError
from batch.manifest import clone_lines, digest_prefix
from batch.zstack.changes import Ownership
from batch.zstack.queries import OWNER_MESSAGE, SHARE_MESSAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batch.app.logging_journal import LoggingJournal
    from batch.engine import Stop
    from batch.manifest import Manifest, ManifestFold
    from batch.model import Clone, Plan
    from batch.zstack.client import Client
    from batch.zstack.queries import QueryApi


def is_hand_over_left(plan: Plan, past: ManifestFold, *, is_whole: bool) -> bool:
    """Return whether a clone of the plan is cloned but not handed over; a refused hand-over counts as not done.

    So does a refused one that the whole plan no longer has, as the manifest still counts it.
    """
    found = count_hand_overs(plan, past)
    return bool(found.open or found.refused or (is_whole and past.hand_overs.refused))


async def hand_over(
    plan: Plan, manifest: Manifest, client: Client, *, journal: LoggingJournal, workers: int, stop: Stop
) -> None:
    """Hand over each clone of the plan whose hand-over is pending, unless the run is stopping.

    Raises RunStoppedError, and ManifestError if the manifest has another uuid than the one requested for a clone.
    """
    if not plan.hand_overs or stop.requested:
        return
    await manifest.flush()
    uuid_of = await to_thread(uuids_of, plan, manifest, journal.made)
    await hand_over_all(
        plan,
        manifest.past,
        registrar=Ownership(client),
        journal=journal,
        clock=SystemClock(),
        workers=workers,
        stop=stop,
        uuid_of=uuid_of,
    )


def uuids_of(plan: Plan, manifest: Manifest, made: Mapping[str, str]) -> Callable[[Clone], str | None]:
    """Return a function from a clone to the uuid to hand over, or None; ``made``: uuids this process cloned, by key."""
    past = manifest.past
    edited = _find_edited(plan, manifest) if plan.hand_overs and not past.is_at_most_once else set()

    def uuid_of(clone: Clone) -> str | None:
        if past.is_at_most_once:
            # Clones of earlier processes: only the manifest says that they are ours.
            return made.get(clone.key)
        return None if clone.key in edited or past.was_made_elsewhere(clone.key) else clone.resource_uuid

    return uuid_of


async def warn_of_missing_rights(plan: Plan, query_api: QueryApi) -> None:
    """Warn of missing permissions for hand-overs before cloning; the server would refuse only afterwards."""
    if not plan.hand_overs:
        return
    used = {
        OWNER_MESSAGE: any(clone.hand_over and clone.hand_over.owner for clone in plan.clones()),
        SHARE_MESSAGE: any(clone.hand_over and clone.hand_over.share_with for clone in plan.clones()),
    }
    denied = [name for name, is_used in used.items() if is_used and await query_api.check_permission(name) is False]
    for message in denied:
        say(f"warning: this account may not call {message.rpartition('.')[2]}: the clones cannot be handed over")


def _find_edited(plan: Plan, manifest: Manifest) -> set[str]:
    """Return the keys of clones that were made under another uuid before the job file was edited.

    A uuid that only the manifest names is never used: anyone who can write the manifest could name any resource.
    Raises ManifestError with the line of a clone whose uuid is not the requested one.
    """
    used = {clone.key: clone for clone in plan.clones() if clone.hand_over is not None}
    edited: set[str] = set()
    # For an undone target, its latest clone counts.
    last = {record.key: (line, record) for line, record in clone_lines(manifest.path) if record.key in used}
    for line, record in last.values():
        clone = used[record.key]
        if record.clone_uuid == clone.resource_uuid:
            continue
        final = manifest.past.final(record.key)
        if final is None or final[1] in (0, digest_prefix(clone.digest)):
            raise ManifestError(
                f"{manifest.path}: line {line} says that {record.key} was made as {record.clone_uuid}, but "
                f"{clone.resource_uuid} was requested: nothing is handed over; check who wrote the manifest"
            )
        edited.add(record.key)
    return edited
