"""AccessKeys: the signature, and the server's own time zone, found by trying."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import pytest

from batch.errors import RunStoppedError, UnreachableError
from batch.zstack.accesskey import current_time, sign, zones
from batch.zstack.answers import Absent, Accepted, ErrorClass, Refused
from batch.zstack.settings import AccessKeyAuth
from batch.zstack.wire import HttpReply
from tests.zstack.wire_server import CLONE, JOB, RESOURCE, Seen, VirtualClock, WireServer, answer, client_of, error

AUTH = AccessKeyAuth("AKID", "planted-secret")


DATE_FORMAT = "Date format error. The 'Date' header must conform to RFC 1123"


@dataclass
class KeyNode:
    """Checks keys as the server does by default: wall-clock values, ignoring the date's zone."""

    clock: VirtualClock
    offset: float = 0.0
    ahead: float = 0.0
    secret: str = "planted-secret"
    tells_time: bool = True
    reads: str = ".*"
    """Pattern of the zones that it can read."""
    unread: str = DATE_FORMAT

    def __call__(self, seen: Seen) -> bytes:
        now = self.clock.now + self.ahead
        if "actions" in seen.target:
            if b"getVersion" in seen.body:
                return answer(200, {"version": "5.5.22"})
            clock_body = {"currentTime": {"MillionSeconds": int(now * 1000), "Seconds": int(now)}}
            return answer(200, clock_body) if self.tells_time else answer(404, "no api mapping to /v1/x")
        if "/api-jobs/" in seen.target:
            return answer(202, {})
        return self._checked(seen, now) or answer(*((202, {}) if seen.method == "POST" else (200, {"inventories": []})))

    def _checked(self, seen: Seen, now: float) -> bytes | None:
        date = seen.headers["date"]
        path = seen.target.removeprefix("/zstack").partition("?")[0]
        if not re.fullmatch(self.reads, date.rpartition(" ")[2]):
            return answer(400, self.unread)
        text = f"{seen.method}\n{date}\n{path}"
        mac = hmac.new(self.secret.encode(), text.encode(), hashlib.sha1).digest()
        wall = datetime.strptime(date.rpartition(" ")[0], "%a, %d %b %Y %H:%M:%S").replace(tzinfo=timezone.utc)  # noqa: UP017
        local = datetime.fromtimestamp(now, timezone(timedelta(minutes=self.offset))).replace(tzinfo=timezone.utc)  # noqa: UP017
        if abs((wall - local).total_seconds()) > 900:
            return answer(403, "requestTimeTooSkewed")
        if seen.headers["authorization"] != f"ZStack AKID:{base64.b64encode(mac).decode()}":
            return answer(403, "wrong accessKey signature")
        return None


def test_signature() -> None:
    """The signature is HMAC-SHA1 over method, date and path without the context path (zstack/README.md 3)."""
    text = "POST\nTue, 25 Nov 2025 11:51:50 CST\n/v1/ai/model-services/d76744cb53f9378abf42b907df3efb6e"
    assert sign("id", b"secret", text) == "ZStack id:34t1NOmniUsI2hBfTjgK4qB68wU="


@pytest.mark.parametrize("minutes", [0, 480, -300, 330, 345, 825, -570, 840, -720])
async def test_zone_is_found(minutes: int) -> None:
    """The date is sent in the server's own zone, whatever it is, without any setting."""
    clock = VirtualClock()
    async with WireServer(KeyNode(clock, minutes)) as server, client_of(server.url, AUTH, clock=clock) as client:
        await client.preflight()
        assert await client.submit(CLONE, JOB) == Accepted(None)
        assert await client.find(RESOURCE) == Absent()
        assert client.warnings == ()


async def test_skew_is_corrected_and_reported() -> None:
    """A clock that is wrong by hours is corrected by the server's, with a message."""
    clock = VirtualClock()
    node = KeyNode(clock, 480, ahead=7.3 * 3600)
    async with WireServer(node) as server, client_of(server.url, AUTH, clock=clock) as client:
        await client.preflight()
        assert await client.submit(CLONE, JOB) == Accepted(None)
        assert "-26280 s from the server's" in client.warnings[0]


async def test_zone_that_changes_while_running() -> None:
    """A change to summer time during a run is followed; the refused call is signed again and resent."""
    clock = VirtualClock()
    node = KeyNode(clock, 60)
    async with WireServer(node) as server, client_of(server.url, AUTH, clock=clock) as client:
        await client.preflight()
        node.offset = 120
        assert await client.submit(CLONE, JOB) == Accepted(None)
    posts = [seen for seen in server.seen if seen.method == "POST"]
    assert [seen.headers["x-job-uuid"] for seen in posts] == [JOB, JOB]


