"""Queries around a run, of services, accounts and other resources, and changes of owners and shares.

Source: zstack/README.md 8, 9 and 11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlencode

from batch.jsoncodec import as_number, as_object, as_text
from batch.zstack.accesskey import ACTIONS_PATH
from batch.zstack.answers import NoAnswer, Running, may_go_on
from batch.zstack.calls import UUIDS_A_QUERY, RetryClient
from batch.zstack.client import SERVICES_PATH
from batch.zstack.replies import inventories
from batch.zstack.wire import BadReplyError, CallFailedError, segment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence

    from batch.model import JsonValue
    from batch.zstack.answers import NotSent, Refused, Service
    from batch.zstack.client import Client

PAGE: Final = 200
"""Rows of a query's page; the server silently cuts at 1,000."""
CLONE_MESSAGE: Final = "org.zstack.ai.message.APICloneModelServiceMsg"
OWNER_MESSAGE: Final = "org.zstack.header.identity.APIChangeResourceOwnerMsg"
SHARE_MESSAGE: Final = "org.zstack.header.identity.APIShareResourceMsg"
_UUIDS_AS_PARAMETERS: Final = 100
"""Number of uuids that fit a URL, each with the name of its parameter."""


class Account(NamedTuple):
    """An account that owns resources."""

    uuid: str
    name: str | None

    def __str__(self) -> str:
        """Return name and uuid, control characters escaped."""
        return f"{self.name!r} ({self.uuid})" if self.name else self.uuid


class Identity(NamedTuple):
    """The calling account."""

    account: Account | None
    """None where the answers do not show it."""
    is_admin: bool
    """Whether it sees the resources of all accounts."""


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


class QueryApi:
    """Queries over one client; each raises CallFailedError where it fails."""

    def __init__(self, client: Client) -> None:
        """Share the client's gate, credentials and connections."""
        self._client = RetryClient(client)
        self._permissions: dict[str, bool | None] = {}

    async def support_apis(self) -> frozenset[str]:
        """Return the API messages that the server supports, such as APICloneModelServiceMsg."""
        answer = await self._client.ask("GetSupportAPIs", "PUT", ACTIONS_PATH, {"getSupportAPIs": {}})
        names = answer.get("supportApis")
        return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()

    async def server_time(self) -> float | None:
        """Return the server's time in seconds since the epoch."""
        answer = await self._client.ask("GetCurrentTime", "PUT", ACTIONS_PATH, {"getCurrentTime": {}})
        milliseconds = as_number((as_object(answer.get("currentTime")) or {}).get("MillionSeconds"))
        return None if milliseconds is None else milliseconds / 1000

    async def query(self, conditions: Sequence[str] = (), fields: Sequence[str] = ()) -> AsyncIterator[Service]:
        """Yield all model services that meet every condition, page by page, in the order of their uuids.

        ``fields``: only these (uuid always); all where empty. A service that appears or disappears between two pages
        may be missed or repeated: the server has no snapshots.
        """
        start, is_last = 0, False
        while not is_last:
            answer = await self._page(conditions, fields, start)
            rows = _services(answer)
            for service in rows:
                yield service
            start += len(rows)
            total = as_number(answer.get("total"))
            is_last = not rows or (len(rows) < PAGE if total is None else start >= total)

    async def services(self, uuids: Iterable[str], fields: Sequence[str] = ()) -> AsyncIterator[Service]:
        """Yield those of these model services that are visible, in any order, in batches that fit a URL."""
        for batch in batches(uuids):
            async for service in self.query([f"uuid?={','.join(batch)}"], fields):
                yield service

    async def owners(self, uuids: Iterable[str]) -> dict[str, Account]:
        """Return the owners of these resources; those that are not visible are left out."""
        by_uuid: dict[str, Account] = {}
        for batch in batches(uuids, _UUIDS_AS_PARAMETERS):
            path = f"/v1/resources/accounts?{urlencode([('resourceUuids', uuid) for uuid in batch])}"
            answer = await self._client.ask("GetResourceAccount", "GET", path)
            owners = as_object(answer.get("inventories")) or {}
            accounts = ((uuid, _account(owner)) for uuid, owner in owners.items())
            by_uuid.update((uuid, account) for uuid, account in accounts if account is not None)
        return by_uuid

    async def rows(self, lookup: Lookup, uuids: Iterable[str]) -> dict[str, Mapping[str, JsonValue]]:
        """Return the rows of those of these resources that are visible, by uuid.

        Raises CallFailedError, also where the answer is incomplete.
        """
        by_uuid: dict[str, Mapping[str, JsonValue]] = {}
        for batch in batches(uuids):
            arguments = [("q", f"uuid?={','.join(batch)}"), ("limit", str(len(batch)))]
            arguments += [("fields", ",".join(("uuid", *lookup.fields))), ("replyWithCount", "true")]
            query = urlencode(arguments, quote_via=quote, safe=",")
            answer = await self._client.ask(lookup.api, "GET", f"{lookup.path}?{query}")
            rows, total = answer.get("inventories"), as_number(answer.get("total"))
            # Without a total it is unknown whether the server cut its answer.
            if not isinstance(rows, list) or len(rows) < (len(batch) if total is None else total):
                raise CallFailedError(lookup.api, NoAnswer("the answer is not complete"))
            for row in map(as_object, rows):
                uuid = None if row is None else as_text(row.get("uuid"))
                if row is not None and uuid is not None:
                    by_uuid[uuid] = row
        return by_uuid

    async def own_account(self) -> Account | None:
        """Return the calling account; None where the answers do not show it."""
        return (await self.identity()).account

    async def identity(self) -> Identity:
        """Return the calling account, and whether it sees everything.

        An account other than admin sees itself only (zstack/README.md 8), so the only visible one is the caller, and an
        account that sees an admin is one.
        """
        is_admin = False
        for conditions in ("q=type%3DSystemAdmin&", ""):
            answer = await self._client.ask("QueryAccount", "GET", f"/v1/accounts?{conditions}limit=2")
            rows = answer.get("inventories")
            accounts = list(filter(None, map(_account, rows if isinstance(rows, list) else ())))
            is_admin = is_admin or (bool(conditions) and bool(accounts))
            if len(accounts) == 1:
                return Identity(accounts[0], is_admin)
        return Identity(None, is_admin)

    async def check_permission(self, api: str = CLONE_MESSAGE) -> bool | None:
        """Return whether this account may call ``api``, with a single query; None where the answer does not say."""
        body: JsonValue = {"checkApiPermission": {"apiNames": [api]}}
        if api not in self._permissions:
            answer = await self._client.ask("CheckApiPermission", "PUT", "/v1/accounts/permissions/actions", body)
            verdict = as_text((as_object(answer.get("inventory")) or {}).get(api))
            self._permissions[api] = None if verdict is None else verdict.lower() == "allow"
        return self._permissions[api]

    async def _page(self, conditions: Sequence[str], fields: Sequence[str], start: int) -> Mapping[str, JsonValue]:
        arguments = [("q", text) for text in conditions]
        arguments += [("sort", "+uuid"), ("start", str(start)), ("limit", str(PAGE)), ("replyWithCount", "true")]
        if fields:
            arguments.append(("fields", ",".join(dict.fromkeys(("uuid", *fields)))))
        path = f"{SERVICES_PATH}?{urlencode(arguments, quote_via=quote, safe=',')}"
        return await self._client.ask("QueryModelService", "GET", path)


