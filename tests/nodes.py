"""The ledger of an embedded node in another process: read with the token that it printed when it was ready."""

from __future__ import annotations

import json
import urllib.request
from typing import Any, Final
from urllib.parse import urljoin

_TOKENS: Final[dict[str, str]] = {}


def announced(line: bytes) -> str:
    """Read the line a node writes when it is ready, keep its token, and return its url."""
    ready: dict[str, str] = json.loads(line)
    _TOKENS[urljoin(ready["url"], "/")] = ready["token"]
    return ready["url"]


def ledger(url: str) -> Any:
    """Read all counts of the node at ``url``."""
    return _ask(url, "/__ledger", None)


def tamper(url: str, order: dict[str, object]) -> None:
    """Change services without the API."""
    _ask(url, "/__tamper", json.dumps(order).encode())


def control(url: str, order: dict[str, object]) -> None:
    """Control the node: other faults, expired sessions, a restart."""
    _ask(url, "/__control", json.dumps(order).encode())


def _ask(url: str, page: str, body: bytes | None) -> Any:
    headers = {"X-Node-Token": _TOKENS[urljoin(url, "/")], "Content-Type": "application/json"}
    request = urllib.request.Request(urljoin(url, page), body, headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)
