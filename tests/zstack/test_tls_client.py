"""TLS: the certificate, the host's name and the version are checked; insecure is warned of."""

from __future__ import annotations

import datetime as dt
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from batch.errors import UnreachableError, UsageError
from batch.zstack import client_http
from batch.zstack.answers import Accepted, NotSent
from batch.zstack.client import Client, connect
from batch.zstack.settings import SessionAuth, Settings
from tests.zstack.wire_server import CLONE, JOB, SESSION, CountingGate, VirtualClock, WireServer, answer

if TYPE_CHECKING:
    from pathlib import Path

ACCEPTED = answer(202, {})


def context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(made)
    return made


def client(url: str, ca_file: Path | None, *, insecure: bool = False) -> Client:
    settings = Settings(url, SessionAuth(SESSION), ca_file, insecure)
    return Client(settings, gate=CountingGate(), clock=VirtualClock(), language="en")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


async def test_own_authority(authority: trustme.CA, ca_file: Path) -> None:
    """A certificate of the ca_file's authority with the host's name is accepted."""
    async with (
        WireServer(lambda _: ACCEPTED, tls=context(authority, "127.0.0.1")) as server,
        client(server.url, ca_file) as trusting,
    ):
        assert await trusting.submit(CLONE, JOB) == Accepted(None)
        assert trusting.warnings == ()


async def test_wrong_host(authority: trustme.CA, ca_file: Path) -> None:
    """A certificate of another host is refused before anything is sent."""
    async with (
        WireServer(lambda _: ACCEPTED, tls=context(authority, "other.example.com")) as server,
        client(server.url, ca_file) as trusting,
    ):
        refused = await trusting.submit(CLONE, JOB)
        with pytest.raises(UnreachableError, match="certificate was rejected"):
            await trusting.preflight()
    assert isinstance(refused, NotSent)
    assert "certificate was rejected" in refused.reason
    assert server.seen == []


async def test_unknown_authority(authority: trustme.CA) -> None:
    """A certificate of an unknown authority is refused without a ca_file, and accepted with a warning when insecure."""
    async with WireServer(lambda _: ACCEPTED, tls=context(authority, "other.example.com")) as server:
        async with client(server.url, None) as strict:
            assert isinstance(await strict.submit(CLONE, JOB), NotSent)
        assert server.seen == []
        async with client(server.url, None, insecure=True) as careless:
            assert await careless.submit(CLONE, JOB) == Accepted(None)
            assert "NOT checked" in careless.warnings[0]


async def test_expired_certificate(authority: trustme.CA, ca_file: Path) -> None:
    """An expired certificate is refused before anything is sent, and the reason is reported."""
    expired = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    authority.issue_cert("127.0.0.1", not_after=yesterday).configure_cert(expired)
    async with WireServer(lambda _: ACCEPTED, tls=expired) as server, client(server.url, ca_file) as trusting:
        refused = await trusting.submit(CLONE, JOB)
        assert isinstance(refused, NotSent)
        assert "expired" in refused.reason
        assert server.seen == []


def test_old_versions_are_refused(ca_file: Path) -> None:
    """TLS below 1.2 is not spoken."""
    spoken = client_http.tls_context(Settings("https://127.0.0.1:1/zstack", SessionAuth(SESSION), ca_file))
    assert isinstance(spoken, ssl.SSLContext)
    assert spoken.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert spoken.check_hostname


async def test_plain_http_on_a_tls_port(ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not speak TLS gets no request."""
    monkeypatch.setattr(client_http, "_CONNECT_TIMEOUT", 0.1)
    async with (
        WireServer(lambda _: ACCEPTED) as server,
        client(server.url.replace("http:", "https:"), ca_file) as trusting,
    ):
        assert isinstance(await trusting.submit(CLONE, JOB), NotSent)
    assert server.seen == []


@pytest.mark.parametrize("name", ["missing.pem", "empty.pem"])
async def test_unusable_ca_file(tmp_path: Path, name: str) -> None:
    """A CA file that is missing or holds no certificate is an error of the settings, by name."""
    (tmp_path / "empty.pem").write_text("nothing")
    settings = Settings("https://127.0.0.1:1/zstack", SessionAuth(SESSION), tmp_path / name)
    with pytest.raises(UsageError, match=name):
        await connect(settings)
