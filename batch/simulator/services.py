"""The APIs that clone and query model services (zstack/README.md 4 and 8)."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

from batch.simulator import catalogue, message, query
from batch.simulator.api import ApiDefinition, Call, NodeContext
from batch.simulator.resources import MODEL_SERVICE, Resource
from batch.zstack.params import BODY_PARAMS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batch.simulator.options import NodeAccount, NodeOptions
    from batch.simulator.wire import Json

PATH: Final = "/v1/ai/model-services"
INVENTORY: Final = "org.zstack.ai.entity.ModelServiceInventory"
FIELDS: Final = frozenset(
    {
        "uuid",
        "name",
        "description",
        "readme",
        "yaml",
        "requestCpu",
        "requestMemory",
        "modelCenterUuid",
        "type",
        "framework",
        "source",
        "size",
        "system",
        "gpuComputeCapability",
        "installPath",
        "pythonVersion",
        "condaVersion",
        "startCommand",
        "containerCommand",
        "containerArgs",
        "supportDistributed",
        "cpuArchitectures",
        "vendorToSpecUuidsMap",
        "modelServiceRefs",
        "modelServiceImages",
        "createDate",
        "lastOpDate",
        "hasNewVersion",
        "version",
        "zoneUuid",
        "__systemTag__",
        "__userTag__",
        "__tagUuid__",
    }
)


def _validate_clone(context: NodeContext, call: Call) -> None:
    message.check_values(call.fields, context.errors)
    uuid = call.path["uuid"]
    if context.resources.find_source(uuid) is None:
        raise context.errors.failure("SYS.1003", "missing", "uuid", uuid, MODEL_SERVICE)
    require_tags(context, call)


def require_tags(context: NodeContext, call: Call) -> None:
    """Refuse tag patterns that do not exist. Raises ApiFailureError SYS.1003."""
    given = call.fields.get("tagUuids") or []
    unknown = [tag for tag in given if catalogue.find_resource(context, catalogue.TAG_PATTERN, tag.strip()) is None]
    if unknown:
        raise context.errors.failure("SYS.1003", "missing_many", ",".join(unknown), catalogue.TAG_PATTERN)


def _permit_clone(context: NodeContext, call: Call, account: NodeAccount) -> None:
    row = context.resources.find_service(call.path["uuid"])
    if row is not None and not context.resources.may_use(row, account.uuid, is_admin=account.is_admin):
        raise context.errors.denial("access", account.uuid, row.uuid, MODEL_SERVICE)


def _clone(context: NodeContext, call: Call, account: NodeAccount | None, now: float) -> Resource:
    """Make the clone; an invalid user tag fails the job after the row was written."""
    assert account is not None
    row = _new_row(context, call, account, now)
    check_images(context, row)
    context.resources.insert(row)
    context.ledger.clone(row)
    row.tags = tuple(dict.fromkeys(call.user_tags))
    context.emit(clone_event(row))
    require_single_tags(context, call, row)
    return row


def require_single_tags(context: NodeContext, call: Call, row: Resource) -> None:
    """Fail the job of a resource that is there where a user tag is given twice. Raises ApiFailureError."""
    for tag in call.user_tags:
        if call.user_tags.count(tag) > 1:
            raise context.errors.duplicate_tag(tag, row.uuid)


def check_images(context: NodeContext, row: Resource) -> None:
    """Refuse two images of one architecture where a unique key does. Raises ApiFailureError SYS.1000."""
    if not context.options.unique_images:
        return
    names = [image.get("cpuArchitecture") for image in row.params.get("architectureImages") or ()]
    for name in names:
        if names.count(name) > 1:
            raise context.errors.failure("SYS.1000", "unique_image", row.uuid, name)


def _new_row(context: NodeContext, call: Call, account: NodeAccount, now: float) -> Resource:
    fields = message.fit_columns(message.trim_strings(call.fields), context.options, context.errors)
    asked = fields.pop("resourceUuid", None)
    source = call.path["uuid"]
    origin = context.resources.rows.get(source)
    name = fields["name"] if "name" in fields else _source_name(context, source)
    return Resource(
        uuid=asked if asked is not None and context.options.honours_resource_uuid else context.draw_uuid(),
        kind=MODEL_SERVICE,
        owner=account.uuid,
        name=name,
        made_at=now,
        params=fields if context.options.keep_params else {},
        source=source,
        origin=origin,
        digest=zlib.crc32(repr(sorted(fields.items())).encode("utf-8", "replace")),
        job=call.id,
    )


def _source_name(context: NodeContext, uuid: str) -> str | None:
    row = context.resources.find(uuid)
    return row.name if row is not None else None


def clone_event(row: Resource) -> Json:
    """Return the state file event of a clone."""
    return {
        "e": "clone",
        "u": row.uuid,
        "s": row.source,
        "o": row.owner,
        "n": row.name,
        "t": row.made_at,
        "p": dict(row.params),
        "d": row.digest,
        "j": row.job,
        "g": list(row.tags),
    }


def _query(context: NodeContext, call: Call, account: NodeAccount | None, _now: float) -> Json:
    assert account is not None
    query.check_field_names(call.query, FIELDS, INVENTORY, context.errors)
    rows = _candidates(context, call.query.uuids())
    if context.options.row_appears == "never":
        rows = (row for row in rows if row.job is None)
    visible = (row for row in rows if context.resources.may_use(row, account.uuid, is_admin=account.is_admin))
    return query.answer(call.query, (_member(context, row) for row in visible), INVENTORY)


def _candidates(context: NodeContext, uuids: list[str] | None) -> Iterable[Resource]:
    if uuids is None:
        return context.resources.services()
    found = (context.resources.find_service(uuid) for uuid in dict.fromkeys(uuids))
    return [row for row in found if row is not None]


def _member(context: NodeContext, row: Resource) -> Json:
    patterns = [*row.params.get("tagUuids", ()), *row.patterns]
    tags: dict[str, Any] = {"__userTag__": list(row.tags), "__systemTag__": [], "__tagUuid__": patterns}
    return context.resources.inventory(row) | tags


def read_clone(params: Json, options: NodeOptions) -> Json:
    """Read the fields of CloneModelService. Raises RestError 400, 500."""
    return message.typed_fields(params, BODY_PARAMS, options)


APIS: Final = (
    ApiDefinition("QueryModelService", "query", "GET", PATH, _query, sync=True, is_query=True),
    ApiDefinition("QueryModelService", "query", "GET", PATH + "/{uuid}", _query, sync=True, is_query=True),
    ApiDefinition(
        "CloneModelService",
        "submit",
        "POST",
        PATH + "/{uuid}",
        _clone,
        creates=True,
        read=read_clone,
        validate=_validate_clone,
        permit=_permit_clone,
    ),
)
