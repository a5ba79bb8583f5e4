"""Accounts, sessions and access keys (zstack/README.md 2 and 3)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from batch.simulator.api_errors import ErrorFactory, RestError
from batch.simulator.options import ADMIN_UUID, NodeAccessKey, NodeAccount, NodeOptions

if TYPE_CHECKING:
    from batch.simulator.wire import Request


@dataclass(slots=True)
class Session:
    """A session; every authorised call extends ``expires``."""

    uuid: str
    account: NodeAccount
    expires: float


class Directory:
    """The directory of accounts, access keys and sessions."""

    def __init__(self, options: NodeOptions, errors: ErrorFactory) -> None:
        """Add admin with the password ``password``, unless ``options.accounts`` gives another."""
        admin = NodeAccount(ADMIN_UUID, "admin", is_admin=True)
        self.accounts = {account.uuid: account for account in (admin, *options.accounts)}
        self._by_name = {account.name: account for account in self.accounts.values()}
        self._keys = {key.id: key for key in options.access_keys}
        self._options = options
        self._errors = errors
        self.sessions: dict[str, Session] = {}
        self._failed_logins: Counter[str] = Counter()

    def find(self, uuid: str) -> NodeAccount | None:
        """Return an account; an unknown one is made up if the node invents accounts."""
        account = self.accounts.get(uuid)
        if account is None and self._options.invent_accounts:
            account = self.accounts[uuid] = NodeAccount(uuid, f"account-{uuid[:8]}")
        return account

    def login(self, name: str, password_hash: str, *, uuid: str, now: float) -> Session:
        """Open session ``uuid``. Raises ApiFailureError ID.1000, ID.1006, ID.1007 or LOGIN_CONTROL.1002."""
        account = self._by_name.get(name)
        self._require_not_locked(name)
        if account is None or hashlib.sha512(account.password.encode()).hexdigest() != password_hash:
            self._failed_logins[name] += 1
            raise self._errors.failure("ID.1000", "login")
        self._failed_logins.pop(name, None)
        self._require_enabled(account)
        mine = [session for session in self.sessions.values() if session.account is account and session.expires > now]
        if self._options.unique_sessions:
            for session in mine:
                self.close(session.uuid)
        elif len(mine) >= self._options.max_sessions:
            raise self._errors.failure("ID.1006", "sessions", self._options.max_sessions)
        return self.open(uuid, account, now)

    def open(self, uuid: str, account: NodeAccount, now: float) -> Session:
        """Create a session without a login."""
        session = Session(uuid, account, now + self._options.session_timeout)
        self.sessions[uuid] = session
        return session

    def authorise(self, uuid: str, now: float) -> NodeAccount:
        """Extend the session and return its account. Raises ApiFailureError ID.1001 or ID.1007."""
        if not self.is_valid(uuid, now):
            raise self._errors.failure("ID.1001", "expired")
        session = self.sessions[uuid]
        session.expires = now + self._options.session_timeout
        self._require_enabled(session.account)
        return session.account

    def is_valid(self, uuid: str, now: float) -> bool:
        """Return whether the session is valid, without extending it."""
        session = self.sessions.get(uuid)
        return session is not None and session.expires > now

    def renew(self, uuid: str, duration: float, now: float) -> None:
        """Let the session end ``duration`` seconds from now."""
        if uuid in self.sessions:
            self.sessions[uuid].expires = now + duration

    def close(self, uuid: str) -> None:
        """Log out; an unknown session is ignored."""
        self.sessions.pop(uuid, None)

    def expire_all(self) -> None:
        """End every session at once."""
        self.sessions.clear()

    def account_of_key(self, request: Request, path: str, now: float) -> NodeAccount:
        """Check an AccessKey signature over ``path``. Raises RestError 400 or 403, in the server's order."""
        self._check_date(request.headers.get("date"), now)
        key_id, signature = self._key_and_signature(request.headers["authorization"])
        key = self._keys.get(key_id)
        if key is None or not key.enabled or key.account not in self.accounts:
            raise RestError(403, f"access key id: {key_id} does not existed or disabled")
        if not hmac.compare_digest(_signature(key, request, path).encode(), signature.encode()):
            raise RestError(403, "wrong accessKey signature")
        return self.accounts[key.account]

    def _key_and_signature(self, header: str) -> tuple[str, str]:
        text = header.strip().removeprefix("ZStack").strip()
        key_id, _, signature = text.partition(":")
        if self._options.newer_access_keys:
            if not signature:
                raise RestError(400, "Invalid authKey format")
        elif not key_id or not signature or ":" in signature:
            raise RestError(400, "accessKey format is 'ZStack AccessKeyId:Signature'")
        return key_id, signature

    def _require_not_locked(self, name: str) -> None:
        limit = self._options.lock_after
        if limit is not None and self._failed_logins[name] >= limit:
            raise self._errors.failure("LOGIN_CONTROL.1002", "locked", name)

    def _require_enabled(self, account: NodeAccount) -> None:
        if not account.enabled:
            raise self._errors.failure("ID.1007", "disabled", account.name)

    def _check_date(self, date: str | None, now: float) -> None:
        if not date:
            raise RestError(400, "'Date' must be incuded in request header")
        wall, zone_offset = _parse_date(date, newer=self._options.newer_access_keys)
        # By default the server compares wall-clock times and ignores the client's zone.
        offset = zone_offset if self._options.check_time_zone else self._options.utc_offset
        if abs(now - (wall - offset)) > self._options.access_key_window:
            raise RestError(403, "requestTimeTooSkewed")


