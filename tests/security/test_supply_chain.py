"""Rule 21: dependencies are pinned by hashes, and tests reach no other machine."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest

from tests.confined import sitecustomize as confined
from tests.crash.stage import environment

ELSEWHERE = "192.0.2.1"
"""An address for documentation, which never answers."""


@pytest.fixture
def attempts() -> list[str]:
    """Return what was refused, and forget it, as it is intended here."""
    return confined.refused


def test_a_test_cannot_connect_elsewhere(attempts: list[str]) -> None:
    """Connecting, sending a datagram or resolving a name raises in the tests' own process, from any code."""
    with socket.socket() as stream, pytest.raises(confined.LeftTheMachineError):
        stream.connect((ELSEWHERE, 80))
    with socket.socket(type=socket.SOCK_DGRAM) as datagram, pytest.raises(confined.LeftTheMachineError):
        datagram.sendto(b"x", (ELSEWHERE, 53))
    with pytest.raises(confined.LeftTheMachineError):
        socket.getaddrinfo("zstack.example.com", 443)
    assert [what.split()[-1] for what in attempts] == [ELSEWHERE, ELSEWHERE, "zstack.example.com"]
    del attempts[:]


async def test_the_event_loop_cannot_connect_elsewhere(attempts: list[str]) -> None:
    """The hook sees the connections of asyncio."""
    with pytest.raises(confined.LeftTheMachineError):
        await asyncio.open_connection(ELSEWHERE, 80)
    assert attempts
    del attempts[:]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "nowhere.invalid", None, b"127.0.0.9"])
def test_this_machine_is_reachable(host: object) -> None:
    """Loopback in every spelling, and names that exist nowhere, are let through."""
    assert confined.is_here(host)


@pytest.mark.parametrize("whose", ["conftest", "stage"])
def test_a_child_process_cannot_connect_elsewhere(whose: str, child_env: dict[str, str]) -> None:
    """A command that a test starts is confined the same way."""
    env = child_env if whose == "conftest" else environment()
    code = f"import socket; socket.create_connection(({ELSEWHERE!r}, 80), 1)"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "a test may not leave this machine" in done.stderr


def test_the_command_cannot_connect_elsewhere(child_env: dict[str, str]) -> None:
    """The real command, with all its imports, is confined too: its call ends where it would leave."""
    env = child_env | {"ZSTACK_API_URL": f"http://{ELSEWHERE}", "ZSTACK_SESSION_ID": "0" * 32}
    command = [sys.executable, "-m", "batch", "doctor"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "may not leave this machine" in done.stdout + done.stderr
