"""Whether a model service the server shows is the clone that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batch.model import Clone, JsonValue
    from batch.zstack.answers import Service

_COMPARED = (
    "name",
    "description",
    "type",
    "framework",
    "source",
    "gpuComputeCapability",
    "pythonVersion",
    "condaVersion",
    "startCommand",
    "requestCpu",
    "requestMemory",
)
"""Parameters every server version answers as they were asked for; the others may be dropped, defaulted or recased."""


def differences(clone: Clone, service: Service) -> list[str]:
    """Name the compared parameters that differ; a field the server does not show is no evidence."""
    if service.uuid != clone.resource_uuid:
        return ["uuid"]
    return [
        name
        for name in _COMPARED
        if name in clone.params
        and (shown := service.fields.get(name)) is not None
        and _plain(shown) != _plain(clone.params[name])
    ]


def _plain(value: JsonValue) -> JsonValue:
    """As the server keeps it: strings are trimmed there."""
    return value.strip() if isinstance(value, str) else value
