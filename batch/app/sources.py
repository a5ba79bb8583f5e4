"""The sources of a plan on the server: existence, inventories and owners.

Only ``plan`` checks that all sources exist. In a run a missing source fails its own target (SYS.1003), and a million
targets would cost 5,000 calls before the first POST. Up to 20,000 sources are compared; for more, only the existence of
their uuids is queried, in pages of 200.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from batch.app.messages import say
from batch.keytable import KeyTable
from batch.plan.rearchitect import IMAGES_FIELD
from batch.plan.references import CENTER_FIELD
from batch.zstack.params import BODY_PARAMS, IMAGE_FIELDS
from batch.zstack.queries import UUIDS_A_QUERY
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from batch.model import JsonValue, Plan
    from batch.plan import Planning
    from batch.zstack.queries import QueryApi

MAX_COMPARED: Final = 20_000
"""Maximum number of sources whose inventories and owners are kept for comparison."""
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Inventories:
    """The server's data about a plan's sources."""

    by_uuid: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    """Inventories by source uuid; empty if there are too many."""
    absent: Collection[str] = ()


async def read_inventories(plan: Plan, query_api: QueryApi) -> Inventories:
    """Query every distinct source of ``plan``, in pages. Raises CallFailedError."""
    wanted = list(islice(_distinct(plan), MAX_COMPARED + 1))
    if len(wanted) > MAX_COMPARED:
        return Inventories(absent=await _find_absent(_distinct(plan), query_api))
    names = [*sorted(BODY_PARAMS), IMAGES_FIELD, CENTER_FIELD]
    shown = {found.uuid: take_fields(found.fields, names) async for found in query_api.services(wanted)}
    return Inventories(shown, set(wanted) - shown.keys())


def _distinct(plan: Plan) -> Iterator[str]:
    """Yield the distinct sources, with a few bytes of memory each."""
    seen = KeyTable(1)
    # A collision of 64-bit hashes skips one check, and no clone: the server validates every source again.
    return (clone.source_uuid for clone in plan.clones() if seen.put(hash(clone.source_uuid), 0))


async def _find_absent(uuids: Iterator[str], query_api: QueryApi) -> set[str]:
    absent: set[str] = set()
    while page := list(islice(uuids, UUIDS_A_QUERY)):
        absent.update(set(page) - {found.uuid async for found in query_api.services(page, fields=("uuid",))})
    return absent


async def warn_of_owners(planning: Planning, sources: Iterable[str], query_api: QueryApi) -> None:
    """Warn, with positions, of sources of other accounts: their clones will belong to the account that clones.

    zstack/README.md 4: a clone is owned by the caller's account, regardless of the source's owner.
    """
    try:
        own = await query_api.own_account()
        owners = await query_api.owners(sources)
    except CallFailedError as error:
        say(f"warning: the owners of the sources are not known: {error}")
        return
    if own is None:
        return
    foreign = {uuid: account for uuid, account in owners.items() if account.uuid != own.uuid}
    messages = {
        uuid: f"warning: the source {uuid} belongs to account {account}; its clone will belong to yours, {own}"
        for uuid, account in foreign.items()
    }
    for problem in islice(planning.locate(messages), _SHOWN):
        say(str(problem))
    if len(foreign) > _SHOWN:
        say(f"warning: {len(foreign) - _SHOWN} more sources belong to other accounts")


def take_fields(fields: Mapping[str, JsonValue], names: Iterable[str]) -> dict[str, JsonValue]:
    """Return the inventory fields that a plan can use; of an image its architecture and its two names."""
    taken = {name: fields.get(name) for name in names}
    images = taken.get(IMAGES_FIELD)
    if isinstance(images, list):
        taken[IMAGES_FIELD] = [
            {name: row.get(name) for name in IMAGE_FIELDS} for row in images if isinstance(row, dict)
        ]
    return taken
