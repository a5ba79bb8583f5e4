"""``--webhook-listen``: the web hook listener of a run, configured by two flags."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import structlog

from batch.app.options import Engine
from batch.engine.webhooks import WebHooks
from batch.errors import UsageError
from batch.redaction import SECRETS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from batch.app.options import RunOptions
    from batch.engine.poll_schedule import PollSchedule
    from batch.zstack.client import Client

NOT_ON_TEMPORAL = "--webhook-listen: only for local runs: leave it out with --engine temporal"


class HookAddress(NamedTuple):
    """The address to listen on, and the URL by which the server reaches it."""

    host: str
    port: int
    url: str | None
    """Without a trailing slash; None to use host and port."""


def read_hook_address(options: RunOptions) -> HookAddress:
    """Read ``--webhook-listen`` and ``--webhook-url``. Raises UsageError."""
    text, url = options.webhook_listen, options.webhook_url
    if text is None:
        raise UsageError("--webhook-url: requires --webhook-listen HOST:PORT")
    if options.engine is Engine.TEMPORAL:
        raise UsageError(NOT_ON_TEMPORAL)
    host, _, digits = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (host and host.isascii()) or not (digits.isascii() and digits.isdigit() and int(digits) < 1 << 16):
        raise UsageError(f"--webhook-listen: must be HOST:PORT such as 10.0.0.5:9100 or [::1]:9100, not {text!r:.80}")
    if url is None and ("%" in host or _is_wildcard(host)):
        raise UsageError(
            f"--webhook-listen {text}: means all addresses of this machine: add --webhook-url URL, by which the "
            "server reaches it"
        )
    return HookAddress(host, int(digits), None if url is None else _check_url(url))


def _is_wildcard(host: str) -> bool:
    """Return whether a host is a wildcard address, in any spelling."""
    try:
        return socket.inet_aton(host) == bytes(4)
    except OSError:
        pass
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return address.is_unspecified or (address.ipv4_mapped is not None and address.ipv4_mapped.is_unspecified)


def _check_url(url: str) -> str:
    """Return the URL without a trailing slash. Raises UsageError."""
    if not (url.isascii() and url.isprintable()) or set(url) & set(" ?#") or not _is_of_http(url):
        raise UsageError(
            "--webhook-url: must be http://HOST[:PORT][/PATH] or https://…, without user, query or fragment"
        )
    return url.rstrip("/")


def _is_of_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        return False


@asynccontextmanager
async def web_hooks(address: HookAddress, client: Client, polls: PollSchedule) -> AsyncIterator[WebHooks]:
    """Listen during the block and make ``client`` request web hooks.

    Raises UsageError if the address cannot be bound.
    """
    from batch.zstack.webhook import HookListener

    hooks = WebHooks(polls)
    async with HookListener(address.host, address.port, base=address.url, receiver=hooks) as listener:
        # The server may echo request headers in an error.
        SECRETS.add(listener.token)
        structlog.get_logger().info("webhook.listening", address=listener.address)
        client.web_hook = listener.url
        yield hooks
