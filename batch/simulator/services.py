"""The APIs of model services: clone, query, delete (wire: sections 3, 6)."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

from batch.simulator import message, query
from batch.simulator.api import Api, Call, World
from batch.simulator.resources import MODEL_SERVICE, Resource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batch.simulator.options import Account
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
_DELETE_MODES: Final = ("Permissive", "Enforcing")
_HEX: Final = frozenset("0123456789abcdef")


def _validate_clone(world: World, call: Call) -> None:
    message.check_fields(call.fields, world.speech)
    uuid = call.path["uuid"]
    if world.estate.find_source(uuid) is None:
        raise world.speech.fail("SYS.1003", "missing", "uuid", uuid, MODEL_SERVICE)
    unknown = [tag for tag in call.fields.get("tagUuids", []) if not _tag_exists(world, tag.strip())]
    if unknown:
        raise world.speech.fail("SYS.1003", "missing_many", ",".join(unknown), "TagPatternVO")


def _tag_exists(world: World, uuid: str) -> bool:
    return uuid in world.options.tags or (world.options.invent_sources and len(uuid) == 32 and set(uuid) <= _HEX)


def _permit_clone(world: World, call: Call, account: Account) -> None:
    row = world.estate.find_service(call.path["uuid"])
    if row is not None and not world.estate.may_use(row, account.uuid, is_admin=account.is_admin):
        raise world.speech.fail("SYS.1006", "access", account.uuid, row.uuid, MODEL_SERVICE)


def _clone(world: World, call: Call, account: Account | None, now: float) -> Resource:
    """Make the clone; a bad user tag fails the job after the row was written."""
    assert account is not None
    row = _new_row(world, call, account, now)
    world.estate.insert(row)
    world.ledger.clone(row)
    doubled = [tag for tag in call.user_tags if call.user_tags.count(tag) > 1]
    row.tags = tuple(dict.fromkeys(call.user_tags))
    world.emit(clone_event(row))
    if doubled:
        raise world.speech.fail("SYS.1006", "duplicated_tag", doubled[0], row.uuid)
    return row


def _new_row(world: World, call: Call, account: Account, now: float) -> Resource:
    fields = message.fit_columns(message.trimmed(call.fields), world.options, world.speech)
    asked = fields.pop("resourceUuid", None)
    source = call.path["uuid"]
    origin = world.estate.rows.get(source)
    name = fields["name"] if "name" in fields else _source_name(world, source)
    return Resource(
        uuid=asked if asked is not None and world.options.honours_resource_uuid else world.draw_uuid(),
        kind=MODEL_SERVICE,
        owner=account.uuid,
        name=name,
        made_at=now,
        params=fields if world.options.keep_params else {},
        source=source,
        origin=origin,
        digest=zlib.crc32(repr(sorted(fields.items())).encode("utf-8", "replace")),
        job=call.id,
    )


def _source_name(world: World, uuid: str) -> str | None:
    row = world.estate.find(uuid)
    return row.name if row is not None else None


def clone_event(row: Resource) -> Json:
    """Write a clone for the state file."""
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


def _query(world: World, call: Call, account: Account | None, _now: float) -> Json:
    assert account is not None
    uuid = call.path.get("uuid")
    asked = query.parse(call.request)
    query.check_fields(asked, FIELDS, INVENTORY, world.speech)
    rows = _candidates(world, [uuid] if uuid is not None else asked.uuids())
    visible = (row for row in rows if world.estate.may_use(row, account.uuid, is_admin=account.is_admin))
    return query.answer(asked, (_member(world, row) for row in visible), INVENTORY)


def _candidates(world: World, uuids: list[str] | None) -> Iterable[Resource]:
    if uuids is None:
        return world.estate.services()
    found = (world.estate.find_service(uuid) for uuid in dict.fromkeys(uuids))
    return [row for row in found if row is not None]


def _member(world: World, row: Resource) -> Json:
    tags: dict[str, Any] = {"__userTag__": list(row.tags), "__systemTag__": [], "__tagUuid__": []}
    return world.estate.inventory(row) | tags


def _validate_delete(world: World, call: Call) -> None:
    mode = call.request.value("deleteMode")
    if mode is not None and mode not in _DELETE_MODES:
        raise world.speech.fail("SYS.1007", "choices", "deleteMode", ", ".join(_DELETE_MODES), mode)


def _permit_delete(world: World, call: Call, account: Account) -> None:
    row = world.estate.find_service(call.path["uuid"])
    if row is not None and not account.is_admin and row.owner != account.uuid:
        raise world.speech.fail("SYS.1006", "owner", account.uuid, row.uuid, MODEL_SERVICE)


def _delete(world: World, call: Call, _account: Account | None, _now: float) -> Json:
    uuid = call.path["uuid"]
    if world.estate.find_service(uuid) is not None:
        world.estate.delete(uuid)
        world.ledger.counts["deleted"] += 1
        world.emit({"e": "delete", "u": uuid})
    return {}


APIS: Final = (
    Api("QueryModelService", "query", "GET", PATH, _query, sync=True),
    Api("QueryModelService", "query", "GET", PATH + "/{uuid}", _query, sync=True),
    Api(
        "CloneModelService",
        "submit",
        "POST",
        PATH + "/{uuid}",
        _clone,
        creates=True,
        validate=_validate_clone,
        permit=_permit_clone,
    ),
    Api(
        "DeleteModelService",
        "delete",
        "DELETE",
        PATH + "/{uuid}",
        _delete,
        validate=_validate_delete,
        permit=_permit_delete,
    ),
)
