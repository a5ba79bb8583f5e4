"""What ZStack offers around the clone: version, queries in pages, deletion, ownership, permission (wire: section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlencode

from batch.errors import UsageError
from batch.zstack.accesskey import ACTIONS_PATH
from batch.zstack.answers import NoAnswer
from batch.zstack.client import SERVICES_PATH, segment
from batch.zstack.decode import BadReplyError, as_number, as_object, as_text
from batch.zstack.jobs import Caller
from batch.zstack.params import QUERY_OPERATORS
from batch.zstack.replies import inventories
from batch.zstack.version import parse_version
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence

    from batch.model import JsonValue
    from batch.zstack.answers import Service
    from batch.zstack.client import Client
    from batch.zstack.version import Version

PAGE: Final = 200
"""Rows of a query's page; the server cuts at 1,000 without a word."""
UUIDS_A_QUERY: Final = 200
"""So many uuids of 32 digits fit the server's 8 KiB for a request's head, with room for everything else."""
OPERATORS: Final = QUERY_OPERATORS
CLONE_MESSAGE: Final = "org.zstack.ai.message.APICloneModelServiceMsg"
_UUIDS_A_QUESTION: Final = 100
"""The same where each uuid comes with the name of its parameter."""


class Account(NamedTuple):
    """Who owns something."""

    uuid: str
    name: str | None

    def __str__(self) -> str:
        """Show name and uuid, control characters escaped."""
        return f"{self.name!r} ({self.uuid})" if self.name else self.uuid


def condition(field: str, operator: str, value: str = "") -> str:
    """Make one query condition such as ``name~=qwen%``.

    Raises UsageError where the server would read another one: it takes the first operator it finds anywhere.
    """
    if operator not in OPERATORS:
        raise UsageError(f"{operator} is no operator of ZStack's queries: use one of {', '.join(OPERATORS)}")
    text = f"{field} {operator}" if operator.endswith("null") else f"{field}{operator}{value}"
    if split_condition(text) != (field, operator, value):
        raise UsageError(f"the value {value!r} holds an operator, and ZStack would read the condition differently")
    return text


def split_condition(text: str) -> tuple[str, str, str]:
    """Read a condition as the server does: its first operator in the server's order, at its first occurrence.

    Raises UsageError where there is none.
    """
    for operator in OPERATORS:
        field, found, value = text.partition(operator)
        if found:
            return field.strip(), operator, value
    raise UsageError(f"the query condition {text!r} has no operator: write it like name=value or name~=qwen%")


