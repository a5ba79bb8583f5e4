"""All resources of the node, with owners, shares and tags, and the inventories that describe them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from batch.simulator.message import UNTYPED_UPDATES
from batch.simulator.options import ADMIN_UUID, NodeOptions, Source
from batch.simulator.wire import derive_uuid, timestamp
from batch.zstack.params import BODY_PARAMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from batch.simulator.api_errors import ErrorFactory
    from batch.simulator.options import NodeAccount
    from batch.simulator.wire import Json

MODEL_SERVICE: Final = "ModelServiceVO"
_NOT_IN_INVENTORY: Final = frozenset({"resourceUuid", "tagUuids", "architectureImages", "modelUuids", *UNTYPED_UPDATES})
_GATED: Final = {
    "cpuArchitectures": BODY_PARAMS["cpuArchitectures"].since,
    "modelServiceImages": BODY_PARAMS["architectureImages"].since,
    "supportDistributed": BODY_PARAMS["supportDistributed"].since,
    "containerCommand": BODY_PARAMS["containerCommand"].since,
    "containerArgs": BODY_PARAMS["containerArgs"].since,
    "vendorToSpecUuidsMap": BODY_PARAMS["vendorToSpecUuidsMap"].since,
}
_ADDED: Final = {"size": 0, "system": False, "type": "Endpoint", "source": "Other", "modelServiceRefs": []}
"""Defaults of AddModelService."""
MODEL_CENTER: Final = "432c5fdd49374bb0a2fd7877f0a877cf"
"""The model centre of every made-up service."""
_TYPES: Final = ("Endpoint", "FineTune", "App", "ModelEval")


@dataclass(slots=True)
class Resource:
    """A row of ResourceVO and of its own table."""

    uuid: str
    kind: str
    owner: str
    name: str | None
    made_at: float
    params: Mapping[str, Any] = field(default_factory=dict)
    """Requested fields, or the given fields of a source."""
    source: str | None = None
    origin: Resource | None = None
    """The source's row; None if the source is made up from its uuid."""
    digest: int = 0
    """Hash of the request without resourceUuid."""
    job: str | None = None
    public: bool = False
    shared: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    """Uuids of the tag patterns that are attached."""
    changed_at: float | None = None
    deleted: bool = False
    is_half_written: bool = False
    is_added: bool = False
    """Whether AddModelService made it, so that none of its fields are made up."""

    def set_fields(self, fields: Json, now: float) -> None:
        """Change fields."""
        self.params = {**self.params, **fields}
        self.name = fields.get("name", self.name)
        self.changed_at = now

    def event(self) -> Json:
        """Return the state file event of the creation of a clone or another resource."""
        is_clone = self.source is not None
        own = {"s": self.source, "d": self.digest, "j": self.job} if is_clone else {"k": self.kind, "a": self.is_added}
        common = {"u": self.uuid, "o": self.owner, "n": self.name, "t": self.made_at, "p": dict(self.params)}
        return {"e": "clone" if is_clone else "other", **common, "g": list(self.tags), **own}


