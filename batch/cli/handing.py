"""The last phase of a run, after the pool: clones are shared and given to their owners."""

from __future__ import annotations

from asyncio import to_thread
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import structlog

from batch.cli.clock import SystemClock
from batch.cli.terminal import say
from batch.engine import hand_over_all
from batch.engine.handover import handed
from batch.manifest import rows
from batch.zstack.ownership import OWNER_MESSAGE, SHARE_MESSAGE, Ownership

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch.engine import Stop
    from batch.manifest import Manifest, Past
    from batch.model import Clone, HandedOver, Plan
    from batch.zstack.client import Client
    from batch.zstack.surroundings import Surroundings

_MOST_ASKED: Final = 20_000
"""Accounts that are looked up before anything is sent."""
_SHOWN: Final = 5


def is_left(plan: Plan, past: Past) -> bool:
    """Whether a clone of the plan is made and not handed over, also where the server refused that before."""
    found = handed(plan, past)
    return bool(found.open or found.refused)


async def hand_over(plan: Plan, manifest: Manifest, client: Client, *, workers: int, stop: Stop) -> None:
    """Hand over what the plan says and nothing did yet, unless the run was asked to end. Raises RunStoppedError."""
    if not plan.hand_overs or stop.requested:
        return
    await hand_over_all(
        plan,
        manifest.past,
        registrar=Ownership(client),
        journal=_Told(manifest),
        clock=SystemClock(),
        workers=workers,
        stop=stop,
        uuid_of=await _uuids(manifest),
    )


async def tell_rights(plan: Plan, surroundings: Surroundings) -> None:
    """Warn of hand-overs that cannot be done; the server says so only once the clones are made."""
    if not plan.hand_overs:
        return
    asked = {
        OWNER_MESSAGE: any(clone.hand_over and clone.hand_over.owner for clone in plan.clones()),
        SHARE_MESSAGE: any(clone.hand_over and clone.hand_over.share_with for clone in plan.clones()),
    }
    denied = [name for name, is_used in asked.items() if is_used and await surroundings.check_permission(name) is False]
    for message in denied:
        say(f"warning: this account may not call {message.rpartition('.')[2]}: the clones could not be handed over")
    if await surroundings.check_permission(OWNER_MESSAGE):
        # Only who may give things away sees the accounts of others.
        wanted = set(islice(_accounts(plan), _MOST_ASKED))
        for uuid in islice(sorted(wanted - await surroundings.accounts(wanted)), _SHOWN):
            say(f"warning: the account {uuid} does not exist on the server: no clone could be handed over to it")


def _accounts(plan: Plan) -> Iterator[str]:
    for clone in plan.clones():
        if clone.hand_over is not None:
            yield from clone.hand_over.share_with
            if clone.hand_over.owner is not None:
                yield clone.hand_over.owner


async def _uuids(manifest: Manifest) -> Callable[[Clone], str]:
    """Return what tells the uuid a clone was made with: the one it was asked for, wherever the server honours that."""
    if manifest.past.canary_passed:
        return attrgetter("resource_uuid")
    await manifest.flush()
    made = await to_thread(lambda: {row.key: row.clone_uuid for row in rows(manifest.path) if row.clone_uuid})
    return lambda clone: made.get(clone.key, clone.resource_uuid)


class _Told:
    """Writes each line to the manifest first, then tells of it."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._log = structlog.get_logger()

    def note_hand_over(self, line: HandedOver) -> None:
        self._manifest.note_hand_over(line)
        if line.error_code is None:
            self._log.info("clone.handed_over", key=line.key, clone_uuid=line.clone_uuid)
        else:
            self._log.warning(
                "clone.not_handed_over",
                key=line.key,
                clone_uuid=line.clone_uuid,
                error_code=line.error_code,
                error=line.error,
            )