class Surroundings:
    """Questions and side jobs over one client; each raises CallFailedError where it comes to nothing."""

    def __init__(self, client: Client) -> None:
        """Share the client's gate, credentials and connections."""
        self._caller = Caller(client)

    async def version(self) -> Version | None:
        """Ask GetVersion; None where the answer is no version."""
        answer = await self._caller.ask("GetVersion", "PUT", ACTIONS_PATH, {"getVersion": {}})
        return parse_version(as_text(answer.get("version")) or "")

    async def support_apis(self) -> frozenset[str]:
        """Ask which API messages the server knows, such as APICloneModelServiceMsg."""
        answer = await self._caller.ask("GetSupportAPIs", "PUT", ACTIONS_PATH, {"getSupportAPIs": {}})
        names = answer.get("supportApis")
        return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()

    async def ready(self) -> bool:
        """Ask whether the management node is ready."""
        try:
            await self._caller.ask("IsManagementNodeReady", "GET", "/v1/management-nodes/ready")
        except CallFailedError:
            return False
        return True

    async def server_time(self) -> float | None:
        """Ask for the server's clock, seconds since the epoch."""
        answer = await self._caller.ask("GetCurrentTime", "PUT", ACTIONS_PATH, {"getCurrentTime": {}})
        milliseconds = as_number((as_object(answer.get("currentTime")) or {}).get("MillionSeconds"))
        return None if milliseconds is None else milliseconds / 1000

    async def session_valid(self, session: str) -> bool:
        """Ask whether a session is alive."""
        path = f"/v1/accounts/sessions/{segment(session)}/valid"
        return (await self._caller.ask("ValidateSession", "GET", path)).get("valid") is True

    async def query(self, conditions: Sequence[str] = (), fields: Sequence[str] = ()) -> AsyncIterator[Service]:
        """Stream all model services that meet every condition, page by page, in the order of their uuids.

        ``fields``: only these (uuid always); all where empty. A service that appears or goes between two pages may
        be missed or shown twice: the server has no snapshots.
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
        """Stream those of these model services that are visible, in any order, in batches that fit a URL."""
        for batch in _batches(uuids):
            async for service in self.query([f"uuid?={','.join(batch)}"], fields):
                yield service

    async def delete_service(self, uuid: str) -> None:
        """Delete one model service and wait for its end; one that is gone already is a success."""
        await self._caller.finish(
            "DeleteModelService", "DELETE", f"{SERVICES_PATH}/{segment(uuid)}?deleteMode=Permissive"
        )

    async def change_owner(self, uuid: str, account_uuid: str) -> None:
        """Give a resource to another account."""
        path = f"/v1/account/{segment(account_uuid)}/resources"
        await self._caller.finish("ChangeResourceOwner", "POST", path, {"params": {"resourceUuid": uuid}})

    async def share_resource(self, uuids: Sequence[str], account_uuids: Sequence[str]) -> None:
        """Share resources with accounts."""
        share: JsonValue = {"resourceUuids": list(uuids), "accountUuids": list(account_uuids), "toPublic": False}
        await self._caller.finish("ShareResource", "PUT", "/v1/accounts/resources/actions", {"shareResource": share})

    async def owners(self, uuids: Iterable[str]) -> dict[str, Account]:
        """Ask whose these resources are; those that are not visible are left out."""
        found: dict[str, Account] = {}
        for batch in _batches(uuids, _UUIDS_A_QUESTION):
            path = f"/v1/resources/accounts?{urlencode([('resourceUuids', uuid) for uuid in batch])}"
            answer = await self._caller.ask("GetResourceAccount", "GET", path)
            owners = as_object(answer.get("inventories")) or {}
            accounts = ((uuid, _account(owner)) for uuid, owner in owners.items())
            found.update((uuid, account) for uuid, account in accounts if account is not None)
        return found

    async def accounts(self, uuids: Iterable[str]) -> set[str]:
        """Ask which of these accounts exist; an account other than admin sees itself only."""
        found: set[str] = set()
        for batch in _batches(uuids):
            query = urlencode(
                [("q", f"uuid?={','.join(batch)}"), ("limit", str(len(batch)))], quote_via=quote, safe=","
            )
            rows = (await self._caller.ask("QueryAccount", "GET", f"/v1/accounts?{query}")).get("inventories")
            found.update(account.uuid for account in map(_account, rows if isinstance(rows, list) else ()) if account)
        return found

    async def own_account(self) -> Account | None:
        """Ask who is calling; None where the answers do not say.

        An account other than admin sees itself only (wire: section 6), so the only one in sight is the caller.
        """
        for conditions in ("q=type%3DSystemAdmin&", ""):
            answer = await self._caller.ask("QueryAccount", "GET", f"/v1/accounts?{conditions}limit=2")
            rows = answer.get("inventories")
            if isinstance(rows, list) and len(rows) == 1:
                return _account(rows[0])
        return None

    async def check_permission(self, api: str = CLONE_MESSAGE) -> bool | None:
        """Ask whether this account may call ``api``; None where the answer does not say."""
        body: JsonValue = {"checkApiPermission": {"apiNames": [api]}}
        answer = await self._caller.ask("CheckApiPermission", "PUT", "/v1/accounts/permissions/actions", body)
        verdict = as_text((as_object(answer.get("inventory")) or {}).get(api))
        return None if verdict is None else verdict.lower() == "allow"

    async def _page(self, conditions: Sequence[str], fields: Sequence[str], start: int) -> Mapping[str, JsonValue]:
        arguments = [("q", text) for text in conditions]
        arguments += [("sort", "+uuid"), ("start", str(start)), ("limit", str(PAGE)), ("replyWithCount", "true")]
        if fields:
            arguments.append(("fields", ",".join(dict.fromkeys(("uuid", *fields)))))
        path = f"{SERVICES_PATH}?{urlencode(arguments, quote_via=quote, safe=',')}"
        return await self._caller.ask("QueryModelService", "GET", path)


def _services(answer: Mapping[str, JsonValue]) -> list[Service]:
    try:
        return inventories(answer)
    except BadReplyError as error:
        raise CallFailedError("QueryModelService", NoAnswer(str(error))) from None


def _account(value: JsonValue) -> Account | None:
    fields = as_object(value) or {}
    uuid = as_text(fields.get("uuid"))
    return Account(uuid, as_text(fields.get("name"))) if uuid else None


def _batches(uuids: Iterable[str], size: int = UUIDS_A_QUERY) -> Iterator[list[str]]:
    batch: list[str] = []
    for uuid in uuids:
        batch.append(uuid)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