class ResourceStore:
    """The resources; a made-up source takes one set entry once used, and no memory before."""

    def __init__(self, options: NodeOptions, errors: ErrorFactory, now: float) -> None:
        """Add the configured sources."""
        self._options = options
        self._errors = errors
        self.since = now
        """Creation time of made-up resources."""
        self.rows: dict[str, Resource] = {}
        self.used_sources: set[str] = set()
        for source in options.sources:
            self.rows[source.uuid] = _source_row(source, now)

    def find(self, uuid: str) -> Resource | None:
        """Return a visible resource: not deleted, and a made-up source only once used."""
        row = self.rows.get(uuid)
        if row is not None:
            return None if row.deleted else row
        return self._derive_source(uuid) if uuid in self.used_sources else None

    def find_service(self, uuid: str) -> Resource | None:
        """``find`` for model services only."""
        row = self.find(uuid)
        return row if row is not None and row.kind == MODEL_SERVICE else None

    def find_source(self, uuid: str) -> Resource | None:
        """Return a source to clone; an unknown one is made up if the node invents sources."""
        if uuid and uuid not in self.rows and self._options.invent_sources:
            self.used_sources.add(uuid)
        return self.find_service(uuid)

    def insert(self, row: Resource) -> None:
        """Add a resource. Raises ApiFailureError SYS.1000: a uuid is unique over all kinds, soft-deleted ones too."""
        if row.uuid in self.rows or row.uuid in self.used_sources:
            raise self._errors.failure("SYS.1000", "conflict", row.uuid)
        self.rows[row.uuid] = row

    def delete(self, uuid: str) -> None:
        """Delete softly (the uuid stays occupied) or hard, as the node is set; an unknown uuid is ignored."""
        row = self.find(uuid)
        if row is None:
            return
        self.used_sources.discard(uuid)
        if self._options.soft_delete:
            row.deleted = True
            self.rows[uuid] = row
        else:
            self.rows.pop(uuid, None)

    def change(self, uuid: str) -> Resource | None:
        """Return a resource for modification; a made-up source becomes a row."""
        row = self.find(uuid)
        if row is not None:
            self.rows[uuid] = row
            self.used_sources.discard(uuid)
        return row

    def share(self, uuid: str, accounts: list[str], *, to_public: bool) -> None:
        """Share a resource with ``accounts``, or with all."""
        row = self.change(uuid)
        if row is not None:
            row.shared = tuple(dict.fromkeys((*row.shared, *accounts)))
            row.public = row.public or to_public

    def revoke(self, uuid: str, accounts: list[str], *, everybody: bool) -> None:
        """Revoke a share from ``accounts``, or from all."""
        row = self.change(uuid)
        if row is not None:
            row.shared = () if everybody else tuple(name for name in row.shared if name not in accounts)
            row.public = row.public and not everybody

    def may_use(self, row: Resource, account: NodeAccount) -> bool:
        """Return whether the account is admin, owns the resource or has it shared."""
        return account.is_admin or row.owner == account.uuid or row.public or account.uuid in row.shared

    def visible(
        self,
        account: NodeAccount,
        uuids: list[str] | None,
        *,
        find: Callable[[str], Resource | None],
        others: Iterable[Resource],
    ) -> Iterator[Resource]:
        """Yield what an account may use: of the resources ``uuids``, or of ``others`` if no query names uuids."""
        rows = others if uuids is None else map(find, dict.fromkeys(uuids))
        return (row for row in rows if row is not None and self.may_use(row, account))

    def of_kind(self, kind: str) -> Iterator[Resource]:
        """Yield every resource of a kind that is not deleted; made-up ones are not among them."""
        return (row for row in self.rows.values() if not row.deleted and row.kind == kind)

    def services(self) -> Iterator[Resource]:
        """Yield every visible model service."""
        yield from self.of_kind(MODEL_SERVICE)
        for uuid in sorted(self.used_sources):
            yield self._derive_source(uuid)

    def inventory(self, row: Resource) -> Json:
        """Write the model service's inventory; fields newer than the server are not there."""
        at, changed = self.dates(row)
        answer = {"uuid": row.uuid, **self._fields(row), "createDate": at, "lastOpDate": changed}
        answer["modelServiceImages"] = self._images(row, at)
        if row.is_half_written:
            answer |= {"name": "", "description": None, "requestCpu": 0, "requestMemory": 0}
        release = self._options.release
        for name, since in _GATED.items():
            if since > release:
                answer.pop(name, None)
        return answer

    def dates(self, row: Resource) -> tuple[str, str]:
        """Write when a resource was made and when it was last changed."""
        offset = self._options.utc_offset
        changed = row.made_at if row.changed_at is None else row.changed_at
        return timestamp(row.made_at, offset), timestamp(changed, offset)

    def _fields(self, row: Resource) -> Json:
        own = {key: value for key, value in row.params.items() if key not in _NOT_IN_INVENTORY}
        if "cpuArchitectures" in own:
            own["cpuArchitectures"] = [str(name).lower() for name in own["cpuArchitectures"]]
        if row.is_added:
            return _ADDED | own
        if row.source is None:
            return derive_fields(row.uuid) | own
        base = derive_fields(row.source) if row.origin is None else self._fields(row.origin)
        # Omitting size and system does not copy them: the message carries 0 and false.
        return base | {"size": 0, "system": False} | own | {"name": row.name}

    def _images(self, row: Resource, at: str) -> list[Json]:
        dates = {"createDate": at, "lastOpDate": at}
        return [
            {"uuid": derive_uuid("image", row.uuid, number), "modelServiceUuid": row.uuid, **image, **dates}
            for number, image in enumerate(self._image_fields(row))
        ]

    def _image_fields(self, row: Resource) -> list[Json]:
        images = row.params.get("architectureImages")
        if images is not None:
            return [image | {"cpuArchitecture": (image.get("cpuArchitecture") or "").lower()} for image in images]
        if row.is_added:
            return []
        if row.source is None:
            return [_derive_image(row.uuid)]
        return [_derive_image(row.source)] if row.origin is None else self._image_fields(row.origin)

    def _derive_source(self, uuid: str) -> Resource:
        return Resource(uuid, MODEL_SERVICE, ADMIN_UUID, derive_fields(uuid)["name"], self.since, public=True)


