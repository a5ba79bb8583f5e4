"""Every resource of the node: clones that were made, sources that are there or made up, owners, shares and tags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from batch.simulator.options import ADMIN_UUID, NodeOptions, Source
from batch.simulator.wire import made_up_uuid, timestamp
from batch.zstack.params import BODY_PARAMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.simulator.codes import Speech
    from batch.simulator.wire import Json

MODEL_SERVICE: Final = "ModelServiceVO"
_NOT_IN_INVENTORY: Final = frozenset({"resourceUuid", "tagUuids", "architectureImages"})
_GATED: Final = {
    "cpuArchitectures": BODY_PARAMS["cpuArchitectures"].since,
    "modelServiceImages": BODY_PARAMS["architectureImages"].since,
    "supportDistributed": BODY_PARAMS["supportDistributed"].since,
    "containerCommand": BODY_PARAMS["containerCommand"].since,
    "containerArgs": BODY_PARAMS["containerArgs"].since,
    "vendorToSpecUuidsMap": BODY_PARAMS["vendorToSpecUuidsMap"].since,
}
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
    """What was asked for, or a source's given fields."""
    source: str | None = None
    origin: Resource | None = None
    """The source's row; None where the source is made up from its uuid."""
    digest: int = 0
    """Hash of what was asked for without resourceUuid."""
    job: str | None = None
    public: bool = False
    shared: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    deleted: bool = False


class Estate:
    """Owns the resources. Made-up sources cost one set entry once touched and nothing before."""

    def __init__(self, options: NodeOptions, speech: Speech, now: float) -> None:
        """Put the configured sources in place."""
        self._options = options
        self._speech = speech
        self._since = now
        self.rows: dict[str, Resource] = {}
        self.touched: set[str] = set()
        for source in options.sources:
            self.rows[source.uuid] = _source_row(source, now)

    def find(self, uuid: str) -> Resource | None:
        """Look up what is visible: not deleted, and made-up sources only once touched."""
        row = self.rows.get(uuid)
        if row is not None:
            return None if row.deleted else row
        return self._made_up(uuid) if uuid in self.touched else None

    def find_service(self, uuid: str) -> Resource | None:
        """``find`` for model services only."""
        row = self.find(uuid)
        return row if row is not None and row.kind == MODEL_SERVICE else None

    def find_source(self, uuid: str) -> Resource | None:
        """Look up a source to clone; an unknown one is made up when the node invents sources."""
        if uuid and uuid not in self.rows and self._options.invent_sources:
            self.touched.add(uuid)
        return self.find_service(uuid)

    def insert(self, row: Resource) -> None:
        """Add a resource. Raises ApiFailureError SYS.1000: a uuid is unique over all kinds, soft-deleted ones too."""
        if row.uuid in self.rows or row.uuid in self.touched:
            raise self._speech.fail("SYS.1000", "conflict", row.uuid)
        self.rows[row.uuid] = row

    def delete(self, uuid: str) -> None:
        """Delete softly (the uuid stays occupied) or hard, as the node is set; unknown is fine."""
        row = self.find(uuid)
        if row is None:
            return
        self.touched.discard(uuid)
        if self._options.soft_delete:
            row.deleted = True
            self.rows[uuid] = row
        else:
            self.rows.pop(uuid, None)

    def change(self, uuid: str) -> Resource | None:
        """Look up to modify: a made-up source becomes a row."""
        row = self.find(uuid)
        if row is not None:
            self.rows[uuid] = row
            self.touched.discard(uuid)
        return row

    def share(self, uuid: str, accounts: list[str], *, to_public: bool) -> None:
        """Let ``accounts``, or everybody, use a resource."""
        row = self.change(uuid)
        if row is not None:
            row.shared = tuple(dict.fromkeys((*row.shared, *accounts)))
            row.public = row.public or to_public

    def may_use(self, row: Resource, account: str, *, is_admin: bool) -> bool:
        """Tell whether the account owns the resource or has it shared."""
        return is_admin or row.owner == account or row.public or account in row.shared

    def services(self) -> Iterator[Resource]:
        """Every visible model service."""
        for row in self.rows.values():
            if not row.deleted and row.kind == MODEL_SERVICE:
                yield row
        for uuid in sorted(self.touched):
            yield self._made_up(uuid)

    def inventory(self, row: Resource) -> Json:
        """Write the model service's inventory; fields newer than the server are not there."""
        at = timestamp(row.made_at, self._options.utc_offset)
        answer = {"uuid": row.uuid, **self._fields(row), "createDate": at, "lastOpDate": at}
        answer["modelServiceImages"] = self._images(row, at)
        release = self._options.release
        for name, since in _GATED.items():
            if since > release:
                answer.pop(name, None)
        return answer

    def _fields(self, row: Resource) -> Json:
        own = {key: value for key, value in row.params.items() if key not in _NOT_IN_INVENTORY}
        if "cpuArchitectures" in own:
            own["cpuArchitectures"] = [str(name).lower() for name in own["cpuArchitectures"]]
        if row.source is None:
            return made_up_fields(row.uuid) | own
        base = made_up_fields(row.source) if row.origin is None else self._fields(row.origin)
        # Omitting size and system does not copy them: the message carries 0 and false.
        return base | {"size": 0, "system": False} | own | {"name": row.name}

    def _images(self, row: Resource, at: str) -> list[Json]:
        dates = {"createDate": at, "lastOpDate": at}
        return [
            {"uuid": made_up_uuid("image", row.uuid, number), "modelServiceUuid": row.uuid, **image, **dates}
            for number, image in enumerate(self._image_fields(row))
        ]

    def _image_fields(self, row: Resource) -> list[Json]:
        images = row.params.get("architectureImages")
        if images is not None:
            return [image | {"cpuArchitecture": (image.get("cpuArchitecture") or "").lower()} for image in images]
        if row.source is None:
            return [_made_up_image(row.uuid)]
        return [_made_up_image(row.source)] if row.origin is None else self._image_fields(row.origin)

    def _made_up(self, uuid: str) -> Resource:
        return Resource(uuid, MODEL_SERVICE, ADMIN_UUID, made_up_fields(uuid)["name"], self._since, public=True)


def _source_row(source: Source, now: float) -> Resource:
    params = dict(source.fields)
    if source.name is not None:
        params["name"] = source.name
    name = params.get("name", made_up_fields(source.uuid)["name"])
    return Resource(source.uuid, source.kind, source.owner, name, now, params, public=source.to_public)


def made_up_fields(uuid: str) -> Json:
    """Derive a service's fields from its uuid alone, so that they need no memory."""
    number = int(made_up_uuid("service", uuid)[:8], 16)
    return {
        "name": f"service-{uuid[:8]}",
        "description": f"Made-up model service {uuid[:8]}",
        "yaml": f"services:\n  - ports:\n      - 3000\n    name: service-{uuid[:8]}\n    livez: /livez\n",
        "requestCpu": 1 + number % 16,
        "requestMemory": 1024 * (1 + number % 64),
        "modelCenterUuid": "432c5fdd49374bb0a2fd7877f0a877cf",
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


def _made_up_image(uuid: str) -> Json:
    return {
        "cpuArchitecture": "x86_64",
        "vmImageUuid": made_up_uuid("vm-image", uuid),
        "dockerImage": f"registry.example.com/x86_64/service-{uuid[:8]}:latest",
    }
