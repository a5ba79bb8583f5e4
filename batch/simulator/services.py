"""The APIs of model services: clone, query, add, update, delete (zstack/README.md 4, 8 and 11)."""

from __future__ import annotations

import zlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from batch.simulator import catalogue, message, query
from batch.simulator.api import ApiDefinition, Call, NodeContext
from batch.simulator.api_errors import ApiFailureError
from batch.simulator.message import ADD_PARAMS, ADD_REQUIRED, UNTYPED_UPDATES, UPDATE_PARAMS
from batch.simulator.resources import MODEL_SERVICE, Resource
from batch.zstack.params import BODY_PARAMS

if TYPE_CHECKING:
    from batch.simulator.options import NodeAccount, NodeOptions
    from batch.simulator.wire import Json

INVENTORY: Final = "org.zstack.ai.entity.ModelServiceInventory"
_PATH: Final = "/v1/ai/model-services"
_DELETE_MODES: Final = ("Permissive", "Enforcing")
_FIELDS: Final = frozenset(
    (BODY_PARAMS.keys() - {"resourceUuid", "tagUuids", "architectureImages"})
    | {"uuid", "modelCenterUuid", "zoneUuid", "modelServiceRefs", "modelServiceImages", "createDate", "lastOpDate"}
    | {"hasNewVersion", "version", "__systemTag__", "__userTag__", "__tagUuid__"}
)
"""Fields that queries may name."""


def _validate_clone(context: NodeContext, call: Call) -> None:
    message.check_values(call.fields, context.errors)
    if context.resources.find_source(call.path["uuid"]) is None:
        raise context.errors.failure("SYS.1003", "missing", "uuid", call.path["uuid"], MODEL_SERVICE)
    _require_tags(context, call)


def _require_tags(context: NodeContext, call: Call) -> None:
    """Refuse tag patterns that do not exist. Raises ApiFailureError SYS.1003."""
    given = call.fields.get("tagUuids") or []
    unknown = [tag for tag in given if catalogue.find_resource(context, catalogue.TAG_PATTERN, tag.strip()) is None]
    if unknown:
        raise context.errors.failure("SYS.1003", "missing_many", ",".join(unknown), catalogue.TAG_PATTERN)


def _permit_clone(context: NodeContext, call: Call, account: NodeAccount) -> None:
    row = context.resources.find_service(call.path["uuid"])
    if row is not None and not context.resources.may_use(row, account):
        raise context.errors.denial("access", account.uuid, row.uuid, MODEL_SERVICE)


def _clone(context: NodeContext, call: Call, account: NodeAccount, now: float) -> Resource:
    """Make the clone; an invalid user tag fails the job after the row was written."""
    row = _new_row(context, call, account, now)
    _check_images(context, row)
    context.resources.insert(row)
    context.ledger.clone(row)
    row.tags = tuple(dict.fromkeys(call.user_tags))
    context.emit(row.event())
    _require_single_tags(context, call, row)
    return row


def _require_single_tags(context: NodeContext, call: Call, row: Resource) -> None:
    """Fail the job of a resource that is there where a user tag is given twice. Raises ApiFailureError."""
    for tag in call.user_tags:
        if call.user_tags.count(tag) > 1:
            raise context.errors.duplicate_tag(tag, row.uuid)


def _check_images(context: NodeContext, row: Resource) -> None:
    """Refuse two images of one architecture where a unique key does. Raises ApiFailureError SYS.1000."""
    if not context.options.unique_images:
        return
    names = [image.get("cpuArchitecture") for image in row.params.get("architectureImages") or ()]
    for name in names:
        if names.count(name) > 1:
            raise context.errors.failure("SYS.1000", "unique_image", row.uuid, name)


def _new_row(context: NodeContext, call: Call, account: NodeAccount, now: float) -> Resource:
    fields = message.fit_columns(message.trim_strings(call.fields), context.options, context.errors)
    wanted = fields.pop("resourceUuid", None)
    source = call.path["uuid"]
    template = context.resources.find(source)
    return Resource(
        uuid=wanted if wanted is not None and context.options.honours_resource_uuid else context.draw_uuid(),
        kind=MODEL_SERVICE,
        owner=account.uuid,
        name=fields.get("name", template.name if template is not None else None),
        made_at=now,
        params=fields if context.options.keep_params else {},
        source=source,
        origin=context.resources.rows.get(source),
        digest=zlib.crc32(repr(sorted(fields.items())).encode("utf-8", "replace")),
        job=call.id,
    )


def _query(context: NodeContext, call: Call, account: NodeAccount, _now: float) -> Json:
    store = context.resources
    rows = store.visible(account, call.query.uuids(), find=store.find_service, others=store.services())
    if context.options.row_appears == "never":
        rows = (row for row in rows if row.job is None)
    return query.answer(call.query, (_member(context, row) for row in rows), _FIELDS, INVENTORY, context.errors)


def _member(context: NodeContext, row: Resource) -> Json:
    patterns = [*row.params.get("tagUuids", ()), *row.patterns]
    tags: dict[str, Any] = {"__userTag__": list(row.tags), "__systemTag__": [], "__tagUuid__": patterns}
    return context.resources.inventory(row) | tags


def _read_clone(params: Json, options: NodeOptions) -> Json:
    return message.typed_fields(params, BODY_PARAMS, options)


def _read_add(params: Json, options: NodeOptions) -> Json:
    return message.typed_fields(params, ADD_PARAMS, options)