def _signature(key: NodeAccessKey, request: Request, path: str) -> str:
    text = f"{request.method}\n{request.headers['date']}\n{path}"
    return base64.b64encode(hmac.new(key.secret.encode(), text.encode(), hashlib.sha1).digest()).decode()


_RFC_1123: Final = re.compile(r"(\w{3}, \d{1,2} \w{3} \d{4} \d{2}:\d{2}:\d{2}) (\S+)", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_/+:-]*")
_OFFSET: Final = re.compile(r"(?:GMT)?([+-])(\d{2}):?(\d{2})", re.ASCII)
_ZONES: Final = {"UTC": 0, "GMT": 0, "Z": 0, "CST": 28800, "EST": -18000, "PST": -28800, "CET": 3600, "JST": 32400}
_WALL_CLOCK: Final = "%a, %d %b %Y %H:%M:%S"


def _parse_date(date: str, *, newer: bool) -> tuple[float, float]:
    """Read ``EEE, dd MMM yyyy HH:mm:ss z`` as (wall clock, offset of its zone), in seconds. Raises RestError 400.

    ``newer``: take what newer servers do too: a numeric offset, and ISO 8601.
    """
    parsed = _rfc_1123(date, numeric=newer) or (_iso_8601(date) if newer else None)
    if parsed is not None:
        return parsed
    if newer:
        raise RestError(400, "Date format error. The 'Date' header must conform to RFC 1123 or ISO 8601")
    raise RestError(400, f"Date format must be 'EEE, dd MMM yyyy HH:mm:ss z', but was {date}")


def _rfc_1123(date: str, *, numeric: bool) -> tuple[float, float] | None:
    match = _RFC_1123.fullmatch(date)
    if match is None:
        return None
    try:
        wall = datetime.strptime(match[1], _WALL_CLOCK).replace(tzinfo=UTC)
        offset = _zone_offset(match[2], wall, numeric=numeric)
    except (ValueError, ZoneInfoNotFoundError):
        return None
    return None if offset is None else (wall.timestamp(), offset)


def _iso_8601(date: str) -> tuple[float, float] | None:
    try:
        at = datetime.fromisoformat(date)
    except ValueError:
        return None
    offset = at.utcoffset()
    return None if offset is None else (at.replace(tzinfo=UTC).timestamp(), offset.total_seconds())


def _zone_offset(zone: str, wall: datetime, *, numeric: bool) -> float | None:
    """Return the offset in seconds east of UTC; None for an unsupported spelling."""
    number = _OFFSET.fullmatch(zone)
    if number is not None:
        seconds = 3600 * int(number[2]) + 60 * int(number[3])
        return None if zone[0] in "+-" and not numeric else float(f"{number[1]}{seconds}")
    if not _NAME.fullmatch(zone):
        return None
    if zone in _ZONES:
        return _ZONES[zone]
    offset = wall.replace(tzinfo=ZoneInfo(zone)).utcoffset()
    return offset.total_seconds() if offset is not None else 0.0
