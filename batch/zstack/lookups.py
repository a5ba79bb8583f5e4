"""Queries rows of resources by their uuids, in pages that fit a URL (zstack/README.md 8 and 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlencode

from batch.zstack.answers import NoAnswer
from batch.zstack.decode import as_number, as_object, as_text
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from batch.model import JsonValue
    from batch.zstack.jobs import Caller


UUIDS_A_QUERY: Final = 200
"""Number of uuids of 32 digits that fit the server's 8 KiB for a request's head, with room for everything else."""


class Lookup(NamedTuple):
    """One kind of resource: its path and the requested fields."""

    api: str
    path: str
    fields: tuple[str, ...] = ()


IMAGES: Final = Lookup("QueryImage", "/v1/images", ("state", "status", "architecture"))
TAG_PATTERNS: Final = Lookup("QueryTag", "/v1/tags")
GPU_SPECS: Final = Lookup("QueryPciDeviceSpec", "/v1/pci-device-specs")
ACCOUNTS: Final = Lookup("QueryAccount", "/v1/accounts")
MODEL_CENTERS: Final = Lookup("QueryModelCenter", "/v1/ai/model-centers", ("status",))


async def look_up(caller: Caller, lookup: Lookup, uuids: Iterable[str]) -> dict[str, Mapping[str, JsonValue]]:
    """Return the rows of those of ``uuids`` that are visible.

    Raises CallFailedError, also where the answer is incomplete.
    """
    found: dict[str, Mapping[str, JsonValue]] = {}
    for batch in batches(uuids):
        arguments = [("q", f"uuid?={','.join(batch)}"), ("limit", str(len(batch)))]
        arguments += [("fields", ",".join(("uuid", *lookup.fields))), ("replyWithCount", "true")]
        query = urlencode(arguments, quote_via=quote, safe=",")
        answer = await caller.ask(lookup.api, "GET", f"{lookup.path}?{query}")
        rows, total = answer.get("inventories"), as_number(answer.get("total"))
        # Without a total it is unknown whether the server cut its answer.
        if not isinstance(rows, list) or len(rows) < (len(batch) if total is None else total):
            raise CallFailedError(lookup.api, NoAnswer("the answer is not complete"))
        for row in map(as_object, rows):
            uuid = None if row is None else as_text(row.get("uuid"))
            if row is not None and uuid is not None:
                found[uuid] = row
    return found


def batches(uuids: Iterable[str], size: int = UUIDS_A_QUERY) -> Iterator[list[str]]:
    """Yield ``uuids`` in lists that fit a URL."""
    batch: list[str] = []
    for uuid in uuids:
        batch.append(uuid)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