def _validate_add(context: NodeContext, call: Call) -> None:
    message.check_values(call.fields, context.errors)
    uuid = call.fields["modelCenterUuid"]
    if catalogue.find_resource(context, "ModelCenterVO", uuid) is None:
        raise context.errors.failure("SYS.1003", "missing", "modelCenterUuid", uuid, "ModelCenterVO")
    _require_tags(context, call)


def _add(context: NodeContext, call: Call, account: NodeAccount, now: float) -> Resource:
    fields = message.fit_columns(message.trim_strings(call.fields), context.options, context.errors)
    wanted = fields.pop("resourceUuid", None)
    row = Resource(
        uuid=wanted if wanted is not None else context.draw_uuid(),
        kind=MODEL_SERVICE,
        owner=account.uuid,
        name=fields["name"],
        made_at=now,
        params=fields,
        job=call.id,
        tags=tuple(dict.fromkeys(call.user_tags)),
        is_added=True,
    )
    _check_images(context, row)
    context.resources.insert(row)
    context.ledger.counts["added"] += 1
    context.emit(row.event())
    _require_single_tags(context, call, row)
    return row


def _read_update(params: Json, options: NodeOptions) -> Json:
    untyped = {name: params[name] for name in UNTYPED_UPDATES if params.get(name) is not None}
    return message.typed_fields(params, UPDATE_PARAMS, options) | untyped


def _validate_update(context: NodeContext, call: Call) -> None:
    message.check_values(_select_typed(call.fields), context.errors)
    if context.resources.find_service(call.path["uuid"]) is None:
        raise context.errors.failure("SYS.1003", "missing", "uuid", call.path["uuid"], MODEL_SERVICE)


def _select_typed(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if name not in UNTYPED_UPDATES}


def _update(context: NodeContext, call: Call, _account: NodeAccount, now: float) -> Resource:
    typed = message.fit_columns(message.trim_strings(_select_typed(call.fields)), context.options, context.errors)
    fields = typed | {name: value for name, value in call.fields.items() if name in UNTYPED_UPDATES}
    row = context.resources.change(call.path["uuid"])
    if row is None:
        raise context.errors.failure("SYS.1003", "missing", "uuid", call.path["uuid"], MODEL_SERVICE)
    _check_images(context, Resource(row.uuid, row.kind, row.owner, None, now, typed))
    row.set_fields(fields, now)
    context.ledger.counts["updated"] += 1
    context.ledger.updates.append((row.uuid, tuple(fields)))
    context.emit({"e": "set", "u": row.uuid, "p": fields, "t": now})
    return row


def _validate_delete(context: NodeContext, call: Call) -> None:
    for mode in call.values("deleteMode")[:1]:
        if mode not in _DELETE_MODES:
            raise context.errors.failure("SYS.1007", "choices", "deleteMode", ", ".join(_DELETE_MODES), mode)


def _permit_change(context: NodeContext, call: Call, account: NodeAccount) -> None:
    _require_owner(context, call.path["uuid"], account)


def _require_owner(context: NodeContext, uuid: str, account: NodeAccount) -> None:
    row = context.resources.find_service(uuid)
    if row is not None and not account.is_admin and row.owner != account.uuid:
        raise context.errors.denial("owner", account.uuid, row.uuid, MODEL_SERVICE)


def _delete(context: NodeContext, call: Call, _account: NodeAccount, _now: float) -> Json:
    _delete_service(context, call.path["uuid"])
    return {}


def _delete_service(context: NodeContext, uuid: str) -> None:
    """Delete a model service; an unknown one is ignored."""
    if context.resources.find_service(uuid) is not None:
        context.resources.delete(uuid)
        context.ledger.counts["deleted"] += 1
        context.emit({"e": "delete", "u": uuid})


def _delete_many(context: NodeContext, call: Call, account: NodeAccount, _now: float) -> Json:
    """Delete several services, each with its own result."""
    return {"results": [_delete_one(context, uuid, account) for uuid in call.values("uuids")]}


def _delete_one(context: NodeContext, uuid: str, account: NodeAccount) -> Json:
    try:
        _require_owner(context, uuid, account)
    except ApiFailureError as failure:
        return {"uuid": uuid, "success": False, "error": context.errors.json(failure.error)}
    _delete_service(context, uuid)
    return {"uuid": uuid, "success": True}


_query_api = partial(ApiDefinition, "QueryModelService", "query", "GET", run=_query, sync=True, is_query=True)
_create_api = partial(ApiDefinition, method="POST", creates=True)
_change_api = partial(ApiDefinition, pattern=_PATH + "/{uuid}", permit=_permit_change)
APIS: Final = (
    _query_api(_PATH),
    _query_api(_PATH + "/{uuid}"),
    _create_api(
        "CloneModelService",
        "submit",
        pattern=_PATH + "/{uuid}",
        run=_clone,
        read=_read_clone,
        validate=_validate_clone,
        permit=_permit_clone,
    ),
    _create_api(
        "AddModelService",
        "add",
        pattern=_PATH,
        run=_add,
        parameter="param",
        required=ADD_REQUIRED,
        read=_read_add,
        validate=_validate_add,
    ),
    _change_api(
        "UpdateModelService",
        "update",
        "PUT",
        run=_update,
        action="updateModelService",
        read=_read_update,
        validate=_validate_update,
    ),
    _change_api("DeleteModelService", "delete", "DELETE", run=_delete, validate=_validate_delete),
    ApiDefinition(
        "DeleteModelServices",
        "deleteMany",
        "DELETE",
        _PATH + "/",
        _delete_many,
        required=("uuids",),
        validate=_validate_delete,
    ),
)
