"""Orders to the node itself: controls of its process, and changes of its database that bypass the API."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from batch.simulator.catalogue import INSTANCE_GROUP
from batch.simulator.options import ADMIN_UUID
from batch.simulator.resources import MODEL_SERVICE, Resource
from batch.simulator.script import read_script

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from batch.simulator.node import Node
    from batch.simulator.options import NodeOptions
    from batch.simulator.resources import ResourceStore
    from batch.simulator.wire import Json

_UUID: Final = re.compile("[0-9a-f]{32}")
_PARTS: Final = ("change", "delete", "make", "tags", "owners", "groups")
_SHAPE: Final = (
    "expected an object of change (fields by uuid), delete (uuids), make (objects of uuid, name, source, userTags), "
    "tags (lists by uuid), owners (account uuids by uuid) and groups (instance group uuids by service uuid)"
)


_LONGEST_RESTART: Final = 3600
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Control:
    """A validated order to the node's process."""

    sources: list[str]
    faults: NodeOptions | None
    expires_sessions: bool
    restart: float | None
    """Seconds for which connections are refused."""

    def apply(self, node: Node, now: float) -> None:
        """Execute the order."""
        if self.sources:
            node.add_sources(self.sources)
        if self.faults is not None:
            node.set_faults(self.faults)
        if self.expires_sessions:
            node.expire_sessions()
        if self.restart is not None:
            node.restart(now, seconds=self.restart)


def read_control(order: object) -> Control:
    """Validate a whole order before any of it is executed. Raises ValueError, ScriptError."""
    if not isinstance(order, dict) or not order.keys() <= {"restart", "expire_sessions", "faults", "sources"}:
        raise ValueError("expected an object of restart, expire_sessions, faults, sources")
    sources = order.get("sources", [])
    if not isinstance(sources, list) or not all(isinstance(uuid, str) and _UUID.fullmatch(uuid) for uuid in sources):
        raise ValueError("sources: expected a list of uuids of 32 lower-case hex digits")
    down = _seconds(order["restart"]) if "restart" in order else None
    faults = read_script(json.dumps(order["faults"]), name="__control") if "faults" in order else None
    expires_sessions = order.get("expire_sessions", False)
    if not isinstance(expires_sessions, bool):
        raise ValueError("expire_sessions: expected true or false")  # noqa: TRY004 - reported as any bad value
    return Control(sources, faults, expires_sessions, down)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST_RESTART:
        raise ValueError(f"restart: expected seconds from 0 to {_LONGEST_RESTART:,}")
    return float(value)


@dataclass(frozen=True, slots=True)
class DatabaseChanges:
    """A validated set of changes of the database, as made by other users."""

    change: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """New values of a service's fields by its uuid; null takes one away."""
    delete: tuple[str, ...] = ()
    make: tuple[Mapping[str, Any], ...] = ()
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """All user tags of a service by its uuid."""
    owners: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Instance groups that run on a service from now on, by its uuid; no other ones do."""

    def apply(self, resources: ResourceStore, now: float) -> None:
        """Apply all changes; missing services are skipped."""
        for made in self.make:
            name, source = made.get("name"), made.get("source")
            resources.rows[made["uuid"]] = Resource(
                made["uuid"], MODEL_SERVICE, ADMIN_UUID, name, now, source=source, tags=tuple(made.get("userTags", ()))
            )
        for uuid, fields in self.change.items():
            if (row := resources.change(uuid)) is not None:
                row.set_fields(dict(fields), now)
        for uuid, tags in self.tags.items():
            if (row := resources.change(uuid)) is not None:
                row.tags = tags
        for uuid, owner in self.owners.items():
            if (row := resources.change(uuid)) is not None:
                row.owner = owner
        for uuid, groups in self.groups.items():
            _set_groups(resources, uuid, groups, now)
        for uuid in self.delete:
            resources.delete(uuid)


def _set_groups(resources: ResourceStore, service: str, groups: tuple[str, ...], now: float) -> None:
    for row in list(resources.of_kind(INSTANCE_GROUP)):
        if row.params.get("modelServiceUuid") == service:
            resources.delete(row.uuid)
    for uuid in groups:
        fields = {"modelServiceUuid": service}
        resources.rows[uuid] = Resource(uuid, INSTANCE_GROUP, ADMIN_UUID, f"group-{uuid[:8]}", now, fields)


def read_database_changes(order: object, accounts: Collection[str]) -> DatabaseChanges:
    """Validate an order. Raises ValueError."""
    if not isinstance(order, dict) or not order.keys() <= set(_PARTS):
        raise ValueError(_SHAPE)
    made = _list(order, "make")
    if not all(isinstance(row, dict) and _texts([row.get("uuid")]) for row in made):
        raise ValueError(_SHAPE)
    changes = DatabaseChanges(
        change={uuid: _object(fields) for uuid, fields in _object(order.get("change", {})).items()},
        delete=_texts(_list(order, "delete")),
        make=tuple(made),
        tags={uuid: _texts(tags) for uuid, tags in _object(order.get("tags", {})).items()},
        groups={uuid: _texts(groups) for uuid, groups in _object(order.get("groups", {})).items()},
        owners={uuid: str(owner) for uuid, owner in _object(order.get("owners", {})).items()},
    )
    groups = (uuid for listed in changes.groups.values() for uuid in listed)
    named = (*changes.change, *changes.delete, *changes.tags, *changes.owners, *changes.groups, *groups)
    uuids = (*named, *(row["uuid"] for row in made))
    if not all(_UUID.fullmatch(uuid) for uuid in uuids):
        raise ValueError("expected uuids of 32 hex digits")
    for owner in changes.owners.values():
        if owner not in accounts:
            raise ValueError(f"no account has the uuid {owner}")
    for row in made:
        _texts(row.get("userTags", []))
    return changes


def _object(value: Any) -> Json:
    if not isinstance(value, dict):
        raise ValueError(_SHAPE)  # noqa: TRY004 - reported as any bad value
    return value


def _list(order: Json, name: str) -> list[Any]:
    value = order.get(name, [])
    if not isinstance(value, list):
        raise ValueError(_SHAPE)  # noqa: TRY004 - reported as any bad value
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(_SHAPE)
    return tuple(value)
