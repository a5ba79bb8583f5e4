"""The APIs that add, update and delete model services (zstack/README.md 4 and 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.simulator import catalogue, message
from batch.simulator.api import ApiDefinition, Call, NodeContext
from batch.simulator.api_errors import ApiFailureError
from batch.simulator.message import ADD_PARAMS, ADD_REQUIRED, UNTYPED_UPDATES, UPDATE_PARAMS
from batch.simulator.ownership import require
from batch.simulator.resources import MODEL_SERVICE, Resource
from batch.simulator.services import PATH, check_images, require_single_tags, require_tags

if TYPE_CHECKING:
    from batch.simulator.options import NodeAccount, NodeOptions
    from batch.simulator.wire import Json

_DELETE_MODES: Final = ("Permissive", "Enforcing")


def _read_add(params: Json, options: NodeOptions) -> Json:
    return message.typed_fields(params, ADD_PARAMS, options)


def _validate_add(context: NodeContext, call: Call) -> None:
    require(context, call, *ADD_REQUIRED)
    message.check_values(call.fields, context.errors)
    uuid = call.fields["modelCenterUuid"]
    if catalogue.find_resource(context, "ModelCenterVO", uuid) is None:
        raise context.errors.failure("SYS.1003", "missing", "modelCenterUuid", uuid, "ModelCenterVO")
    require_tags(context, call)


def _add(context: NodeContext, call: Call, account: NodeAccount | None, now: float) -> Resource:
    assert account is not None
    fields = message.fit_columns(message.trim_strings(call.fields), context.options, context.errors)
    asked = fields.pop("resourceUuid", None)
    row = Resource(
        uuid=asked if asked is not None else context.draw_uuid(),
        kind=MODEL_SERVICE,
        owner=account.uuid,
        name=fields["name"],
        made_at=now,
        params=fields,
        job=call.id,
        tags=tuple(dict.fromkeys(call.user_tags)),
        is_added=True,
    )
    check_images(context, row)
    context.resources.insert(row)
    context.ledger.counts["added"] += 1
    context.emit(other_event(row))
    require_single_tags(context, call, row)
    return row


def other_event(row: Resource) -> Json:
    """Return the state file event of a resource that is not a clone."""
    return {
        "e": "other",
        "u": row.uuid,
        "k": row.kind,
        "o": row.owner,
        "n": row.name,
        "t": row.made_at,
        "p": dict(row.params),
        "g": list(row.tags),
        "a": row.is_added,
    }


def _read_update(params: Json, options: NodeOptions) -> Json:
    untyped = {name: params[name] for name in UNTYPED_UPDATES if params.get(name) is not None}
    return message.typed_fields(params, UPDATE_PARAMS, options) | untyped


def _validate_update(context: NodeContext, call: Call) -> None:
    message.check_values(_select_typed(call.fields), context.errors)
    if context.resources.find_service(call.path["uuid"]) is None:
        raise context.errors.failure("SYS.1003", "missing", "uuid", call.path["uuid"], MODEL_SERVICE)


def _select_typed(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if name not in UNTYPED_UPDATES}


def _update(context: NodeContext, call: Call, _account: NodeAccount | None, now: float) -> Resource:
    typed = message.fit_columns(message.trim_strings(_select_typed(call.fields)), context.options, context.errors)
    untyped = {name: value for name, value in call.fields.items() if name in UNTYPED_UPDATES}
    row = context.resources.change(call.path["uuid"])
    if row is None:
        raise context.errors.failure("SYS.1003", "missing", "uuid", call.path["uuid"], MODEL_SERVICE)
    check_images(context, Resource(row.uuid, row.kind, row.owner, None, now, typed))
    set_fields(row, typed | untyped, now)
    context.ledger.counts["updated"] += 1
    context.ledger.updates.append((row.uuid, (*typed, *untyped)))
    context.emit({"e": "set", "u": row.uuid, "p": typed | untyped, "t": now})
    return row


def set_fields(row: Resource, fields: Json, now: float) -> None:
    """Change fields of a resource."""
    row.params = {**row.params, **fields}
    row.name = fields.get("name", row.name)
    row.changed_at = now


def _validate_delete(context: NodeContext, call: Call) -> None:
    mode = call.value("deleteMode")
    if mode is not None and mode not in _DELETE_MODES:
        raise context.errors.failure("SYS.1007", "choices", "deleteMode", ", ".join(_DELETE_MODES), mode)


def _permit_change(context: NodeContext, call: Call, account: NodeAccount) -> None:
    _require_owner(context, call.path["uuid"], account)


def _require_owner(context: NodeContext, uuid: str, account: NodeAccount) -> None:
    row = context.resources.find_service(uuid)
    if row is not None and not account.is_admin and row.owner != account.uuid:
        raise context.errors.denial("owner", account.uuid, row.uuid, MODEL_SERVICE)


def _delete(context: NodeContext, call: Call, _account: NodeAccount | None, _now: float) -> Json:
    delete_service(context, call.path["uuid"])
    return {}


def delete_service(context: NodeContext, uuid: str) -> None:
    """Delete a model service; an unknown one is ignored."""
    if context.resources.find_service(uuid) is not None:
        context.resources.delete(uuid)
        context.ledger.counts["deleted"] += 1
        context.emit({"e": "delete", "u": uuid})


def _validate_delete_many(context: NodeContext, call: Call) -> None:
    require(context, call, "uuids")
    _validate_delete(context, call)


def _delete_many(context: NodeContext, call: Call, account: NodeAccount | None, _now: float) -> Json:
    """Delete several services, each with its own result."""
    assert account is not None
    return {"results": [_delete_one(context, uuid, account) for uuid in call.values("uuids")]}


def _delete_one(context: NodeContext, uuid: str, account: NodeAccount) -> Json:
    try:
        _require_owner(context, uuid, account)
    except ApiFailureError as failure:
        return {"uuid": uuid, "success": False, "error": context.errors.json(failure.error)}
    delete_service(context, uuid)
    return {"uuid": uuid, "success": True}


APIS: Final = (
    ApiDefinition(
        "AddModelService",
        "add",
        "POST",
        PATH,
        _add,
        parameter="param",
        creates=True,
        read=_read_add,
        validate=_validate_add,
    ),
    ApiDefinition(
        "UpdateModelService",
        "update",
        "PUT",
        PATH + "/{uuid}",
        _update,
        "updateModelService",
        read=_read_update,
        validate=_validate_update,
        permit=_permit_change,
    ),
    ApiDefinition(
        "DeleteModelService",
        "delete",
        "DELETE",
        PATH + "/{uuid}",
        _delete,
        validate=_validate_delete,
        permit=_permit_change,
    ),
    ApiDefinition(
        "DeleteModelServices", "deleteMany", "DELETE", PATH + "/", _delete_many, validate=_validate_delete_many
    ),
)
