"""``run --webhook-listen``: a run notified of ends, what is refused before anything is sent, and the secret path."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Final

import pytest

from batch.cli.app import run_command
from batch.errors import ExitCode
from tests.crash.stage import SESSION
from tests.nodes import ledger

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

TOKEN: Final = "c0ffee5ec2e7c0ffee5ec2e7c0ffee5e"
COUNT: Final = 40
RUN: Final = ["run", "job.yaml", "--rate", "200/s", "--concurrency", "20", "--log-format", "json"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a job."""
    sources = ", ".join(f"{number:012x}4aaa8{number:015x}" for number in range(1, COUNT + 1))
    (tmp_path / "job.yaml").write_text(f"version: 1\nname: j\ntargets: [{sources}]\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_most_clones_cost_one_call(
    zclone: Callable[..., subprocess.CompletedProcess[str]], serve_node: Callable[..., str]
) -> None:
    """The server reports the ends, so that fewer jobs are polled than exist; every target is cloned once."""
    url = serve_node()
    env = {"ZSTACK_API_URL": url, "ZSTACK_SESSION_ID": SESSION}
    done = zclone(*RUN, "--webhook-listen", "127.0.0.1:0", env=env)
    assert done.returncode == ExitCode.OK, done.stderr
    books = ledger(url)
    assert books["clones_made"] == COUNT
    assert books["calls"]["submit"] == COUNT
    assert books["calls"].get("poll", 0) < COUNT
    assert "webhook.missing" not in done.stderr


def test_undeliverable_hooks_cost_polls_only(
    zclone: Callable[..., subprocess.CompletedProcess[str]], serve_node: Callable[..., str]
) -> None:
    """If the server cannot reach the URL, the run polls, says so, and ends as without."""
    url = serve_node()
    env = {"ZSTACK_API_URL": url, "ZSTACK_SESSION_ID": SESSION}
    flags = ("--webhook-listen", "127.0.0.1:0", "--webhook-url", "http://127.0.0.1:9")
    done = zclone(*RUN, *flags, env=env)
    assert done.returncode == ExitCode.OK, done.stderr
    assert ledger(url)["clones_made"] == COUNT
    assert "webhook.missing" in done.stderr


def test_the_path_appears_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Log, manifest, report and stderr do not have it, at every level of detail."""
    monkeypatch.setattr("batch.zstack.webhook.secrets.token_hex", lambda _: TOKEN)
    flags = ["--simulate", "--webhook-listen", "127.0.0.1:0", "--log-file", "log", "--report", "report.json"]
    assert run_command([*RUN, *flags]) == ExitCode.OK
    output = "".join(capfd.readouterr())
    assert TOKEN not in output
    listening = [json.loads(line) for line in (folder / "log").read_text(encoding="utf-8").splitlines()]
    assert [line["address"][:10] for line in listening if line["event"] == "webhook.listening"] == ["127.0.0.1:"[:10]]
    for path in folder.iterdir():
        assert TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--webhook-listen", "0.0.0.0:9100"], "--webhook-url"),
        (["--webhook-listen", "[::]:9100"], "--webhook-url"),
        (["--webhook-listen", "[::ffff:0.0.0.0]:9100"], "--webhook-url"),
        (["--webhook-listen", "0:9100"], "--webhook-url"),
        (["--webhook-listen", "9100"], "HOST:PORT"),
        (["--webhook-listen", ":9100"], "HOST:PORT"),
        (["--webhook-listen", "127.0.0.1:"], "HOST:PORT"),
        (["--webhook-listen", "127.0.0.1:65536"], "HOST:PORT"),
        (["--webhook-listen", "127.0.0.1:http"], "HOST:PORT"),
        (["--webhook-listen", "0x0:9100"], "--webhook-url"),
        (["--webhook-url", "http://127.0.0.1:9100"], "--webhook-listen"),
        *(
            (["--webhook-listen", "0.0.0.0:9100", "--webhook-url", url], "--webhook-url")
            for url in (
                "127.0.0.1:9100",
                "ftp://h",
                "http://u:p@h",
                "http://h?q",
                "http://h#f",
                "http://h:99999",
                "http://",
            )
        ),
        (["--webhook-listen", "127.0.0.1:0", "--engine", "temporal"], "--engine temporal"),
    ],
)
def test_invalid_listener_settings_are_refused(
    flags: list[str], word: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A wildcard without the URL, an invalid address, and another engine exit with 2; nothing is written."""
    assert run_command([*RUN, "--simulate", *flags] if "--engine" not in flags else [*RUN, *flags]) == ExitCode.USAGE
    assert word in capfd.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["job.yaml"]


def test_a_port_in_use_exits_before_anything_is_sent(
    zclone: Callable[..., subprocess.CompletedProcess[str]], serve_node: Callable[..., str]
) -> None:
    """Nothing is cloned if the listener cannot start."""
    url = serve_node()
    env = {"ZSTACK_API_URL": url, "ZSTACK_SESSION_ID": SESSION}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = zclone(*RUN, "--webhook-listen", f"127.0.0.1:{taken.getsockname()[1]}", env=env)
    assert done.returncode == ExitCode.USAGE
    assert "cannot listen there" in done.stderr
    assert ledger(url)["calls"].get("submit", 0) == 0
