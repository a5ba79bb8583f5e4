"""Stops from all sources: nohup, a terminal that closes, GNU timeout, a process group, and process 1."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.crash.stage import ZCLONE, NodeProcess, environment, finish, node, write_job

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN = ["run", "job.yaml", "--progress", "none"]
MANIFEST = "job.manifest.jsonl"
SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"]


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NodeProcess]:
    """A node whose jobs take as long as the parameter says, in seconds; default: almost no time."""
    latency = getattr(request, "param", 0.01)
    (tmp_path / "node.yaml").write_text(f"version: 1\nnode: {{latency: [{latency}, {latency}]}}\n", encoding="utf-8")
    with node("node.yaml", cwd=tmp_path) as running:
        yield running


def start(command: list[str], folder: Path, url: str) -> subprocess.Popen[bytes]:
    """Start ``command`` in a new session; its output goes to ``output.txt``."""
    with (folder / "output.txt").open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment(url),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def submits(served: NodeProcess) -> int:
    return int(served.ledger()["calls"].get("submit", 0))


def wait_for_submits(served: NodeProcess, count: int) -> None:
    """Return once the node got ``count`` POSTs in all."""
    give_up = time.monotonic() + 200
    while submits(served) < count:
        assert time.monotonic() < give_up, "the command sends nothing"
        time.sleep(0.02)


def last_line(folder: Path) -> dict[str, Any]:
    line: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8").splitlines()[-1])
    return line


def require_settled(folder: Path, served: NodeProcess) -> None:
    """Check that the process ended early and cleanly: its last line says so, and nothing is in flight."""
    ended = last_line(folder)
    assert ended.get("exit") == 4, ended
    assert ended["reason"]
    made = sum(not clone["deleted"] for clone in served.ledger()["clones"])
    assert ended["counts"].get("cloned") == made
    assert not {"sent", "accepted", "uncertain"} & {state for state, count in ended["counts"].items() if count}


@pytest.mark.parametrize("name", SIGNALS)
def test_an_ignored_signal_stays_ignored(name: str, tmp_path: Path, served: NodeProcess) -> None:
    """A signal that is ignored when the command begins is ignored by the run, which ends with 0."""
    write_job(tmp_path, 15, rate="30/s")
    command = f"trap '' {name.removeprefix('SIG')}; exec {' '.join([*ZCLONE, *RUN])}"
    process = start(["bash", "-c", command], tmp_path, served.url)
    wait_for_submits(served, 2)
    process.send_signal(getattr(signal, name))
    assert process.wait(200) == 0, (tmp_path / "output.txt").read_text(encoding="utf-8")


def test_nohup_survives_a_hang_up(tmp_path: Path, served: NodeProcess) -> None:
    """Under nohup a SIGHUP changes nothing, and SIGTERM still ends the run cleanly."""
    write_job(tmp_path, 200, rate="20/s")
    process = start(["nohup", *ZCLONE, *RUN], tmp_path, served.url)
    wait_for_submits(served, 1)
    process.send_signal(signal.SIGHUP)
    wait_for_submits(served, submits(served) + 4)
    process.terminate()
    assert process.wait(200) == 4
    require_settled(tmp_path, served)


def in_a_terminal(command: list[str], folder: Path, url: str) -> tuple[int, int]:
    """Start ``command`` as the foreground of a new terminal; return its process id and the terminal's other end."""
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover - becomes the command
        os.chdir(folder)
        os.execvpe(command[0], command, environment(url))
    return child, terminal


