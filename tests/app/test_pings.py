"""``--ping-url``: one deadline for everything, no redirect followed, no proxy used."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trustme

from batch.app import reports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Talk = Callable[[socket.socket, threading.Event], None]


@contextmanager
def listener(talk: Talk) -> Iterator[tuple[str, list[bytes]]]:
    """Serve ``talk`` on a socket; yield the url and the received requests."""
    seen: list[bytes] = []
    over = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            if over.is_set():
                connection.close()
                return
            with connection:
                seen.append(connection.recv(65536))
                try:
                    talk(connection, over)
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}", seen
    finally:
        over.set()
        socket.create_connection(server.getsockname()).close()
        thread.join()
        server.close()


def takes_it(connection: socket.socket, _over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def drips(connection: socket.socket, over: threading.Event) -> None:
    """Send a byte of a header now and then, so that no single wait is long, until the listener ends."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not over.wait(0.02):
        connection.sendall(b"x")


def continues(connection: socket.socket, over: threading.Event) -> None:
    """Send one interim answer after the other until the listener ends."""
    while not over.wait(0.02):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def is_silent(_connection: socket.socket, over: threading.Event) -> None:
    over.wait()


def is_no_http(connection: socket.socket, _over: threading.Event) -> None:
    connection.sendall(b"220 mail.example.com ESMTP\r\n")


def test_a_ping_is_one_post() -> None:
    """A successful ping is one POST to the url followed by the event, without a message."""
    with listener(takes_it) as (url, seen):
        reports.ping(f"{url}/ping/x/", "start")
    assert [request.partition(b" HTTP")[0] for request in seen] == [b"POST /ping/x/start"]


@pytest.mark.parametrize("talk", [drips, continues, is_silent, is_no_http])
def test_no_server_delays_a_run(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a server does with a ping, it is abandoned at one deadline and reported without the url."""
    monkeypatch.setattr(reports, "_TIMEOUT", 0.3)
    with listener(talk) as (url, seen):
        reports.ping(f"{url}/s3cret", "start")
        output = capsys.readouterr().err
    assert len(seen) == 1
    assert output.startswith("the ping start was not delivered: ")
    assert output.count("\n") == 1
    assert "s3cret" not in output


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A redirect is no delivery, and nothing is sent to its target."""
    with listener(takes_it) as (elsewhere, led):

        def redirects(connection: socket.socket, _over: threading.Event) -> None:
            head = f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere}/there\r\nContent-Length: 0\r\n\r\n"
            connection.sendall(head.encode("ascii"))

        with listener(redirects) as (url, seen):
            reports.ping(url, "0")
    assert (len(seen), led) == (1, [])
    assert "the ping 0 was not delivered" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_no_proxy_is_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment gets no ping."""
    with listener(takes_it) as (proxy, led), listener(takes_it) as (url, seen):
        monkeypatch.setenv(name, proxy)
        reports.ping(url, "0")
    assert (len(seen), led) == (1, [])


def test_an_invalid_url_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """A url that no request can be sent to is reported, and nothing more."""
    for url in ("http://[::1", "http://127.0.0.1:99999/x", "http://127.0.0.1/a b\n"):
        reports.ping(url, "start")
        assert "the ping start was not delivered" in capsys.readouterr().err


def refused() -> str:
    """Return a url at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_failure_says_why(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection, an error status, silence, a certificate and a non-HTTP answer have different messages."""
    monkeypatch.setattr(reports, "_TIMEOUT", 2.0)

    def reason_of(url: str) -> str:
        reports.ping(f"{url}/s3cret", "0")
        output = capsys.readouterr().err
        assert "s3cret" not in output
        return output.removeprefix("the ping 0 was not delivered: ").strip()

    def is_absent(connection: socket.socket, _over: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    assert reason_of(refused()) == os.strerror(errno.ECONNREFUSED)
    with listener(is_absent) as (url, _):
        assert reason_of(url) == "HTTP status 404"
    with listener(is_no_http) as (url, _):
        assert reason_of(url).startswith("the answer is not HTTP")
    assert reason_of("http://[::1") == "the url is not usable"
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with suppress(OSError), context.wrap_socket(connection, server_side=True):
                pass

        thread = threading.Thread(target=serve)
        thread.start()
        assert reason_of(f"https://127.0.0.1:{server.getsockname()[1]}").startswith("the certificate is not valid: ")
        thread.join()
