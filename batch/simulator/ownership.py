"""The APIs of accounts, owners, shares and tags (wire: section 6.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.simulator import query
from batch.simulator.api import Api, Call, World
from batch.simulator.mediator import check_quota

if TYPE_CHECKING:
    from batch.simulator.options import Account
    from batch.simulator.resources import Resource
    from batch.simulator.wire import Json

_ACCOUNT: Final = "org.zstack.header.identity.AccountInventory"
_TAG: Final = "org.zstack.header.tag.UserTagInventory"


def require(world: World, call: Call, *names: str) -> None:
    """Refuse a missing field. Raises ApiFailureError SYS.1007."""
    for name in names:
        if call.fields.get(name) is None:
            raise world.speech.fail("SYS.1007", "mandatory", name)


def _accounts(world: World, call: Call, account: Account | None, _now: float) -> Json:
    assert account is not None
    asked = query.parse(call.request)
    query.check_fields(asked, frozenset({"uuid", "name", "type", "description"}), _ACCOUNT, world.speech)
    rows = (row for row in world.directory.accounts.values() if account.is_admin or row is account)
    return query.answer(asked, (_account_json(row) for row in rows), _ACCOUNT)


def _account_json(account: Account) -> Json:
    return {
        "uuid": account.uuid,
        "name": account.name,
        "type": "SystemAdmin" if account.is_admin else "Normal",
    }


def _resource(world: World, uuid: object) -> Resource:
    row = world.estate.find(str(uuid))
    if row is None:
        raise world.speech.fail("SYS.1003", "missing", "resourceUuid", uuid, "ResourceVO")
    return row


def _require_account(world: World, uuid: str) -> None:
    if world.directory.find(uuid) is None:
        raise world.speech.fail("SYS.1003", "missing", "accountUuid", uuid, "AccountVO")


def _require_owner(world: World, row: Resource, account: Account) -> None:
    if not account.is_admin and row.owner != account.uuid:
        raise world.speech.fail("SYS.1006", "owner", account.uuid, row.uuid, row.kind)


def _validate_owner(world: World, call: Call) -> None:
    require(world, call, "resourceUuid")
    _require_account(world, call.path["accountUuid"])
    _resource(world, call.fields["resourceUuid"])


def _change_owner(world: World, call: Call, account: Account | None, _now: float) -> Json:
    row = world.estate.change(str(call.fields["resourceUuid"]))
    assert row is not None
    assert account is not None
    owner = world.directory.find(call.path["accountUuid"])
    assert owner is not None
    if not owner.is_admin and owner.uuid == row.owner:
        raise world.speech.fail("ID.1004", "same_owner", account.uuid, owner.uuid, row.owner)
    check_quota(world, owner)
    row.owner = owner.uuid
    world.ledger.owners[row.uuid] += 1
    world.emit({"e": "owner", "u": row.uuid, "a": row.owner})
    return {"inventory": {"accountUuid": row.owner, "resourceUuid": row.uuid, "resourceType": row.kind}}


def texts(world: World, call: Call, name: str) -> list[str]:
    """Read a list of texts; absent is empty. Raises ApiFailureError SYS.1007 for anything else."""
    value = call.fields.get(name) or []
    if not isinstance(value, list):
        raise world.speech.fail("SYS.1007", "choices", name, "list", value)
    return [str(item) for item in value]


def _shared_rows(world: World, call: Call) -> list[Resource]:
    return [_resource(world, uuid) for uuid in texts(world, call, "resourceUuids")]


def _validate_share(world: World, call: Call) -> None:
    require(world, call, "resourceUuids")
    if call.fields.get("toPublic") is not True and not texts(world, call, "accountUuids"):
        raise world.speech.fail("SYS.1007", "nobody")
    _shared_rows(world, call)
    for uuid in texts(world, call, "accountUuids"):
        _require_account(world, uuid)


def _permit_share(world: World, call: Call, account: Account) -> None:
    for row in _shared_rows(world, call):
        _require_owner(world, row, account)


def _share(world: World, call: Call, _account: Account | None, _now: float) -> Json:
    public = call.fields.get("toPublic") is True
    accounts = texts(world, call, "accountUuids")
    for uuid in texts(world, call, "resourceUuids"):
        world.estate.share(uuid, accounts, to_public=public)
        world.emit({"e": "share", "u": uuid, "a": accounts, "p": public})
    return {}


def _owners(world: World, call: Call, _account: Account | None, _now: float) -> Json:
    rows = [world.estate.find(uuid) for uuid in call.request.values("resourceUuids")]
    owners = {row.uuid: world.directory.find(row.owner) for row in rows if row is not None}
    return {"inventories": {uuid: _account_json(owner) for uuid, owner in owners.items() if owner is not None}}


def _user_tags(world: World, call: Call, account: Account | None, _now: float) -> Json:
    assert account is not None
    asked = query.parse(call.request)
    query.check_fields(asked, frozenset({"uuid", "tag", "resourceUuid", "resourceType", "type"}), _TAG, world.speech)
    uuids = asked.uuids("resourceUuid")
    found = world.estate.services() if uuids is None else (world.estate.find(uuid) for uuid in uuids)
    visible = [row for row in found if row and world.estate.may_use(row, account.uuid, is_admin=account.is_admin)]
    return query.answer(asked, (_tag(row, tag) for row in visible for tag in row.tags), _TAG)


def _tag(row: Resource, tag: str) -> Json:
    return {"tag": tag, "resourceUuid": row.uuid, "resourceType": row.kind, "type": "User"}


APIS: Final = (
    Api("QueryAccount", "accounts", "GET", "/v1/accounts", _accounts, sync=True),
    Api(
        "ChangeResourceOwner",
        "owner",
        "POST",
        "/v1/account/{accountUuid}/resources",
        _change_owner,
        admin_only=True,
        validate=_validate_owner,
    ),
    Api(
        "ShareResource",
        "share",
        "PUT",
        "/v1/accounts/resources/actions",
        _share,
        "shareResource",
        validate=_validate_share,
        permit=_permit_share,
    ),
    Api("GetResourceAccount", "owners", "GET", "/v1/resources/accounts", _owners, sync=True),
    Api("QueryUserTag", "tags", "GET", "/v1/user-tags", _user_tags, sync=True),
)
