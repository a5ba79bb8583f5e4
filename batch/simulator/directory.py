"""Accounts, sessions and access keys (wire: section 2)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from batch.simulator.codes import RestError, Speech
from batch.simulator.options import ADMIN_UUID, AccessKey, Account, NodeOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batch.simulator.wire import Request

_DATE: Final = re.compile(r"(\w{3}, \d{2} \w{3} \d{4} \d{2}:\d{2}:\d{2}) ([A-Za-z][A-Za-z0-9_/+:-]*)")
_ZONES: Final = {"UTC": 0, "GMT": 0, "Z": 0, "CST": 28800, "EST": -18000, "PST": -28800, "CET": 3600, "JST": 32400}


@dataclass(slots=True)
class Session:
    """A login; ``expires`` slides with every authorised call."""

    uuid: str
    account: Account
    expires: float


class Directory:
    """Who may do what: owns the sessions, knows the accounts and keys."""

    def __init__(self, options: NodeOptions, speech: Speech) -> None:
        """Admin is always there, with the password ``password`` unless ``options.accounts`` names another."""
        admin = Account(ADMIN_UUID, "admin", is_admin=True)
        self.accounts = {account.uuid: account for account in (admin, *options.accounts)}
        self._by_name = {account.name: account for account in self.accounts.values()}
        self._keys = {key.id: key for key in options.access_keys}
        self._options = options
        self._speech = speech
        self.sessions: dict[str, Session] = {}

    def find(self, uuid: str) -> Account | None:
        """Look up an account; an unknown one is made up when the node invents accounts."""
        account = self.accounts.get(uuid)
        if account is None and self._options.invent_accounts:
            account = self.accounts[uuid] = Account(uuid, f"account-{uuid[:8]}")
        return account

    def login(self, name: str, password_hash: str, *, uuid: str, now: float) -> Session:
        """Open session ``uuid``. Raises ApiFailureError ID.1000 or ID.1006."""
        account = self._by_name.get(name)
        if account is None or hashlib.sha512(account.password.encode()).hexdigest() != password_hash:
            raise self._speech.fail("ID.1000", "login")
        mine = [session for session in self.sessions.values() if session.account is account and session.expires > now]
        if self._options.unique_sessions:
            self._close_all(mine)
        elif len(mine) >= self._options.max_sessions:
            raise self._speech.fail("ID.1006", "sessions", self._options.max_sessions)
        return self.open(uuid, account, now)

    def open(self, uuid: str, account: Account, now: float) -> Session:
        """Put a session in place, unasked."""
        session = Session(uuid, account, now + self._options.session_timeout)
        self.sessions[uuid] = session
        return session

    def authorise(self, uuid: str, now: float) -> Account:
        """Slide the session and name its account. Raises ApiFailureError ID.1001."""
        if not self.is_valid(uuid, now):
            raise self._speech.fail("ID.1001", "expired")
        session = self.sessions[uuid]
        session.expires = now + self._options.session_timeout
        return session.account

    def is_valid(self, uuid: str, now: float) -> bool:
        """Tell whether the session is alive; does not slide it."""
        session = self.sessions.get(uuid)
        return session is not None and session.expires > now

    def renew(self, uuid: str, duration: float, now: float) -> None:
        """Let the session end ``duration`` seconds from now."""
        if uuid in self.sessions:
            self.sessions[uuid].expires = now + duration

    def close(self, uuid: str) -> None:
        """Log out; an unknown session is fine."""
        self.sessions.pop(uuid, None)

    def expire_all(self) -> None:
        """End every session at once."""
        self.sessions.clear()

    def account_of_key(self, request: Request, path: str, now: float) -> Account:
        """Check an AccessKey signature over ``path``. Raises RestError 400 or 403, in the server's order."""
        self._check_date(request.headers.get("date"), now)
        key_id, colon, signature = request.headers["authorization"].removeprefix("ZStack ").partition(":")
        if not colon or not key_id or not signature:
            raise RestError(400, "accessKey format is 'ZStack AccessKeyId:Signature'")
        key = self._keys.get(key_id)
        if key is None or not key.enabled or key.account not in self.accounts:
            raise RestError(403, f"access key id: {key_id} does not existed or disabled")
        if not hmac.compare_digest(_signature(key, request, path).encode(), signature.encode()):
            raise RestError(403, "wrong accessKey signature")
        return self.accounts[key.account]

    def _check_date(self, date: str | None, now: float) -> None:
        if not date:
            raise RestError(400, "'Date' must be incuded in request header")
        wall, zone_offset = _parse_date(date)
        # By default the server compares wall clocks and ignores the zone the client wrote.
        offset = zone_offset if self._options.check_time_zone else self._options.utc_offset
        if abs(now - (wall - offset)) > self._options.access_key_window:
            raise RestError(403, "requestTimeTooSkewed")

    def _close_all(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            self.close(session.uuid)


def _signature(key: AccessKey, request: Request, path: str) -> str:
    text = f"{request.method}\n{request.headers['date']}\n{path}"
    return base64.b64encode(hmac.new(key.secret.encode(), text.encode(), hashlib.sha1).digest()).decode()


def _parse_date(date: str) -> tuple[float, float]:
    """Read ``EEE, dd MMM yyyy HH:mm:ss z`` as (wall clock, offset of its zone), in seconds."""
    match = _DATE.fullmatch(date)
    refused = RestError(400, f"Date format must be 'EEE, dd MMM yyyy HH:mm:ss z', but was {date}")
    if match is None:
        raise refused
    try:
        wall = datetime.strptime(match[1], "%a, %d %b %Y %H:%M:%S").replace(tzinfo=UTC)
        return wall.timestamp(), _zone_offset(match[2], wall)
    except (ValueError, ZoneInfoNotFoundError):
        raise refused from None


def _zone_offset(zone: str, wall: datetime) -> float:
    if zone in _ZONES:
        return _ZONES[zone]
    offset = wall.replace(tzinfo=ZoneInfo(zone)).utcoffset()
    return offset.total_seconds() if offset is not None else 0.0
