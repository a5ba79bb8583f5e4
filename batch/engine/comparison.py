"""Compares a visible model service with a Clone, to decide whether it is that clone."""

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
"""Parameters that every server version returns as requested; others may be dropped, defaulted or normalised."""

_IMAGES = "architectureImages"
_ARCHITECTURE = "cpuArchitecture"
_SHOWN_IMAGES = "modelServiceImages"


def differing_params(clone: Clone, service: Service) -> list[str]:
    """Return the names of the parameters that differ; a field that the server does not show is no evidence."""
    if service.uuid != clone.resource_uuid:
        return ["uuid"]
    differing = [
        name
        for name in _COMPARED
        if name in clone.params
        and (shown := service.fields.get(name)) is not None
        and _plain(shown) != _plain(clone.params[name])
    ]
    requested, shown = clone.params.get(_IMAGES), service.fields.get(_SHOWN_IMAGES)
    if isinstance(requested, list) and isinstance(shown, list) and not all(_is_among(row, shown) for row in requested):
        differing.append(_IMAGES)
    return differing


def _is_among(image: JsonValue, shown: list[JsonValue]) -> bool:
    """Return whether some shown row has all values of ``image``."""
    assert isinstance(image, dict)
    return any(
        isinstance(row, dict) and all(_is_same(name, value, row.get(name)) for name, value in image.items())
        for row in shown
    )


def _is_same(name: str, requested: JsonValue, shown: JsonValue) -> bool:
    if name == _ARCHITECTURE:
        # X86_64 is requested, x86_64 shown.
        return str(requested).lower() == str(shown).lower()
    return _plain(requested) == _plain(shown)


def _plain(value: JsonValue) -> JsonValue:
    """Return the value as the server stores it: strings are trimmed."""
    return value.strip() if isinstance(value, str) else value