def exit_code_of(child: int) -> int:
    give_up = time.monotonic() + 200
    while (found := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < give_up, "the command does not end"
        time.sleep(0.05)
    return os.waitstatus_to_exitcode(found[1])


@pytest.mark.parametrize("progress", ["none", "live", "plain"])
def test_a_closing_terminal_shuts_the_run_down_cleanly(progress: str, tmp_path: Path, served: NodeProcess) -> None:
    """When its terminal closes the run settles what is in flight and exits with 4."""
    write_job(tmp_path, 200, rate="20/s")
    child, terminal = in_a_terminal([*ZCLONE, "run", "job.yaml", "--progress", progress], tmp_path, served.url)
    wait_for_submits(served, 2)
    os.close(terminal)
    assert exit_code_of(child) == 4
    require_settled(tmp_path, served)


@pytest.mark.parametrize("progress", ["none", "live", "plain"])
def test_a_closing_terminal_under_nohup_changes_nothing(progress: str, tmp_path: Path, served: NodeProcess) -> None:
    """When SIGHUP is ignored the run outlives its terminal and exits with 0."""
    write_job(tmp_path, 20, rate="30/s")
    run = " ".join([*ZCLONE, "run", "job.yaml", "--progress", progress])
    child, terminal = in_a_terminal(["bash", "-c", f"trap '' HUP; exec {run}"], tmp_path, served.url)
    wait_for_submits(served, 2)
    os.close(terminal)
    assert exit_code_of(child) == 0


def stop_under_timeout(folder: Path, served: NodeProcess) -> None:
    """Stop one run under GNU timeout, which forwards its own stop to the command and to its group."""
    begun = submits(served)
    process = start(["timeout", "600", *ZCLONE, *RUN], folder, served.url)
    wait_for_submits(served, begun + 2)
    process.terminate()
    process.wait(200)
    require_settled(folder, served)


def stop_many_under_timeout(folder: Path, served: NodeProcess, *, runs: int) -> None:
    write_job(folder, 10_000, rate="20/s")
    for _ in range(runs):
        stop_under_timeout(folder, served)


def test_one_stop_of_timeout_is_one_stop(tmp_path: Path, served: NodeProcess) -> None:
    """GNU timeout sends its signal to the command and to its group: each of a few runs ends cleanly."""
    stop_many_under_timeout(tmp_path, served, runs=4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_stops_of_timeout(tmp_path: Path, served: NodeProcess) -> None:
    """Of 200 runs under GNU timeout 200 end cleanly."""
    stop_many_under_timeout(tmp_path, served, runs=200)


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("served", [0.3], indirect=True)
def test_repeated_signals_at_once_are_one_stop(name: str, tmp_path: Path, served: NodeProcess) -> None:
    """One signal delivered several times in a row is one stop: what is in flight settles."""
    write_job(tmp_path, 200, rate="50/s")
    process = start([*ZCLONE, *RUN], tmp_path, served.url)
    wait_for_submits(served, 2)
    for _ in range(4):
        process.send_signal(getattr(signal, name))
        time.sleep(0.02)
    assert process.wait(200) == 4
    require_settled(tmp_path, served)


def first_process(command: list[str], folder: Path, url: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start ``command`` as process 1 of a namespace; return unshare's process and the command's id outside."""
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no process namespace may be made here")
    outer = start(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command], folder, url)
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    give_up = time.monotonic() + 200
    while not (found := children.read_text(encoding="ascii").split()):
        assert time.monotonic() < give_up, "unshare starts nothing"
        time.sleep(0.02)
    return outer, int(found[0])


@pytest.mark.parametrize("name", SIGNALS)
def test_process_1_obeys_a_stop(name: str, tmp_path: Path, served: NodeProcess) -> None:
    """As process 1 of a container, where a signal without a handler does nothing, a stop ends the run cleanly."""
    write_job(tmp_path, 200, rate="20/s")
    outer, inner = first_process([*ZCLONE, *RUN], tmp_path, served.url)
    wait_for_submits(served, 2)
    os.kill(inner, getattr(signal, name))
    assert outer.wait(200) == 4
    require_settled(tmp_path, served)
    assert finish(["status", MANIFEST], cwd=tmp_path, url=None)[0] == 0


IMPORT: Final = """
import atexit, os, signal, sys
def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "batch.cli.manifests":
            interrupt()
if sys.argv[1] == "import":
    sys.meta_path.insert(0, Finder())
else:
    atexit.register(interrupt)
sys.argv[1:] = ["schema"]
from batch.cli import main
main()
"""
"""A program that gets a Ctrl-C while ``zclone`` is imported, or once it has ended."""


@pytest.mark.parametrize("when", ["import", "exit"])
def test_ctrl_c_before_or_after_the_command_prints_no_traceback(tmp_path: Path, when: str) -> None:
    """A Ctrl-C during the imports or the interpreter's exit ends the process by the signal, silently."""
    command = [sys.executable, "-c", IMPORT, when]
    done = subprocess.run(command, cwd=tmp_path, env=environment(""), capture_output=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")
    assert done.stdout.startswith(b"{") is (when == "exit")
