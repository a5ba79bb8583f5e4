"""Access control: a token for the node's own pages, no requests from other sites, random passwords beyond loopback."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aiohttp import web

from batch.simulator.options import ADMIN_UUID, NodeAccount

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batch.simulator.options import NodeOptions

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TOKEN_HEADER: Final = "X-Node-Token"  # noqa: S105 - a header's name
_OWN_PAGES: Final = "/__"
"""Path prefix of the node's own pages, which ZStack does not have: ledger and controls."""
_JSON: Final = "application/json"


def is_loopback(address: str | None) -> bool:
    """Return whether an address is a loopback one, or the name ``localhost``."""
    if address is None:
        return False
    if address.casefold() == "localhost":
        return True
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    """Return whether a URL has a loopback address or ``localhost`` as host; other names may resolve anywhere."""
    try:
        return is_loopback(urlsplit(url).hostname)
    except ValueError:
        return False


def with_random_credentials(options: NodeOptions) -> NodeOptions:
    """Return the options with a random session and a random password of admin.

    An account of a fault script without its own password gets an undisclosed random one.
    """
    default = NodeAccount("", "").password
    accounts = tuple(
        replace(account, password=_random()) if account.password == default else account for account in options.accounts
    )
    if not any(account.uuid == ADMIN_UUID for account in accounts):
        accounts = (NodeAccount(ADMIN_UUID, "admin", password=_random(), is_admin=True), *accounts)
    session = None if options.session is None else _random()
    return replace(options, session=session, accounts=accounts)


def _random() -> str:
    return secrets.token_hex(16)


class Guard:
    """Refuses requests from web pages, other hosts and other users of this machine."""

    def __init__(self, host: str) -> None:
        """``host``: the address that the node listens on; a new token is drawn."""
        self.token = _random()
        self._is_local = is_loopback(host)

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer 403 to unauthorised requests, and 415 to a control request that is not JSON."""
        is_own = request.path.startswith(_OWN_PAGES)
        # Beyond loopback the node cannot know its own host names, but its credentials are random.
        if (is_own or self._is_local) and not _is_from_here(request):
            raise web.HTTPForbidden(text="this node answers http://localhost and loopback addresses only")
        if is_own:
            self._require_token(request)
        return await handler(request)

    def _require_token(self, request: web.Request) -> None:
        given = request.headers.get(TOKEN_HEADER, "")
        if not is_loopback(request.remote) or not hmac.compare_digest(given.encode(), self.token.encode()):
            raise web.HTTPForbidden(text=f"send the token of the node's first line of output as {TOKEN_HEADER}")
        if request.method not in {"GET", "HEAD"} and request.content_type != _JSON:
            raise web.HTTPUnsupportedMediaType(text=f"Content-Type must be {_JSON}")


def _is_from_here(request: web.Request) -> bool:
    """Return whether neither Host nor Origin names another machine, since DNS can map a foreign name to this one."""
    origin = request.headers.get("Origin")
    return is_loopback_url(f"//{request.headers.get('Host', '')}") and (origin is None or is_loopback_url(origin))
