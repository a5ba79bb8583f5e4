"""The APIs of accounts, quotas, owners and shares (zstack/README.md 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.simulator import query
from batch.simulator.api import ApiDefinition, Call, NodeContext
from batch.simulator.mediator import QUOTA, check_quota, services_of

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
_PACKAGE: Final = "org.zstack.header.identity"


def require(context: NodeContext, call: Call, *names: str) -> None:
    """Refuse a missing field. Raises ApiFailureError SYS.1007."""
    for name in names:
        if call.fields.get(name) is None:
            raise context.errors.failure("SYS.1007", "mandatory", name)


def _accounts(context: NodeContext, call: Call, account: NodeAccount | None, _now: float) -> Json:
    assert account is not None
    query.check_field_names(call.query, _ACCOUNT_FIELDS, _ACCOUNT, context.errors)
    rows = (row for row in context.directory.accounts.values() if account.is_admin or row is account)
    return query.answer(call.query, (_account_json(row) for row in rows), _ACCOUNT)


def _account_json(account: NodeAccount) -> Json:
    return {"uuid": account.uuid, "name": account.name, "type": "SystemAdmin" if account.is_admin else "Normal"}


def require_resource(context: NodeContext, uuid: object) -> Resource:
    """Look up a resource of any kind. Raises ApiFailureError SYS.1003."""
    row = context.resources.find(str(uuid))
    if row is None:
        raise context.errors.failure("SYS.1003", "missing", "resourceUuid", uuid, "ResourceVO")
    return row


def _require_account(context: NodeContext, uuid: str) -> None:
    if context.directory.find(uuid) is None:
        raise context.errors.failure("SYS.1003", "missing", "accountUuid", uuid, "AccountVO")


def _require_owner(context: NodeContext, row: Resource, account: NodeAccount) -> None:
    if not account.is_admin and row.owner != account.uuid:
        raise context.errors.denial("owner", account.uuid, row.uuid, row.kind)


def _validate_owner(context: NodeContext, call: Call) -> None:
    require(context, call, "resourceUuid")
    _require_account(context, call.path["accountUuid"])
    require_resource(context, call.fields["resourceUuid"])


def _change_owner(context: NodeContext, call: Call, account: NodeAccount | None, _now: float) -> Json:
    row = context.resources.change(str(call.fields["resourceUuid"]))
    assert row is not None
    assert account is not None
    owner = context.directory.find(call.path["accountUuid"])
    assert owner is not None
    if not owner.is_admin and owner.uuid == row.owner:
        raise context.errors.failure("ID.1004", "same_owner", account.uuid, owner.uuid, row.owner)
    check_quota(context, owner)
    row.owner = owner.uuid
    context.ledger.owners[row.uuid] += 1
    context.emit({"e": "owner", "u": row.uuid, "a": row.owner})
    return {"inventory": {"accountUuid": row.owner, "resourceUuid": row.uuid, "resourceType": row.kind}}


def texts(context: NodeContext, call: Call, name: str) -> list[str]:
    """Read a list of texts; absent is empty. Raises ApiFailureError SYS.1007 for anything else."""
    value = call.fields.get(name) or []
    if not isinstance(value, list):
        raise context.errors.failure("SYS.1007", "choices", name, "list", value)
    return [str(item) for item in value]


def _shared_rows(context: NodeContext, call: Call) -> list[Resource]:
    return [require_resource(context, uuid) for uuid in texts(context, call, "resourceUuids")]


def _validate_share(context: NodeContext, call: Call) -> None:
    require(context, call, "resourceUuids")
    if call.fields.get("toPublic") is not True and not texts(context, call, "accountUuids"):
        raise context.errors.failure("SYS.1007", "nobody")
    _shared_rows(context, call)
    for uuid in texts(context, call, "accountUuids"):
        _require_account(context, uuid)


def _permit_share(context: NodeContext, call: Call, account: NodeAccount) -> None:
    for row in _shared_rows(context, call):
        _require_owner(context, row, account)


def _share(context: NodeContext, call: Call, _account: NodeAccount | None, _now: float) -> Json:
    public = call.fields.get("toPublic") is True
    accounts = texts(context, call, "accountUuids")
    for uuid in texts(context, call, "resourceUuids"):
        context.resources.share(uuid, accounts, to_public=public)
        context.emit({"e": "share", "u": uuid, "a": accounts, "p": public})
    return {}


def _owners(context: NodeContext, call: Call, _account: NodeAccount | None, _now: float) -> Json:
    rows = [context.resources.find(uuid) for uuid in call.values("resourceUuids")]
    owners = {row.uuid: context.directory.find(row.owner) for row in rows if row is not None}
    return {"inventories": {uuid: _account_json(owner) for uuid, owner in owners.items() if owner is not None}}


def _shares(context: NodeContext, call: Call, _account: NodeAccount | None, _now: float) -> Json:
    query.check_field_names(call.query, _SHARE_FIELDS, _SHARE, context.errors)
    uuids = call.query.uuids("resourceUuid")
    rows = context.resources.rows.values() if uuids is None else map(context.resources.find, dict.fromkeys(uuids))
    shared = [row for row in rows if row is not None and not row.deleted]
    return query.answer(call.query, (found for row in shared for found in _share_rows(row)), _SHARE)


def _share_rows(row: Resource) -> Iterator[Json]:
    base = {"ownerAccountUuid": row.owner, "resourceUuid": row.uuid, "resourceType": row.kind}
    if row.public:
        yield base | {"toPublic": True}
    for account in row.shared:
        yield base | {"receiverAccountUuid": account, "toPublic": False}


def _revoke(context: NodeContext, call: Call, _account: NodeAccount | None, _now: float) -> Json:
    everybody = call.fields.get("all") is True
    accounts = texts(context, call, "accountUuids")
    for uuid in texts(context, call, "resourceUuids"):
        context.resources.revoke(uuid, accounts, everybody=everybody)
        context.emit({"e": "revoke", "u": uuid, "a": accounts, "p": everybody})
    return {}


def _validate_revoke(context: NodeContext, call: Call) -> None:
    require(context, call, "resourceUuids")
    _shared_rows(context, call)


def _quotas(context: NodeContext, call: Call, account: NodeAccount | None, _now: float) -> Json:
    assert account is not None
    query.check_field_names(call.query, _QUOTA_FIELDS, _QUOTA, context.errors)
    rows = (row for row in context.directory.accounts.values() if account.is_admin or row is account)
    limited = [_quota_json(row) for row in rows if row.quota is not None]
    return query.answer(call.query, limited, _QUOTA)


def _quota_json(account: NodeAccount) -> Json:
    return {"name": QUOTA, "identityUuid": account.uuid, "identityType": "AccountVO", "value": account.quota}


def _quota_usages(context: NodeContext, call: Call, _account: NodeAccount | None, _now: float) -> Json:
    found = context.directory.accounts.get(call.path["uuid"])
    if found is None or found.quota is None:
        return {"usages": []}
    return {"usages": [{"name": QUOTA, "total": found.quota, "used": services_of(context, found)}]}


APIS: Final = (
    *(
        ApiDefinition(
            "QueryAccount",
            "accounts",
            "GET",
            pattern,
            _accounts,
            sync=True,
            is_query=True,
            shares_path=True,
            package=_PACKAGE,
        )
        for pattern in ("/v1/accounts", "/v1/accounts/{uuid}")
    ),
    ApiDefinition(
        "ChangeResourceOwner",
        "owner",
        "POST",
        "/v1/account/{accountUuid}/resources",
        _change_owner,
        admin_only=True,
        package=_PACKAGE,
        inventory="org.zstack.header.identity.AccountResourceRefInventory",
        validate=_validate_owner,
    ),
    ApiDefinition(
        "ShareResource",
        "share",
        "PUT",
        "/v1/accounts/resources/actions",
        _share,
        "shareResource",
        package=_PACKAGE,
        validate=_validate_share,
        permit=_permit_share,
    ),
    ApiDefinition(
        "QuerySharedResource",
        "shares",
        "GET",
        "/v1/accounts/resources",
        _shares,
        sync=True,
        is_query=True,
        admin_only=True,
        package=_PACKAGE,
    ),
    ApiDefinition(
        "RevokeResourceSharing",
        "revoke",
        "PUT",
        "/v1/accounts/resources/actions",
        _revoke,
        "revokeResourceSharing",
        package=_PACKAGE,
        validate=_validate_revoke,
        permit=_permit_share,
    ),
    ApiDefinition(
        "GetResourceAccount", "owners", "GET", "/v1/resources/accounts", _owners, sync=True, package=_PACKAGE
    ),
    ApiDefinition(
        "QueryQuota",
        "quotas",
        "GET",
        "/v1/accounts/quotas",
        _quotas,
        sync=True,
        is_query=True,
        shares_path=True,
        package=_PACKAGE,
    ),
    ApiDefinition(
        "GetAccountQuotaUsage",
        "quotaUsages",
        "GET",
        "/v1/accounts/quota/{uuid}/usages",
        _quota_usages,
        sync=True,
        package=_PACKAGE,
    ),
)
