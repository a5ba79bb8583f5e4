"""AccessKey: each request is signed with its date, written in the server's time zone, which is found by trial.

The server compares wall-clock values and by default ignores the zone in the date (zstack/README.md 3), so that a
correct instant in a wrong zone is refused. A refusal for the date comes before anything is executed, so trials are
harmless.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from batch.errors import LoginLostError, UnreachableError
from batch.jsoncodec import as_number, as_object
from batch.zstack.auth import PROBE_PATH, check_access, probe
from batch.zstack.classify import is_skew, is_unread_date
from batch.zstack.wire import BadReplyError, HttpReply, http_date, json_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batch.clock import Clock
    from batch.zstack.answers import FindAnswer
    from batch.zstack.classify import Language
    from batch.zstack.settings import AccessKeyAuth
    from batch.zstack.wire import HttpCall

ACTIONS_PATH: Final = "/v1/management-nodes/actions"
WARNING_SKEW: Final = 60.0
"""Seconds between the clocks from which on the operator is warned."""
_MAX_MILLISECONDS: Final = 253_402_300_800_000
"""The year 10000: no date of a request has a later one."""
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FRACTIONAL_ZONES: Final = {
    -570: "Pacific/Marquesas",
    -210: "America/St_Johns",
    -150: "America/St_Johns",
    210: "Asia/Tehran",
    270: "Asia/Kabul",
    330: "Asia/Kolkata",
    345: "Asia/Kathmandu",
    390: "Asia/Yangon",
    525: "Australia/Eucla",
    570: "Australia/Darwin",
    630: "Australia/Adelaide",
    765: "Pacific/Chatham",
    825: "Pacific/Chatham",
}
"""Zones, in minutes east of UTC, that are not whole hours, each with a region that the server can parse."""


def _by_offset(minutes: int) -> str:
    """Return the offset of a zone such as +0800; ``minutes`` east of UTC."""
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours:02d}{rest:02d}"


def _by_gmt(minutes: int) -> str:
    """Return the name of a zone such as GMT+08:00; ``minutes`` east of UTC."""
    offset = _by_offset(minutes)
    return f"GMT{offset[:3]}:{offset[3:]}"


_SPELLINGS: Final[tuple[Callable[[int, str], str], ...]] = (
    lambda _, name: name,
    lambda minutes, _: _by_gmt(minutes),
    lambda minutes, _: _by_offset(minutes),
)
"""Formats for the zone in a date, from minutes east of UTC and region; servers differ in which they can parse."""


class AccessKey:
    """Signs calls; its sessions never expire."""

    generation = 0

    def __init__(self, auth: AccessKeyAuth, send: HttpCall, clock: Clock, language: Language) -> None:
        """Start in UTC with this machine's clock; ``open`` determines the server's."""
        self._key_id = auth.key_id
        self._secret = auth.secret.encode()
        self._send = send
        self._clock = clock
        self._language = language
        self._zone = (0, "UTC")
        self._spelling = 0
        self._skew = 0.0
        self._is_dead = False
        self.secrets = (auth.secret,)

    def headers(self, method: str, path: str) -> Mapping[str, str]:
        """Return date and signature of one call."""
        date = self._date()
        plain = unquote(path.partition("?")[0])
        return {"Date": date, "Authorization": sign(self._key_id, self._secret, f"{method}\n{date}\n{plain}")}

    async def open(self) -> tuple[str, ...]:
        """Determine the server's time and zone, then check the key."""
        await self._read_clock()
        failure = await self._find_date()
        if failure is not None:
            raise UnreachableError(f"{failure}; this machine is {-self._skew:+.0f} s from the server's clock")
        warnings = await check_access(self._probe, self._clock)
        if abs(self._skew) < WARNING_SKEW:
            return warnings
        return (
            *warnings,
            f"this machine's clock is {-self._skew:+.0f} s from the server's; dates are corrected for it",
        )

    def mark_expired(self, generation: int) -> None:
        """Record an unexpected end; another process's jobs may have had a session that ended."""
        self._is_dead = self._is_dead or generation == self.generation

    async def renew(self) -> None:
        """Raise RunStoppedError where the key no longer works: its sessions do not expire."""
        if self._is_dead:
            raise LoginLostError(
                "the server reports the AccessKey's session as ended: check that the key is enabled, then run again"
            )

    async def resync(self) -> str | None:
        """Determine time and zone again, for instance after a change to summer time."""
        await self._read_clock()
        return await self._find_date()

    async def close(self) -> str | None:
        """Do nothing: keys have no sessions to close."""
        return None

    async def _probe(self) -> FindAnswer:
        return await probe(self._send, self.headers("GET", PROBE_PATH), self._language)

    async def _read_clock(self) -> None:
        before = self._clock.time()
        reply = await self._send("PUT", ACTIONS_PATH, body=b'{"getCurrentTime":{}}')
        server = current_time(reply) if isinstance(reply, HttpReply) else None
        if server is not None:
            self._skew = server - (before + self._clock.time()) / 2

    async def _find_date(self) -> str | None:
        """Find a zone and a format that the server accepts; return why there is none, or None.

        A format that the server cannot parse is skipped: each is tried once.
        """
        unread: list[str] = []
        for zone in (self._zone, *zones(time.localtime(self._clock.time()).tm_gmtoff // 60)):
            self._zone = zone
            spelling = self._spelling
            headers, reply = await self._try_date()
            while reply is not None and is_unread_date(reply.status, reply.text):
                unread.append(headers["Date"])
                if len(unread) == len(_SPELLINGS):
                    return f"the server cannot read the date of a signed request: tried {', '.join(map(repr, unread))}"
                # Start from the refused one: another call may have changed it meanwhile.
                self._spelling = spelling = (spelling + 1) % len(_SPELLINGS)
                headers, reply = await self._try_date()
            if reply is None or not is_skew(reply.status, reply.text):
                return None
        return "the server refuses the request's date in every time zone (requestTimeTooSkewed): its clocks disagree"

    async def _try_date(self) -> tuple[Mapping[str, str], HttpReply | None]:
        """Return the headers of a signed query and its answer; None where there was none."""
        headers = self.headers("GET", PROBE_PATH)
        reply = await self._send("GET", PROBE_PATH, headers=headers)
        return headers, reply if isinstance(reply, HttpReply) else None

    def _date(self) -> str:
        minutes, region = self._zone
        name = _SPELLINGS[self._spelling](minutes, region)
        at = time.gmtime(self._clock.time() + self._skew + minutes * 60)
        return (
            f"{_DAYS[at.tm_wday]}, {at.tm_mday:02d} {_MONTHS[at.tm_mon - 1]} {at.tm_year:04d} "
            f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} {name}"
        )


def sign(key_id: str, secret: bytes, text: str) -> str:
    r"""Return the Authorization header over ``METHOD\nDate\n/v1/path`` (zstack/README.md 3)."""
    digest = hmac.new(secret, text.encode(), hashlib.sha1).digest()
    return f"ZStack {key_id}:{base64.b64encode(digest).decode('ascii')}"


def current_time(reply: HttpReply) -> float | None:
    """Return the server's time in seconds since the epoch: from getCurrentTime's answer, else from its Date header."""
    try:
        times = as_object(json_object(reply.body).get("currentTime")) or {}
    except BadReplyError:
        return http_date(reply.date)
    milliseconds = as_number(times.get("MillionSeconds"))
    is_date = milliseconds is not None and 0 < milliseconds < _MAX_MILLISECONDS
    return milliseconds / 1000 if milliseconds is not None and is_date else http_date(reply.date)


def zones(local: int) -> list[tuple[int, str]]:
    """Return every offset in use, in minutes east of UTC, with a name the server can parse; the most likely first."""
    # POSIX names count westwards.
    whole = {hours * 60: f"Etc/GMT{-hours:+d}" for hours in range(-12, 15)}
    named = whole | _FRACTIONAL_ZONES | {0: "UTC", 480: "Asia/Shanghai"}
    return sorted(named.items(), key=lambda zone: (zone[0] not in {0, 480, local}, abs(zone[0] - 480)))
