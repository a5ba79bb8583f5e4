"""Access: the node's own pages need a token, pages of other sites are refused, passwords are random beyond loopback."""

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
"""What begins so is the node's own and no part of ZStack: ledger and controls."""
_JSON: Final = "application/json"


def is_loopback(address: str | None) -> bool:
    """Return whether an address, or the name ``localhost``, is this machine's own."""
    if address is None:
        return False
    if address.casefold() == "localhost":
        return True
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    """Return whether a URL names this machine by an address, or as ``localhost``; another name may lead anywhere."""
    try:
        return is_loopback(urlsplit(url).hostname)
    except ValueError:
        return False


def with_random_credentials(options: NodeOptions) -> NodeOptions:
    """Return the options with an open session and a password of admin that nobody can guess.

    An account of a script that has no password of its own gets one that nobody knows.
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
    """Refuses what a web page, another host or another user of this machine could send."""

    def __init__(self, host: str) -> None:
        """``host``: the address the node listens on. The token is drawn here."""
        self.token = _random()
        self._is_local = is_loopback(host)

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer 403 to whoever may not, and 415 to a control that is not JSON."""
        is_own = request.path.startswith(_OWN_PAGES)
        # Beyond loopback the node has names that it cannot know; its credentials are random there.
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
    """Return whether neither Host nor Origin names another machine: DNS can lead a foreign name to this one."""
    origin = request.headers.get("Origin")
    return is_loopback_url(f"//{request.headers.get('Host', '')}") and (origin is None or is_loopback_url(origin))
