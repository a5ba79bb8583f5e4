"""What ends before anything is sent: invalid flags, a missing extra, an unreachable Temporal."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from batch.errors import ExitCode
from tests.crash.stage import environment, node, write_job
from tests.temporal.stage import staged

if TYPE_CHECKING:
    from pathlib import Path

    from tests.temporal.stage import Server

_WITHOUT = "import sys; sys.modules['temporalio'] = None; from batch.cli import main; main()"

_LOADED = "import atexit, os, temporalio; from batch.cli import main; atexit.register(os.write, 2, b'shutdown'); main()"
"""A program that writes to stderr when the interpreter shuts down."""


def run(folder: Path, *arguments: str, start: tuple[str, ...] = ("-m", "batch")) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=folder,
        env=environment("http://127.0.0.1:1/zstack") | {"TEMPORAL_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "arguments", [("run", "job.yaml", "--engine", "temporal"), ("worker", "--rate", "1/s", "--share", "1/2")]
)
def test_a_missing_extra_is_reported_with_its_installation(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Without the package temporalio both commands exit with 2, and say how it is installed."""
    write_job(tmp_path, 1)
    code, output = run(tmp_path, *arguments, start=("-c", _WITHOUT))
    assert code == ExitCode.USAGE
    assert "pip install 'zclone[temporal]'" in output


def test_the_process_exits_without_interpreter_shutdown(tmp_path: Path) -> None:
    """A thread of Temporal that runs Python during interpreter shutdown would abort the process: there is none."""
    code, output = run(tmp_path, "run", "absent.yaml", start=("-c", _LOADED))
    assert (code, "absent.yaml" in output, "shutdown" in output) == (ExitCode.USAGE, True, False)


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("run", "job.yaml", "--engine", "temporal"), ExitCode.UNREACHABLE, "127.0.0.1:1"),
        (("run", "job.yaml", "--engine", "temporal", "--simulate"), ExitCode.USAGE, "--simulate"),
        (("run", "job.yaml", "--cancel"), ExitCode.USAGE, "--engine temporal"),
        (("worker", "--rate", "1/s"), ExitCode.UNREACHABLE, "127.0.0.1:1"),
        (("worker", "--rate", "fast"), ExitCode.USAGE, "--rate"),
        (("worker", "--rate", "1/s", "--share", "1/0"), ExitCode.USAGE, "--share"),
        (("worker", "--rate", "1/s", "--share", "3/2"), ExitCode.USAGE, "--share"),
        (("worker", "--rate", "1/s", "--share", "one of three"), ExitCode.USAGE, "--share"),
    ],
)
def test_a_start_that_fails_says_why(tmp_path: Path, arguments: tuple[str, ...], code: ExitCode, word: str) -> None:
    """An invalid flag exits with 2, an unreachable Temporal with 5; no target is recorded."""
    write_job(tmp_path, 1)
    found, output = run(tmp_path, *arguments)
    assert (found, word in output) == (code, True), output
    assert not any(b'"planned"' in path.read_bytes() for path in tmp_path.glob("*.manifest.jsonl"))


def test_a_rate_below_the_workers_is_refused(server: Server, tmp_path: Path) -> None:
    """A run whose own rate is lower than the workers' exits with 2 and names both; the default does not count."""
    write_job(tmp_path, 2)
    with node("calm", cwd=tmp_path) as served, staged(tmp_path, served.url, server) as stage:
        stage.work(rate="20/s")
        code, output = stage.run_job("--rate", "19/s")
        assert (code, "19/s" in output, "20/s" in output) == (ExitCode.USAGE, True, True)
        assert served.ledger()["clones_made"] == 0
        assert stage.run_job()[0] == ExitCode.OK
