"""Queries that read clones back, in pages whose URLs stay below 8 KiB (zstack/README.md 8 and 9)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlencode

from batch.zstack.answers import NoAnswer
from batch.zstack.client import SERVICES_PATH
from batch.zstack.decode import as_number, as_object, as_text
from batch.zstack.queries import UUIDS_A_QUERY
from batch.zstack.retry_client import RetryClient
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from batch.model import JsonValue
    from batch.zstack.client import Client

_TAGS_PATH: Final = "/v1/user-tags"
_SHARES_PATH: Final = "/v1/accounts/resources"
_GROUPS_PATH: Final = "/v1/ai/model-services/instances/groups/"
_SMALL_ROWS: Final = 1000
"""Rows of a page of tags or shares: the server's maximum without a limit."""


class Services(NamedTuple):
    """Those of the queried model services that this account sees."""

    by_uuid: Mapping[str, Mapping[str, JsonValue]]
    is_complete: bool
    """Whether the answer has as many rows as the server reports in total."""


class CloneReader:
    """Reads clones back over one client; each method raises CallFailedError where it fails."""

    def __init__(self, client: Client) -> None:
        """Share the client's gate, credentials and connections."""
        self._client = RetryClient(client)

    async def services(self, uuids: Sequence[str]) -> Services:
        """Query at most ``UUIDS_A_QUERY`` model services, with all their fields, in one call."""
        found: dict[str, Mapping[str, JsonValue]] = {}
        # Without a total it is unknown whether the server cut its answer.
        total_rows = 0.0
        async for rows, total in self._pages(SERVICES_PATH, f"uuid?={','.join(uuids)}", UUIDS_A_QUERY):
            found.update((str(row["uuid"]), row) for row in rows if as_text(row.get("uuid")))
            total_rows = max(total_rows, math.inf if total is None else total)
        wanted = set(uuids)
        return Services({uuid: row for uuid, row in found.items() if uuid in wanted}, len(found) >= total_rows)

    async def tags(self, uuids: Sequence[str]) -> dict[str, set[str]]:
        """Query the user tags of at most ``UUIDS_A_QUERY`` resources, by uuid."""
        found: dict[str, set[str]] = {uuid: set() for uuid in uuids}
        async for row in self._rows(_TAGS_PATH, f"resourceUuid?={','.join(uuids)}"):
            found.get(str(row.get("resourceUuid")), set()).add(str(row.get("tag")))
        return found

    async def tagged(self, prefix: str) -> AsyncIterator[tuple[str, str]]:
        """Yield resource uuid and tag of every user tag that begins with ``prefix``.

        The server ignores case and treats ``_`` as a wildcard, so its other matches are left out.
        """
        async for row in self._rows(_TAGS_PATH, f"tag~={prefix}%"):
            uuid, tag = as_text(row.get("resourceUuid")), as_text(row.get("tag"))
            if uuid and tag and tag.startswith(prefix):
                yield uuid, tag

    async def shares(self, uuids: Sequence[str]) -> dict[str, set[str]]:
        """Query with which accounts at most ``UUIDS_A_QUERY`` resources are shared; for admin only."""
        found: dict[str, set[str]] = {uuid: set() for uuid in uuids}
        condition = f"resourceUuid?={','.join(uuids)}"
        async for row in self._rows(_SHARES_PATH, condition, sort="+resourceUuid"):
            found.get(str(row.get("resourceUuid")), set()).add(str(row.get("receiverAccountUuid")))
        return found

    async def used(self, uuids: Sequence[str]) -> set[str]:
        """Return which of at most ``UUIDS_A_QUERY`` model services have an instance group.

        Raises CallFailedError also where an answer does not show it for every row.
        """
        condition = f"modelServiceUuid?={','.join(uuids)}"
        found = {as_text(row.get("modelServiceUuid")) or "" async for row in self._rows(_GROUPS_PATH, condition)}
        if "" in found:
            raise _incomplete(_GROUPS_PATH)
        return found

    async def _rows(self, path: str, condition: str, *, sort: str = "+uuid") -> AsyncIterator[dict[str, JsonValue]]:
        """Yield all rows. Raises CallFailedError, after the last one, where their number is not the server's total.

        Without a total, missing rows are not known to be absent.
        """
        count, total_rows = 0, 0.0
        async for rows, total in self._pages(path, condition, _SMALL_ROWS, sort=sort):
            count += len(rows)
            total_rows = max(total_rows, math.inf if total is None else total)
            for row in rows:
                yield row
        if count < total_rows:
            raise _incomplete(path)

    async def _pages(
        self, path: str, condition: str, size: int, *, sort: str = "+uuid"
    ) -> AsyncIterator[tuple[list[dict[str, JsonValue]], float | None]]:
        """Yield the rows page by page, with the server's total, None where it reports none."""
        start = 0
        while True:
            page = {"start": start, "limit": size, "replyWithCount": "true"}
            query = urlencode({"q": condition, "sort": sort, **page}, quote_via=quote, safe=",")
            answer = await self._client.ask(f"query of {path}", "GET", f"{path}?{query}")
            values = answer.get("inventories")
            if not isinstance(values, list):
                raise CallFailedError(f"query of {path}", NoAnswer("the answer has no list of inventories"))
            rows = [row for row in map(as_object, values) if row is not None]
            start += len(values)
            total = as_number(answer.get("total"))
            yield rows, total
            if not values or (len(values) < size if total is None else start >= total):
                return


def _incomplete(path: str) -> CallFailedError:
    return CallFailedError(f"query of {path}", NoAnswer("the answer is not complete"))
