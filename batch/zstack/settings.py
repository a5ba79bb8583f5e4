"""The endpoint and credentials of ZStack, as values. Secrets in them never appear in a repr."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from batch.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path
    from urllib.parse import SplitResult

CONTEXT_PATH = "/zstack"
"""Context path of the server's REST API (zstack/README.md 1)."""
_TOKEN = re.compile(r"[!-~]+")
_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")


@dataclass(frozen=True, slots=True)
class SessionAuth:
    """An existing session, not opened by zclone; it is used and not closed."""

    uuid: str = field(repr=False)

    def __post_init__(self) -> None:
        """Reject values that no header can have."""
        _require_token("session", self.uuid)


@dataclass(frozen=True, slots=True)
class PasswordAuth:
    """An account that opens a session of its own and closes it at the end."""

    account: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        """Reject values that no login can have."""
        _require_utf8("account", self.account)
        _require_utf8("password", self.password)


@dataclass(frozen=True, slots=True)
class AccessKeyAuth:
    """A key that signs each request; it never expires."""

    key_id: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        """Reject values that no header can have."""
        _require_token("access key id", self.key_id)
        _require_utf8("access key secret", self.secret)


Auth: TypeAlias = SessionAuth | PasswordAuth | AccessKeyAuth


@dataclass(frozen=True, slots=True)
class Settings:
    """Connection settings of the client. ``url`` is as ``endpoint_url`` returns it."""

    url: str
    auth: Auth
    ca_file: Path | None = None
    insecure: bool = False
    """Accept any certificate; warned of wherever it is shown."""


def endpoint_url(text: str) -> str:
    """Validate and complete an endpoint: ``http(s)://host[:port][/context]``; the default context is /zstack.

    Raises UsageError naming the problem; credentials in the text are not repeated.
    """
    if not _TOKEN.fullmatch(text):
        raise UsageError("the endpoint must be a URL without spaces or control characters")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise UsageError("the endpoint is not a URL such as https://zstack.example.com:8080/zstack") from None
    _require_plain(parts)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    path = parts.path.rstrip("/") or CONTEXT_PATH
    return f"{parts.scheme.lower()}://{host}{'' if port is None else f':{port}'}{path}"


def transport_warnings(settings: Settings) -> tuple[str, ...]:
    """Return warnings about insecure transport, for the operator and the manifest, without secrets."""
    host = urlsplit(settings.url).hostname or ""
    if settings.url.startswith("http:"):
        if host == "localhost" or host.startswith("127.") or host == "::1":
            return ()
        return ("the endpoint is http: the credentials travel in clear",)
    if settings.insecure:
        return ("the server's certificate is NOT checked (insecure): third parties can read the credentials",)
    return ()


def is_link_local(address: str) -> bool:
    """Return whether an IP address is link-local, where clouds have their metadata services."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_link_local


def _require_plain(parts: SplitResult) -> None:
    if parts.scheme.lower() not in {"http", "https"}:
        raise UsageError("the endpoint must start with http:// or https://")
    if not parts.hostname:
        raise UsageError("the endpoint names no host")
    if parts.username is not None or parts.password is not None:
        raise UsageError("the endpoint must not contain a user name or password; use the ZSTACK_* settings")
    if parts.query or parts.fragment:
        raise UsageError("the endpoint must not have a query or a fragment")
    segments = parts.path.split("/")
    if not _PLAIN_PATH.fullmatch(parts.path) or "." in segments or ".." in segments:
        raise UsageError(f"the endpoint's path must be plain, such as {CONTEXT_PATH}")
    if "v1" in segments:
        raise UsageError(f"the endpoint ends before /v1, such as at {CONTEXT_PATH}")


def _require_token(what: str, value: str) -> None:
    if not _TOKEN.fullmatch(value):
        raise UsageError(f"the {what} is empty or has spaces, line breaks or other characters invalid in a header")


def _require_utf8(what: str, value: str) -> None:
    """Refuse bytes of another encoding, as a variable of the environment may have them."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the {what} is not UTF-8") from None