class Ownership:
    """Shares resources and changes their owners over one client; every call passes its gate.

    ShareResource of what is already shared changes nothing. ChangeResourceOwner to the present owner fails as ID.1004;
    the owner is queried then, to distinguish a lost answer from a failure.
    """

    def __init__(self, client: Client) -> None:
        """Share the client's gate, credentials and connections."""
        self._client = RetryClient(client)
        self._queries = QueryApi(client)

    async def share(self, uuid: str, accounts: Sequence[str]) -> Refused | NotSent | NoAnswer | None:
        """Share a resource with accounts; None: done."""
        try:
            await self.share_resource([uuid], accounts)
        except CallFailedError as failed:
            return failed.answer
        return None

    async def give(self, uuid: str, account: str) -> Refused | NotSent | NoAnswer | Running | None:
        """Make an account the owner of a resource; None: it is; Running: it is, and a request for it may go on."""
        try:
            is_left = await self.change_owner(uuid, account)
        except CallFailedError as failed:
            if not await self._is_owner(uuid, account):
                return failed.answer
            is_left = may_go_on(failed.answer)
        return Running() if is_left else None

    async def change_owner(self, uuid: str, account_uuid: str) -> bool:
        """Make another account the owner of a resource; return whether a request for it may go on.

        Raises CallFailedError.
        """
        path = f"/v1/account/{segment(account_uuid)}/resources"
        return await self._client.finish("ChangeResourceOwner", "POST", path, {"params": {"resourceUuid": uuid}})

    async def share_resource(self, uuids: Sequence[str], account_uuids: Sequence[str]) -> None:
        """Share resources with accounts. Raises CallFailedError."""
        share: JsonValue = {"resourceUuids": list(uuids), "accountUuids": list(account_uuids), "toPublic": False}
        await self._client.finish("ShareResource", "PUT", "/v1/accounts/resources/actions", {"shareResource": share})

    async def _is_owner(self, uuid: str, account: str) -> bool:
        try:
            owner = (await self._queries.owners([uuid])).get(uuid)
        except CallFailedError:
            return False
        return owner is not None and owner.uuid == account


def _services(answer: Mapping[str, JsonValue]) -> list[Service]:
    try:
        return inventories(answer)
    except BadReplyError as error:
        raise CallFailedError("QueryModelService", NoAnswer(str(error))) from None


def _account(value: JsonValue) -> Account | None:
    fields = as_object(value) or {}
    uuid = as_text(fields.get("uuid"))
    return Account(uuid, as_text(fields.get("name"))) if uuid else None


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
