"""Read-only resources: images, model centres, models, GPU specs, tag patterns, instance groups."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from batch.simulator import query
from batch.simulator.api import ApiDefinition, Call, NodeContext
from batch.simulator.options import ADMIN_UUID
from batch.simulator.resources import Resource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batch.simulator.options import NodeAccount
    from batch.simulator.wire import Json

TAG_PATTERN: Final = "TagPatternVO"
INSTANCE_GROUP: Final = "ModelServiceInstanceGroupVO"
_HEX: Final = re.compile("[0-9a-f]{32}")
_DATES: Final = frozenset({"uuid", "createDate", "lastOpDate"})


@dataclass(frozen=True, slots=True)
class Kind:
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


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind(
            "ImageVO",
            "QueryImage",
            "/v1/images",
            "org.zstack.header.image",
            "org.zstack.header.image.ImageInventory",
            (("name", "image"), ("state", "Enabled"), ("status", "Ready"), ("format", "qcow2"), ("system", False)),
            frozenset({"architecture", "description", "mediaType", "guestOsType", "platform", "type", "size", "url"}),
            is_made_up=True,
        ),
        Kind(
            "ModelCenterVO",
            "QueryModelCenter",
            "/v1/ai/model-centers",
            "org.zstack.ai.message",
            "org.zstack.ai.entity.ModelCenterInventory",
            (("name", "model-center"), ("status", "Connected"), ("url", "http://192.0.2.20:8989")),
            frozenset({"description", "managementIp", "managementPort", "capacity", "containerRegistry"}),
            is_made_up=True,
        ),
        Kind(
            "ModelVO",
            "QueryModel",
            "/v1/ai/models",
            "org.zstack.ai.message",
            "org.zstack.ai.entity.ModelInventory",
            (("name", "model"),),
            frozenset({"description", "modelCenterUuid", "type", "size", "installPath"}),
        ),
        Kind(
            "GpuDeviceSpecVO",
            "QueryPciDeviceSpec",
            "/v1/pci-device-specs",
            "org.zstack.pciDevice.specification.pci",
            "org.zstack.pciDevice.specification.pci.PciDeviceSpecInventory",
            (("name", "gpu"), ("state", "Enabled"), ("type", "GPU_3D_Controller")),
            frozenset({"description", "vendorId", "deviceId", "vendor", "memory"}),
            is_made_up=True,
        ),
        Kind(
            TAG_PATTERN,
            "QueryTag",
            "/v1/tags",
            "org.zstack.tag2",
            "org.zstack.header.tag.TagPatternInventory",
            (("name", "tag"), ("value", "tag"), ("color", "#186EAE"), ("type", "simple")),
            frozenset({"description", "resourceType"}),
            is_made_up=True,
        ),
        Kind(
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
    return KINDS[kind].is_made_up and context.options.invent_sources and _HEX.fullmatch(uuid) is not None


def _query(kind: Kind, context: NodeContext, call: Call, account: NodeAccount | None, _now: float) -> Json:
    assert account is not None
    query.check_field_names(call.query, kind.fields, kind.inventory, context.errors)
    rows = _candidates(context, kind.name, call.query.uuids())
    visible = [row for row in rows if context.resources.may_use(row, account.uuid, is_admin=account.is_admin)]
    return query.answer(call.query, (inventory(context, row) for row in visible), kind.inventory)


def _candidates(context: NodeContext, kind: str, uuids: list[str] | None) -> Iterable[Resource]:
    if uuids is None:
        return context.resources.of_kind(kind)
    found = (find_resource(context, kind, uuid) for uuid in dict.fromkeys(uuids))
    return [row for row in found if row is not None]


def inventory(context: NodeContext, row: Resource) -> Json:
    """Return the inventory of a read-only resource."""
    created, changed = context.resources.dates(row)
    named = {} if row.name is None else {"name": row.name}
    fields = dict(KINDS[row.kind].defaults) | named | dict(row.params)
    return {"uuid": row.uuid, **fields, "createDate": created, "lastOpDate": changed}


def _apis(kind: Kind) -> tuple[ApiDefinition, ApiDefinition]:
    run = partial(_query, kind)
    first, second = (
        ApiDefinition(
            kind.api,
            kind.api[0].lower() + kind.api[1:],
            "GET",
            pattern,
            run,
            sync=True,
            is_query=True,
            shares_path=True,
            package=kind.package,
        )
        for pattern in (kind.path, kind.path.rstrip("/") + "/{uuid}")
    )
    return first, second


APIS: Final = tuple(api for kind in KINDS.values() for api in _apis(kind))
