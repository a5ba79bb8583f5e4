"""A plan's sources as the server has them: which exist, what is in them, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from batch.cli.drafts import used_fields
from batch.cli.terminal import say
from batch.keytable import KeyTable
from batch.plan import at_sources
from batch.plan.rearchitect import IMAGES_FIELD
from batch.zstack.params import BODY_PARAMS
from batch.zstack.surroundings import UUIDS_A_QUERY, Surroundings
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from batch.jobfile import Job
    from batch.model import JsonValue, Plan

MOST_COMPARED: Final = 20_000
"""Sources whose inventories and owners are held to compare them; of more it is only asked whether they exist."""
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Estate:
    """What the server shows of a plan's sources."""

    inventories: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    """Empty where there are too many."""
    absent: Collection[str] = ()


async def estate(plan: Plan, surroundings: Surroundings) -> Estate:
    """Ask for every source of ``plan``, once each and in pages. Raises CallFailedError."""
    wanted = list(islice(_distinct(plan), MOST_COMPARED + 1))
    if len(wanted) > MOST_COMPARED:
        return Estate(absent=await _absent(_distinct(plan), surroundings))
    names = [*sorted(BODY_PARAMS), IMAGES_FIELD]
    shown = {found.uuid: used_fields(found.fields, names) async for found in surroundings.services(wanted)}
    return Estate(shown, set(wanted) - shown.keys())


def _distinct(plan: Plan) -> Iterator[str]:
    """Yield each source once, at a few bytes of memory each."""
    seen = KeyTable(1)
    # Two sources with one 64-bit hash would cost a check, no clone: the server looks at every source once more.
    return (clone.source_uuid for clone in plan.clones() if seen.put(hash(clone.source_uuid), 0))


async def _absent(uuids: Iterator[str], surroundings: Surroundings) -> set[str]:
    absent: set[str] = set()
    while page := list(islice(uuids, UUIDS_A_QUERY)):
        absent.update(set(page) - {found.uuid async for found in surroundings.services(page, fields=("uuid",))})
    return absent


async def tell_owners(job: Job, sources: Iterable[str], surroundings: Surroundings) -> None:
    """Warn, with their places, of sources that are another account's: their clones belong to whoever clones.

    wire: the owner of a clone is the caller's account, whosever the source is.
    """
    try:
        own = await surroundings.own_account()
        owners = await surroundings.owners(sources)
    except CallFailedError as error:
        say(f"warning: whose the sources are is not known: {error}")
        return
    if own is None:
        return
    foreign = {uuid: account for uuid, account in owners.items() if account.uuid != own.uuid}
    messages = {
        uuid: f"warning: the source {uuid} belongs to account {account}; its clone will belong to yours, {own}"
        for uuid, account in foreign.items()
    }
    for problem in islice(at_sources(job, messages), _SHOWN):
        say(str(problem))
    if len(foreign) > _SHOWN:
        say(f"warning: {len(foreign) - _SHOWN} more sources belong to other accounts")