@pytest.mark.parametrize("unread", [DATE_FORMAT, "the Date format is wrong, expected EEE, dd MMM yyyy HH:mm:ss z"])
@pytest.mark.parametrize("minutes", [0, 480, -570, 270])
@pytest.mark.parametrize("reads", [r"GMT[+-]\d\d:\d\d", r"[+-]\d{4}"])
async def test_dates_are_written_as_the_server_reads_them(reads: str, minutes: int, unread: str) -> None:
    """A server that reads no names of zones gets GMT+hh:mm, or else the numeric offset."""
    clock = VirtualClock()
    node = KeyNode(clock, minutes, reads=reads, unread=unread)
    async with WireServer(node) as server, client_of(server.url, AUTH, clock=clock) as client:
        await client.preflight()
        assert await client.submit(CLONE, JOB) == Accepted(None)
    sign_of, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    date = server.seen[-1].headers["date"].replace(":", "")
    assert date.endswith(f"{sign_of}{hours:02d}{rest:02d}")


async def test_dates_the_server_never_reads() -> None:
    """If no format is read, each was tried once and the command lists what was tried; nothing was cloned."""
    clock = VirtualClock()
    node = KeyNode(clock, reads="never")
    async with WireServer(node) as server, client_of(server.url, AUTH, clock=clock) as client:
        with pytest.raises(UnreachableError) as caught:
            await client.preflight()
    signed = [seen for seen in server.seen if "date" in seen.headers]
    assert [seen.headers["date"].rpartition(" ")[2] for seen in signed] == ["UTC", "GMT+00:00", "+0000"]
    assert all(f"'{seen.headers['date']}'" in str(caught.value) for seen in signed)


async def test_dates_the_server_no_longer_reads() -> None:
    """During a run the refused call is sent in another format; if none is read, the run stops with this reason."""
    clock = VirtualClock()
    node = KeyNode(clock, 480)
    async with WireServer(node) as server, client_of(server.url, AUTH, clock=clock) as client:
        await client.preflight()
        node.reads = r"[+-]\d{4}"
        assert await client.submit(CLONE, JOB) == Accepted(None)
        node.reads = "never"
        refused = await client.submit(CLONE, JOB)
    assert isinstance(refused, Refused)
    assert (refused.error.error_class, refused.error.code) == (ErrorClass.FATAL, "HTTP.400")
    assert refused.error.text.startswith(DATE_FORMAT)
    assert all(zone in refused.error.text for zone in ("Asia/Shanghai'", "GMT+08:00'", "+0800'"))
    posts = [seen for seen in server.seen if seen.method == "POST"]
    assert len(posts) == 3


async def test_a_refused_body_is_no_refused_date() -> None:
    """A 400 about a field of the body is not retried with another date."""
    clock = VirtualClock()
    node = KeyNode(clock, unread="[createDate] field is excepted an int or long: bad date format")
    async with WireServer(node) as server, client_of(server.url, AUTH, clock=clock) as client:
        await client.preflight()
        node.reads = "never"
        calls = len(server.seen)
        assert isinstance(await client.submit(CLONE, JOB), Refused)
        assert len(server.seen) == calls + 1


async def test_a_clock_that_cannot_be_corrected() -> None:
    """If every zone is refused the message says that clocks disagree."""
    clock = VirtualClock()
    node = KeyNode(clock, 480, ahead=10 * 86400, tells_time=False)
    async with WireServer(node) as server, client_of(server.url, AUTH, clock=clock) as client:
        with pytest.raises(UnreachableError, match="requestTimeTooSkewed"):
            await client.preflight()
    assert len(server.seen) < 50


async def test_wrong_secret() -> None:
    """A wrong secret ends the command at once and does not show the secret."""
    clock = VirtualClock()
    node = KeyNode(clock, secret="another")
    async with WireServer(node) as server, client_of(server.url, AUTH, clock=clock) as client:
        with pytest.raises(UnreachableError, match="wrong accessKey signature") as caught:
            await client.preflight()
    assert "planted" not in str(caught.value)
    assert "planted" not in repr(AUTH)


async def test_ended_key_stops_the_run() -> None:
    """A key whose session is reported as ended cannot be renewed: the run stops."""
    clock = VirtualClock()
    data = answer(503, error("ID.1001"))
    async with WireServer(lambda _: data) as server, client_of(server.url, AUTH, clock=clock) as client:
        refused = await client.submit(CLONE, JOB)
        assert isinstance(refused, Refused)
        assert refused.error.error_class is ErrorClass.RENEW
        with pytest.raises(RunStoppedError, match="AccessKey"):
            await client.renew()


@pytest.mark.parametrize("milliseconds", [1e300, -1e300, 2**63, -1, 0])
def test_a_time_that_is_no_date_is_not_used(milliseconds: float) -> None:
    """A server's time beyond all dates cannot be signed with: the Date header of its answer counts."""
    body = json.dumps({"currentTime": {"MillionSeconds": milliseconds}}).encode()
    assert current_time(HttpReply(200, body, "Tue, 25 Nov 2025 11:51:50 GMT")) == 1_764_071_510.0
    assert current_time(HttpReply(200, body)) is None


def test_likely_zones_come_first() -> None:
    """UTC, China and this machine's zone are tried first, and every offset in use is tried once."""
    tried = zones(-300)
    assert {offset for offset, _ in tried[:3]} == {0, 480, -300}
    assert len({offset for offset, _ in tried}) == len(tried) == 40
    assert dict(tried)[-300] == "Etc/GMT+5"