def _source_row(source: Source, now: float) -> Resource:
    params = dict(source.fields)
    if source.name is not None:
        params["name"] = source.name
    name = params.get("name", derive_fields(source.uuid)["name"])
    return Resource(source.uuid, source.kind, source.owner, name, now, params, public=source.to_public)


def derive_fields(uuid: str) -> Json:
    """Derive a service's fields from its uuid alone, so that they need no memory."""
    number = int(derive_uuid("service", uuid)[:8], 16)
    return {
        "name": f"service-{uuid[:8]}",
        "description": f"Made-up model service {uuid[:8]}",
        "yaml": f"services:\n  - ports:\n      - 3000\n    name: service-{uuid[:8]}\n    livez: /livez\n",
        "requestCpu": 1 + number % 16,
        "requestMemory": 1024 * (1 + number % 64),
        "modelCenterUuid": MODEL_CENTER,
        "type": _TYPES[number % 3],
        "framework": "HuggingFace",
        "source": "HuggingFace",
        "size": 1_000_000 * (1 + number % 900),
        "system": False,
        "gpuComputeCapability": "7.5",
        "installPath": f"/models/{uuid}",
        "pythonVersion": "3.10",
        "condaVersion": "23.7.4",
        "startCommand": "python3 app.py",
        "supportDistributed": False,
        "cpuArchitectures": ["x86_64"],
        "modelServiceRefs": [],
    }


def _derive_image(uuid: str) -> Json:
    return {
        "cpuArchitecture": "x86_64",
        "vmImageUuid": derive_uuid("vm-image", uuid),
        "dockerImage": f"registry.example.com/x86_64/service-{uuid[:8]}:latest",
    }


_ENTITY: Final = "org.zstack.ai.entity"
_DATES: Final = frozenset({"createDate", "lastOpDate"})
_CLASSES: Final = {
    "modelServiceImages": f"{_ENTITY}.ModelServiceImageInventory",
    "modelServiceRefs": f"{_ENTITY}.ModelServiceRefInventory",
    "instances": f"{_ENTITY}.ModelServiceInstanceInventory",
}
"""Members of inventories that hold inventories themselves."""
NESTED: Final = {
    "modelServiceImages": frozenset({"uuid", "modelServiceUuid", "cpuArchitecture", "vmImageUuid", "dockerImage"})
    | _DATES,
    "modelServiceRefs": frozenset({"uuid", "modelUuid", "modelServiceUuid", "isDefault"}) | _DATES,
    "instances": frozenset({"uuid", "name", "status", "url", "vmInstanceUuid"}) | _DATES,
}
"""Their fields, which queries name with a dot."""


def object_schema(path: str, row: Json, inventory: str) -> dict[str, str]:
    """Name the class of one row at ``path`` and of the inventories within, these first."""
    inner = {
        f"{path}.{name}[{number}]": class_name
        for name, class_name in _CLASSES.items()
        for number in range(len(row.get(name) or ()))
    }
    return inner | {path: inventory}
