"""The APIs of accounts, quotas, owners and shares (zstack/README.md 9)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from batch.simulator import query
from batch.simulator.api import (
    QUOTA,
    ApiDefinition,
    Call,
    NodeContext,
    check_quota,
    require_resource,
    services_of,
    text_values,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.simulator.options import NodeAccount
    from batch.simulator.resources import Resource
    from batch.simulator.wire import Json

_ACCOUNT: Final = "org.zstack.header.identity.AccountInventory"
_ACCOUNT_FIELDS: Final = frozenset({"uuid", "name", "type", "description"})
_QUOTA: Final = "org.zstack.header.identity.QuotaInventory"
_QUOTA_FIELDS: Final = frozenset({"name", "identityUuid", "identityType", "value"})
_SHARE: Final = "org.zstack.header.identity.SharedResourceInventory"
_SHARE_FIELDS: Final = frozenset(
    {"ownerAccountUuid", "receiverAccountUuid", "toPublic", "resourceType", "resourceUuid"}
)


def _accounts(context: NodeContext, call: Call, account: NodeAccount, _now: float) -> Json:
    rows = map(_account_json, _visible_accounts(context, account))
    return query.answer(call.query, rows, _ACCOUNT_FIELDS, _ACCOUNT, context.errors)


def _visible_accounts(context: NodeContext, account: NodeAccount) -> list[NodeAccount]:
    return [row for row in context.directory.accounts.values() if account.is_admin or row is account]


def _account_json(account: NodeAccount) -> Json:
    return {"uuid": account.uuid, "name": account.name, "type": "SystemAdmin" if account.is_admin else "Normal"}


def _require_account(context: NodeContext, uuid: str) -> None:
    if context.directory.find(uuid) is None:
        raise context.errors.failure("SYS.1003", "missing", "accountUuid", uuid, "AccountVO")


def _require_owner(context: NodeContext, row: Resource, account: NodeAccount) -> None:
    if not account.is_admin and row.owner != account.uuid:
        raise context.errors.denial("owner", account.uuid, row.uuid, row.kind)


def _validate_owner(context: NodeContext, call: Call) -> None:
    _require_account(context, call.path["accountUuid"])
    require_resource(context, call.fields["resourceUuid"])


def _change_owner(context: NodeContext, call: Call, account: NodeAccount, _now: float) -> Json:
    row = context.resources.change(str(call.fields["resourceUuid"]))
    assert row is not None
    owner = context.directory.find(call.path["accountUuid"])
    assert owner is not None
    if not owner.is_admin and owner.uuid == row.owner:
        raise context.errors.failure("ID.1004", "same_owner", account.uuid, owner.uuid, row.owner)
    check_quota(context, owner)
    row.owner = owner.uuid
    context.ledger.owners[row.uuid] += 1
    context.emit({"e": "owner", "u": row.uuid, "a": row.owner})
    return {"inventory": {"accountUuid": row.owner, "resourceUuid": row.uuid, "resourceType": row.kind}}


def _shared_rows(context: NodeContext, call: Call) -> list[Resource]:
    return [require_resource(context, uuid) for uuid in text_values(context, call, "resourceUuids")]


def _validate_share(context: NodeContext, call: Call) -> None:
    if call.fields.get("toPublic") is not True and not text_values(context, call, "accountUuids"):
        raise context.errors.failure("SYS.1007", "nobody")
    _shared_rows(context, call)
    for uuid in text_values(context, call, "accountUuids"):
        _require_account(context, uuid)


def _permit_share(context: NodeContext, call: Call, account: NodeAccount) -> None:
    for row in _shared_rows(context, call):
        _require_owner(context, row, account)


def _share(context: NodeContext, call: Call, _account: NodeAccount, _now: float) -> Json:
    public = call.fields.get("toPublic") is True
    accounts = text_values(context, call, "accountUuids")
    for uuid in text_values(context, call, "resourceUuids"):
        context.resources.share(uuid, accounts, to_public=public)
        context.emit({"e": "share", "u": uuid, "a": accounts, "p": public})
    return {}


def _owners(context: NodeContext, call: Call, _account: NodeAccount, _now: float) -> Json:
    rows = [context.resources.find(uuid) for uuid in call.values("resourceUuids")]
    owners = {row.uuid: context.directory.find(row.owner) for row in rows if row is not None}
    return {"inventories": {uuid: _account_json(owner) for uuid, owner in owners.items() if owner is not None}}


def _shares(context: NodeContext, call: Call, account: NodeAccount, _now: float) -> Json:
    store = context.resources
    rows = store.visible(account, call.query.uuids("resourceUuid"), find=store.find, others=store.rows.values())
    shares = (share for row in rows if not row.deleted for share in _share_rows(row))
    return query.answer(call.query, shares, _SHARE_FIELDS, _SHARE, context.errors)


def _share_rows(row: Resource) -> Iterator[Json]:
    base = {"ownerAccountUuid": row.owner, "resourceUuid": row.uuid, "resourceType": row.kind}
    if row.public:
        yield base | {"toPublic": True}
    for account in row.shared:
        yield base | {"receiverAccountUuid": account, "toPublic": False}


def _revoke(context: NodeContext, call: Call, _account: NodeAccount, _now: float) -> Json:
    everybody = call.fields.get("all") is True
    accounts = text_values(context, call, "accountUuids")
    for uuid in text_values(context, call, "resourceUuids"):
        context.resources.revoke(uuid, accounts, everybody=everybody)
        context.emit({"e": "revoke", "u": uuid, "a": accounts, "p": everybody})
    return {}


def _validate_revoke(context: NodeContext, call: Call) -> None:
    _shared_rows(context, call)


def _quotas(context: NodeContext, call: Call, account: NodeAccount, _now: float) -> Json:
    limited = (_quota_json(row) for row in _visible_accounts(context, account) if row.quota is not None)
    return query.answer(call.query, limited, _QUOTA_FIELDS, _QUOTA, context.errors)


def _quota_json(account: NodeAccount) -> Json:
    return {"name": QUOTA, "identityUuid": account.uuid, "identityType": "AccountVO", "value": account.quota}


def _quota_usages(context: NodeContext, call: Call, _account: NodeAccount, _now: float) -> Json:
    owner = context.directory.accounts.get(call.path["uuid"])
    if owner is None or owner.quota is None:
        return {"usages": []}
    return {"usages": [{"name": QUOTA, "total": owner.quota, "used": services_of(context, owner)}]}


_api = partial(ApiDefinition, package="org.zstack.header.identity")
_query_api = partial(_api, method="GET", sync=True, is_query=True)
APIS: Final = (
    _query_api("QueryAccount", "accounts", pattern="/v1/accounts", run=_accounts, shares_path=True),
    _query_api("QueryAccount", "accounts", pattern="/v1/accounts/{uuid}", run=_accounts, shares_path=True),
    _api(
        "ChangeResourceOwner",
        "owner",
        "POST",
        "/v1/account/{accountUuid}/resources",
        _change_owner,
        required=("resourceUuid",),
        admin_only=True,
        inventory="org.zstack.header.identity.AccountResourceRefInventory",
        validate=_validate_owner,
    ),
    _api(
        "ShareResource",
        "share",
        "PUT",
        "/v1/accounts/resources/actions",
        _share,
        "shareResource",
        required=("resourceUuids",),
        validate=_validate_share,
        permit=_permit_share,
    ),
    _query_api("QuerySharedResource", "shares", pattern="/v1/accounts/resources", run=_shares, admin_only=True),
    _api(
        "RevokeResourceSharing",
        "revoke",
        "PUT",
        "/v1/accounts/resources/actions",
        _revoke,
        "revokeResourceSharing",
        required=("resourceUuids",),
        validate=_validate_revoke,
        permit=_permit_share,
    ),
    _api("GetResourceAccount", "owners", "GET", "/v1/resources/accounts", _owners, sync=True),
    _query_api("QueryQuota", "quotas", pattern="/v1/accounts/quotas", run=_quotas, shares_path=True),
    _api("GetAccountQuotaUsage", "quotaUsages", "GET", "/v1/accounts/quota/{uuid}/usages", _quota_usages, sync=True),
)
