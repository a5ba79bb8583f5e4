"""ZStack's API: parameters, credentials, the client, and the meaning of its answers. The client is imported lazily."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from batch.zstack.action import CloneModelServiceAction
    from batch.zstack.client import Client, connect
    from batch.zstack.queries import QueryApi

__all__ = ["Client", "CloneModelServiceAction", "QueryApi", "connect"]

_HOMES: Final = {
    "Client": "batch.zstack.client",
    "CloneModelServiceAction": "batch.zstack.action",
    "QueryApi": "batch.zstack.queries",
    "connect": "batch.zstack.client",
}


def __getattr__(name: str) -> object:
    """Import aiohttp only where a server is called: the parameter table in this package is used without it."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
