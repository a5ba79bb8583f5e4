"""The APIs of user tags and tag patterns (zstack/README.md 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from batch.simulator import catalogue, query
from batch.simulator.api import ApiDefinition, Call, NodeContext
from batch.simulator.ownership import require, require_resource
from batch.simulator.resources import Resource
from batch.simulator.service_changes import other_event
from batch.simulator.wire import derive_uuid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batch.simulator.options import NodeAccount
    from batch.simulator.wire import Json

_TAG: Final = "org.zstack.header.tag.UserTagInventory"
_TAG_FIELDS: Final = frozenset({"uuid", "tag", "resourceUuid", "resourceType", "type", "createDate", "lastOpDate"})
_PACKAGE: Final = "org.zstack.header.tag"
_PATTERN_PACKAGE: Final = "org.zstack.tag2"


def _user_tags(context: NodeContext, call: Call, account: NodeAccount | None, _now: float) -> Json:
    assert account is not None
    query.check_field_names(call.query, _TAG_FIELDS, _TAG, context.errors)
    rows = _candidates(context, call.query.uuids("resourceUuid"))
    visible = [row for row in rows if context.resources.may_use(row, account.uuid, is_admin=account.is_admin)]
    return query.answer(call.query, (tag_row(context, row, tag) for row in visible for tag in row.tags), _TAG)


def _candidates(context: NodeContext, uuids: list[str] | None) -> Iterable[Resource]:
    if uuids is None:
        return (row for row in context.resources.rows.values() if row.tags and not row.deleted)
    found = (context.resources.find(uuid) for uuid in dict.fromkeys(uuids))
    return [row for row in found if row is not None]


def tag_row(context: NodeContext, row: Resource, tag: str) -> Json:
    """Write one user tag of a resource."""
    created, _ = context.resources.dates(row)
    return {
        "uuid": derive_uuid("user-tag", row.uuid, tag),
        "resourceUuid": row.uuid,
        "resourceType": row.kind,
        "tag": tag,
        "type": "User",
        "createDate": created,
        "lastOpDate": created,
    }


def _validate_tag(context: NodeContext, call: Call) -> None:
    require(context, call, "resourceType", "resourceUuid", "tag")
    require_resource(context, call.fields["resourceUuid"])


def _create_tag(context: NodeContext, call: Call, _account: NodeAccount | None, _now: float) -> Json:
    row = context.resources.change(str(call.fields["resourceUuid"]))
    assert row is not None
    tag = str(call.fields["tag"])
    if tag in row.tags:
        raise context.errors.duplicate_tag(tag, row.uuid)
    row.tags = (*row.tags, tag)
    context.emit({"e": "tags", "u": row.uuid, "g": list(row.tags)})
    return {"inventory": tag_row(context, row, tag)}


def _validate_pattern(context: NodeContext, call: Call) -> None:
    require(context, call, "name", "value")


def _create_pattern(context: NodeContext, call: Call, account: NodeAccount | None, now: float) -> Json:
    assert account is not None
    given = call.fields.get("resourceUuid")
    uuid = given if isinstance(given, str) else context.draw_uuid()
    fields: dict[str, Any] = {name: call.fields.get(name) for name in ("name", "value", "color", "description")}
    params = {name: value for name, value in fields.items() if value is not None}
    row = Resource(uuid, catalogue.TAG_PATTERN, account.uuid, str(fields["name"]), now, params)
    context.resources.insert(row)
    context.emit(other_event(row))
    return {"inventory": catalogue.inventory(context, row)}


def _validate_attach(context: NodeContext, call: Call) -> None:
    require(context, call, "resourceUuids")
    if catalogue.find_resource(context, catalogue.TAG_PATTERN, call.path["tagUuid"]) is None:
        raise context.errors.failure("SYS.1003", "missing", "tagUuid", call.path["tagUuid"], catalogue.TAG_PATTERN)
    for uuid in call.values("resourceUuids"):
        require_resource(context, uuid)


def _attach(context: NodeContext, call: Call, _account: NodeAccount | None, _now: float) -> Json:
    results = []
    for uuid in call.values("resourceUuids"):
        row = context.resources.change(uuid)
        assert row is not None
        row.patterns = tuple(dict.fromkeys((*row.patterns, call.path["tagUuid"])))
        context.emit({"e": "patterns", "u": uuid, "g": list(row.patterns)})
        results.append({"resourceUuid": uuid, "tagPatternUuid": call.path["tagUuid"], "success": True})
    return {"results": results}


APIS: Final = (
    ApiDefinition(
        "QueryUserTag", "tags", "GET", "/v1/user-tags", _user_tags, sync=True, is_query=True, package=_PACKAGE
    ),
    ApiDefinition(
        "QueryUserTag", "tags", "GET", "/v1/user-tags/{uuid}", _user_tags, sync=True, is_query=True, package=_PACKAGE
    ),
    ApiDefinition(
        "CreateUserTag",
        "tag",
        "POST",
        "/v1/user-tags",
        _create_tag,
        package=_PACKAGE,
        inventory=_TAG,
        validate=_validate_tag,
    ),
    ApiDefinition(
        "CreateTag",
        "tagPattern",
        "POST",
        "/v1/tags",
        _create_pattern,
        package=_PATTERN_PACKAGE,
        inventory=catalogue.KINDS[catalogue.TAG_PATTERN].inventory,
        validate=_validate_pattern,
    ),
    ApiDefinition(
        "AttachTagToResources",
        "attachTag",
        "POST",
        "/v1/tags/{tagUuid}/resources",
        _attach,
        package=_PATTERN_PACKAGE,
        validate=_validate_attach,
    ),
)
