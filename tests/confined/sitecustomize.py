"""Nothing of a test leaves this machine: connecting to, sending to or resolving another host raises.

``conftest.py`` loads this into the tests' own process; children load it by themselves, because its folder is on their
PYTHONPATH. It is an audit hook of the interpreter: neither asyncio nor a thread can avoid it.
"""

from __future__ import annotations

import ipaddress
import sys
from typing import Any, Final

refused: Final[list[str]] = []
"""What this process attempted."""
_ASKING: Final = frozenset({"socket.getaddrinfo", "socket.gethostbyname"})
_SENDING: Final = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_HERE: Final = frozenset({"", "localhost", "None"})


class LeftTheMachineError(RuntimeError):
    """A test, or the code under test, tried to reach another host."""


def is_here(host: object) -> bool:
    """Whether ``host`` is this machine, or a name that exists nowhere by definition (RFC 6761)."""
    name = str(host.decode() if isinstance(host, bytes) else host)
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return name in _HERE or name.endswith((".invalid", ".localhost"))


def _is_address(host: object) -> bool:
    try:
        ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    return True


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _ASKING:
        host = arguments[0]
        is_fine = is_here(host) or _is_address(host)
    elif event in _SENDING:
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else ""
        is_fine = is_here(host)
    else:
        return
    if not is_fine:
        refused.append(f"{event} {host}")
        raise LeftTheMachineError(f"a test may not leave this machine: {event} {host}")


sys.addaudithook(_watch)
