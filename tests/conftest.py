"""Fixtures of all tests: the command as a child process, and the search for leaked secrets."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, quote_plus

import hypothesis
import pytest

import batch
from batch.app.messages import set_style
from batch.redaction import SECRETS, Secrets
from tests import forkserver
from tests.confined import sitecustomize as confined
from tests.nodes import announced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The time of an example depends on the load of the machine.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

ROOT: Final = Path(batch.__file__).resolve().parents[1]
_LARGEST: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Planted:
    """Secrets that may appear only where a test put them itself: files named *.secret."""

    session: str = "5ec2e7aa5e5510a40000c0ffee0badd1"
    password: str = 'plänted "pass/wörd"'
    key_secret: str = "PlantedAccessKeySecret0123456789abcdefgh"


PLANTED: Final = Planted()
PART: Final = 26
"""Consecutive characters that count as a whole secret."""


def _forms() -> Iterator[bytes]:
    for secret in astuple(PLANTED):
        raw = secret.encode()
        yield raw
        yield json.dumps(secret)[1:-1].encode()
        yield hashlib.sha512(raw).hexdigest().encode()
        yield hashlib.sha512(raw).hexdigest().upper().encode()
        yield base64.b64encode(raw).rstrip(b"=")
        yield base64.urlsafe_b64encode(raw).rstrip(b"=")
        yield quote(raw, safe="").encode()
        yield quote_plus(raw).encode()
        yield raw.hex().encode()
        yield raw.hex().upper().encode()
        yield base64.b64encode(b"OAuth " + raw).rstrip(b"=")
        yield "".join(f"\\u{ord(char):04x}" for char in secret).encode()
        yield from (secret[start : start + PART].encode() for start in range(len(secret) - PART + 1))


FORMS: Final = tuple(_forms())
PYTHONPATH: Final = os.pathsep.join([str(ROOT), str(Path(confined.__file__).parent)])
"""The code under test, and the ban on network access for child processes."""


def leaks(data: bytes) -> bool:
    """Return whether ``data`` holds a planted secret in any form."""
    return any(form in data for form in FORMS)


@pytest.fixture(autouse=True)
def _no_secret_in_files(request: pytest.FixtureRequest) -> Iterator[None]:
    """Search the files that a test left in its directory."""
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    for path in folder.rglob("*") if folder else ():
        assert not leaks(os.fsencode(path.name)), "a file's name holds a planted secret"
        if path.is_file() and not path.is_symlink() and path.suffix != ".secret" and path.stat().st_size <= _LARGEST:
            assert not leaks(path.read_bytes()), f"{path.name} holds a planted secret"


@pytest.fixture(autouse=True)
def _no_secret_is_kept() -> Iterator[None]:
    """Let no test redact the registered secrets of another one."""
    yield
    vars(SECRETS).update(vars(Secrets()))


@pytest.fixture(autouse=True)
def _messages_are_text() -> Iterator[None]:
    """Let no test write messages in the format that another one set."""
    yield
    set_style()


@pytest.fixture(autouse=True)
def _stays_here() -> Iterator[None]:
    """Fail a test that tried to leave this machine, also if its error was swallowed."""
    del confined.refused[:]
    yield
    assert confined.refused == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Search what a test printed and logged."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    printed = report.capstdout + report.capstderr + report.caplog
    if report.when == "teardown" and leaks(printed.encode("utf-8", "replace")):
        report.outcome = "failed"
        report.longrepr = "the captured output holds a planted secret"
    return report  # type: ignore[return-value]


@pytest.fixture
def planted() -> Planted:
    """Return the secrets to plant."""
    return PLANTED


@pytest.fixture
def child_env() -> dict[str, str]:
    """Return an environment without settings, in which ``python -m batch`` is the code under test."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("ZSTACK_", "ZCLONE_"))}
    return ours | {"PYTHONPATH": PYTHONPATH, "COLUMNS": "100", "NO_COLOR": "1"}


@pytest.fixture
def zclone(tmp_path: Path, child_env: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command in the test's directory; keyword ``env`` adds variables, ``cwd`` moves it."""

    def call(
        *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path = tmp_path
    ) -> subprocess.CompletedProcess[str]:
        return forkserver.run([str(argument) for argument in arguments], cwd=cwd, env=child_env | (env or {}))

    return call


@pytest.fixture
def interrupt(tmp_path: Path, child_env: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command, send SIGTERM when a manifest in the test's directory holds a clone, and return the result."""

    def call(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        given = [str(argument) for argument in arguments]
        with forkserver.start_text(given, cwd=tmp_path, env=child_env | (env or {})) as process:
            while process.poll() is None:
                if any(b'"cloned"' in path.read_bytes() for path in tmp_path.glob("*.manifest.jsonl")):
                    process.send_signal(signal.SIGTERM)
                    break
                time.sleep(0.02)
            stdout, stderr = process.communicate(250)
            return subprocess.CompletedProcess(given, process.wait(), stdout, stderr)

    return call


@pytest.fixture
def serve_node(child_env: dict[str, str]) -> Iterator[Callable[..., str]]:
    """Start embedded nodes as separate processes: called with flags of ``simulate``, it returns the url."""
    nodes: list[forkserver.Process[bytes]] = []

    def start(*flags: str) -> str:
        arguments = ["simulate", "--port", "0", *flags]
        node = forkserver.start(arguments, cwd=Path.cwd(), env=child_env, stderr="inherited")
        nodes.append(node)
        return announced(node.stdout.readline())

    yield start
    for node in nodes:
        node.send_signal(signal.SIGTERM)
        node.communicate(timeout=200)
