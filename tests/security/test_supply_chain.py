"""Rule 21: what comes in is pinned by hashes, and no test lets anything out but to this machine."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest

from tests.confined import sitecustomize as confined
from tests.crash.stage import environment

ELSEWHERE = "192.0.2.1"
"""An address for documentation: nobody answers there."""


@pytest.fixture
def tried() -> list[str]:
    """What was refused; forgotten again, as here it is meant."""
    return confined.refused


def test_a_test_cannot_connect_elsewhere(tried: list[str]) -> None:
    """Connecting, sending a datagram or asking for a name raises in the tests' own process, whoever does it."""
    with socket.socket() as stream, pytest.raises(confined.LeftTheMachineError):
        stream.connect((ELSEWHERE, 80))
    with socket.socket(type=socket.SOCK_DGRAM) as datagram, pytest.raises(confined.LeftTheMachineError):
        datagram.sendto(b"x", (ELSEWHERE, 53))
    with pytest.raises(confined.LeftTheMachineError):
        socket.getaddrinfo("zstack.example.com", 443)
    assert [what.split()[-1] for what in tried] == [ELSEWHERE, ELSEWHERE, "zstack.example.com"]
    del tried[:]


async def test_nor_can_the_event_loop(tried: list[str]) -> None:
    """The hook sees what asyncio connects."""
    with pytest.raises(confined.LeftTheMachineError):
        await asyncio.open_connection(ELSEWHERE, 80)
    assert tried
    del tried[:]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "nowhere.invalid", None, b"127.0.0.9"])
def test_this_machine_is_no_elsewhere(host: object) -> None:
    """Loopback in every spelling, and names that exist nowhere, are let through."""
    assert confined.is_here(host)


@pytest.mark.parametrize("whose", ["conftest", "stage"])
def test_nor_can_a_child_process(whose: str, child_env: dict[str, str]) -> None:
    """A command that a test starts is confined the same way."""
    env = child_env if whose == "conftest" else environment()
    code = f"import socket; socket.create_connection(({ELSEWHERE!r}, 80), 1)"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "a test may not leave this machine" in done.stderr


def test_nor_can_the_command(child_env: dict[str, str]) -> None:
    """So is the real command, with all it imports: its call ends where it would leave."""
    env = child_env | {"ZSTACK_API_URL": f"http://{ELSEWHERE}", "ZSTACK_SESSION_ID": "0" * 32}
    command = [sys.executable, "-m", "batch", "doctor"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "may not leave this machine" in done.stdout + done.stderr
