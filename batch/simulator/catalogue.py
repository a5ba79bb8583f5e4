"""The APIs of tags and of read-only resources: images, model centres, models, GPU specs, instance groups."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from batch.simulator import query
from batch.simulator.api import ApiDefinition, Call, NodeContext, require_resource
from batch.simulator.options import ADMIN_UUID
from batch.simulator.resources import Resource
from batch.simulator.wire import derive_uuid

if TYPE_CHECKING:
    from batch.simulator.options import NodeAccount
    from batch.simulator.wire import Json

TAG_PATTERN: Final = "TagPatternVO"
INSTANCE_GROUP: Final = "ModelServiceInstanceGroupVO"
_HEX: Final = re.compile("[0-9a-f]{32}")
_TAG: Final = "org.zstack.header.tag.UserTagInventory"
_TAG_FIELDS: Final = frozenset({"uuid", "tag", "resourceUuid", "resourceType", "type", "createDate", "lastOpDate"})
_DATES: Final = frozenset({"uuid", "createDate", "lastOpDate"})


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of resource: its API and the defaults of its rows."""

    name: str
    api: str
    path: str
    package: str
    inventory: str
    """Java class of its rows."""
    defaults: tuple[tuple[str, Any], ...]
    others: frozenset[str] = frozenset()
    """Optional fields, present only if set."""
    is_made_up: bool = False
    """Whether a node that makes up sources also makes up unknown uuids of this kind."""

    @property
    def fields(self) -> frozenset[str]:
        """All fields that a query may name."""
        return _DATES | self.others | {name for name, _ in self.defaults}


_KINDS: Final = {
    kind.name: kind
    for kind in (
        _Kind(
            "ImageVO",
            "QueryImage",
            "/v1/images",
            "org.zstack.header.image",
            "org.zstack.header.image.ImageInventory",
            (("name", "image"), ("state", "Enabled"), ("status", "Ready"), ("format", "qcow2"), ("system", False)),
            frozenset({"architecture", "description", "mediaType", "guestOsType", "platform", "type", "size", "url"}),
            is_made_up=True,
        ),
        _Kind(
            "ModelCenterVO",
            "QueryModelCenter",
            "/v1/ai/model-centers",
            "org.zstack.ai.message",
            "org.zstack.ai.entity.ModelCenterInventory",
            (("name", "model-center"), ("status", "Connected"), ("url", "http://192.0.2.20:8989")),
            frozenset({"description", "managementIp", "managementPort", "capacity", "containerRegistry"}),
            is_made_up=True,
        ),
        _Kind(
            "ModelVO",
            "QueryModel",
            "/v1/ai/models",
            "org.zstack.ai.message",
            "org.zstack.ai.entity.ModelInventory",
            (("name", "model"),),
            frozenset({"description", "modelCenterUuid", "type", "size", "installPath"}),
        ),
        _Kind(
            "GpuDeviceSpecVO",
            "QueryPciDeviceSpec",
            "/v1/pci-device-specs",
            "org.zstack.pciDevice.specification.pci",
            "org.zstack.pciDevice.specification.pci.PciDeviceSpecInventory",
            (("name", "gpu"), ("state", "Enabled"), ("type", "GPU_3D_Controller")),
            frozenset({"description", "vendorId", "deviceId", "vendor", "memory"}),
            is_made_up=True,
        ),
        _Kind(
            TAG_PATTERN,
            "QueryTag",
            "/v1/tags",
            "org.zstack.tag2",
            "org.zstack.header.tag.TagPatternInventory",
            (("name", "tag"), ("value", "tag"), ("color", "#186EAE"), ("type", "simple")),
            frozenset({"description", "resourceType"}),
            is_made_up=True,
        ),
        _Kind(
            INSTANCE_GROUP,
            "QueryModelServiceInstanceGroup",
            "/v1/ai/model-services/instances/groups/",
            "org.zstack.ai.message",
            "org.zstack.ai.entity.ModelServiceInstanceGroupInventory",
            (("name", "group"), ("status", "Running"), ("type", "Endpoint"), ("instances", [])),
            frozenset({"description", "modelServiceUuid", "modelUuid"}),
        ),
    )
}


def find_resource(context: NodeContext, kind: str, uuid: str) -> Resource | None:
    """Return a resource of a kind; an unknown one may be made up."""
    store = context.resources
    row = store.find(uuid)
    if row is not None:
        return row if row.kind == kind else None
    if uuid in store.rows or not _may_be_made_up(context, kind, uuid):
        return None
    return Resource(uuid, kind, ADMIN_UUID, None, store.since, public=True)


def _may_be_made_up(context: NodeContext, kind: str, uuid: str) -> bool:
    if kind == TAG_PATTERN and uuid in context.options.tags:
        return True
    return _KINDS[kind].is_made_up and context.options.invent_sources and _HEX.fullmatch(uuid) is not None


