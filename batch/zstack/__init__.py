"""ZStack's API: parameters, credentials, the client, and what its answers mean. The client is imported when used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from batch.zstack.action import CloneModelServiceAction
    from batch.zstack.client import Client, connect
    from batch.zstack.surroundings import Surroundings

__all__ = ["Client", "CloneModelServiceAction", "Surroundings", "connect"]

_HOMES: Final = {
    "Client": "batch.zstack.client",
    "CloneModelServiceAction": "batch.zstack.action",
    "Surroundings": "batch.zstack.surroundings",
    "connect": "batch.zstack.client",
}


def __getattr__(name: str) -> object:
    """Import aiohttp only for who talks to a server: the job file's rooms read the parameter table from here too."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