def _query(kind: _Kind, context: NodeContext, call: Call, account: NodeAccount, _now: float) -> Json:
    store, find = context.resources, partial(find_resource, context, kind.name)
    rows = store.visible(account, call.query.uuids(), find=find, others=store.of_kind(kind.name))
    members = (_inventory(context, row) for row in rows)
    return query.answer(call.query, members, kind.fields, kind.inventory, context.errors)


def _inventory(context: NodeContext, row: Resource) -> Json:
    created, changed = context.resources.dates(row)
    named = {} if row.name is None else {"name": row.name}
    fields = dict(_KINDS[row.kind].defaults) | named | dict(row.params)
    return {"uuid": row.uuid, **fields, "createDate": created, "lastOpDate": changed}


def _user_tags(context: NodeContext, call: Call, account: NodeAccount, _now: float) -> Json:
    store = context.resources
    others = (row for row in store.rows.values() if row.tags and not row.deleted)
    rows = store.visible(account, call.query.uuids("resourceUuid"), find=store.find, others=others)
    members = (_tag_row(context, row, tag) for row in rows for tag in row.tags)
    return query.answer(call.query, members, _TAG_FIELDS, _TAG, context.errors)


def _tag_row(context: NodeContext, row: Resource, tag: str) -> Json:
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
    require_resource(context, call.fields["resourceUuid"])


def _create_tag(context: NodeContext, call: Call, _account: NodeAccount, _now: float) -> Json:
    row = context.resources.change(str(call.fields["resourceUuid"]))
    assert row is not None
    tag = str(call.fields["tag"])
    if tag in row.tags:
        raise context.errors.duplicate_tag(tag, row.uuid)
    row.tags = (*row.tags, tag)
    context.emit({"e": "tags", "u": row.uuid, "g": list(row.tags)})
    return {"inventory": _tag_row(context, row, tag)}


def _create_pattern(context: NodeContext, call: Call, account: NodeAccount, now: float) -> Json:
    given = call.fields.get("resourceUuid")
    uuid = given if isinstance(given, str) else context.draw_uuid()
    fields: dict[str, Any] = {name: call.fields.get(name) for name in ("name", "value", "color", "description")}
    params = {name: value for name, value in fields.items() if value is not None}
    row = Resource(uuid, TAG_PATTERN, account.uuid, str(fields["name"]), now, params)
    context.resources.insert(row)
    context.emit(row.event())
    return {"inventory": _inventory(context, row)}


def _validate_attach(context: NodeContext, call: Call) -> None:
    if find_resource(context, TAG_PATTERN, call.path["tagUuid"]) is None:
        raise context.errors.failure("SYS.1003", "missing", "tagUuid", call.path["tagUuid"], TAG_PATTERN)
    for uuid in call.values("resourceUuids"):
        require_resource(context, uuid)


def _attach(context: NodeContext, call: Call, _account: NodeAccount, _now: float) -> Json:
    results = []
    for uuid in call.values("resourceUuids"):
        row = context.resources.change(uuid)
        assert row is not None
        row.patterns = tuple(dict.fromkeys((*row.patterns, call.path["tagUuid"])))
        context.emit({"e": "patterns", "u": uuid, "g": list(row.patterns)})
        results.append({"resourceUuid": uuid, "tagPatternUuid": call.path["tagUuid"], "success": True})
    return {"results": results}


_query_api = partial(ApiDefinition, method="GET", sync=True, is_query=True)
_tag_api = partial(_query_api, "QueryUserTag", "tags", run=_user_tags, package="org.zstack.header.tag")
APIS: Final = (
    *(
        _query_api(
            kind.api,
            kind.api[0].lower() + kind.api[1:],
            pattern=pattern,
            run=partial(_query, kind),
            shares_path=True,
            package=kind.package,
        )
        for kind in _KINDS.values()
        for pattern in (kind.path, kind.path.rstrip("/") + "/{uuid}")
    ),
    _tag_api(pattern="/v1/user-tags"),
    _tag_api(pattern="/v1/user-tags/{uuid}"),
    ApiDefinition(
        "CreateUserTag",
        "tag",
        "POST",
        "/v1/user-tags",
        _create_tag,
        required=("resourceType", "resourceUuid", "tag"),
        package="org.zstack.header.tag",
        inventory=_TAG,
        validate=_validate_tag,
    ),
    ApiDefinition(
        "CreateTag",
        "tagPattern",
        "POST",
        "/v1/tags",
        _create_pattern,
        required=("name", "value"),
        package="org.zstack.tag2",
        inventory=_KINDS[TAG_PATTERN].inventory,
    ),
    ApiDefinition(
        "AttachTagToResources",
        "attachTag",
        "POST",
        "/v1/tags/{tagUuid}/resources",
        _attach,
        required=("resourceUuids",),
        package="org.zstack.tag2",
        validate=_validate_attach,
    ),
)
