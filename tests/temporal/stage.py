"""A real Temporal server, real workers and the real command, each a process that a test may kill."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.crash.stage import ZCLONE, environment, start

if TYPE_CHECKING:
    from collections.abc import Iterator

FAULTS: Final = """
version: 1
node: {latency: [0.1, 0.5]}
faults:
  - {fault: lost_reply, probability: 0.06}
  - {fault: drop, probability: 0.02}
  - {fault: fail, code: SYS.1011, probability: 0.03}
  - {fault: error_500, probability: 0.02}
  - {fault: lost_reply, on: poll, probability: 0.02}
"""
"""Lost replies, and temporary failures; jobs of 0.1 to 0.5 s."""
TEMPORAL: Final = Path(sys.executable).with_name("temporal")
_PATIENCE: Final = 200.0


@dataclass
class Server:
    """Temporal's development server on one file, with one partition per queue, as a rate over all workers needs."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Its address."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on the file of an earlier process."""
        one = [f"matching.numTaskqueue{kind}Partitions=1" for kind in ("Read", "Write")]
        options = [word for value in one for word in ("--dynamic-config-value", value)]
        place = ["--port", str(self.port), "--db-filename", str(self.folder / "temporal.db")]
        self.process = subprocess.Popen(
            [str(TEMPORAL), "server", "start-dev", "--headless", "--log-level", "error", *place, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            time.sleep(0.1)
        raise AssertionError("the Temporal server does not listen")

    def kill(self) -> None:
        """SIGKILL it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@contextmanager
def temporal_server(folder: Path) -> Iterator[Server]:
    """Serve until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(folder, port)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@dataclass
class Stage:
    """The environment of one test: a folder, a node's url, and a Temporal server."""

    folder: Path
    url: str
    server: Server
    workers: list[subprocess.Popen[str]] = field(default_factory=list)
    login: dict[str, str] = field(default_factory=dict)
    """Other credentials than the node's session."""
    others: dict[str, str] = field(default_factory=dict)
    """More settings."""

    @property
    def settings(self) -> dict[str, str]:
        """Return the environment of command and workers."""
        found = environment(self.url) | {"TEMPORAL_ADDRESS": self.server.address} | self.others
        if self.login:
            del found["ZSTACK_SESSION_ID"]
        return found | self.login

    def work(self, *, rate: str = "100/s", share: str = "1/1") -> subprocess.Popen[str]:
        """Start a worker and return it once it is ready."""
        said = self.folder / f"worker-{len(self.workers)}.log"
        with said.open("w", encoding="utf-8") as log:
            worker = subprocess.Popen(
                [*ZCLONE, "worker", "--rate", rate, "--share", share, "--metrics-file", said.with_suffix(".prom").name],
                cwd=self.folder,
                env=self.settings,
                stderr=log,
                text=True,
            )
        self.workers.append(worker)
        until = time.monotonic() + _PATIENCE
        while "ready:" not in said.read_text(encoding="utf-8"):
            assert worker.poll() is None, said.read_text(encoding="utf-8")
            assert time.monotonic() < until
            time.sleep(0.05)
        return worker

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command."""
        ours = ("ZSTACK_", "TEMPORAL_", "ZCLONE_")
        settings = {name: value for name, value in self.settings.items() if name.startswith(ours)}
        return start(list(arguments), cwd=self.folder, url=self.url, settings=settings)

    def run(self, *arguments: str, timeout: float = 250) -> tuple[int, str]:
        """Run the command to its end; return its exit code and its output."""
        process = self.start(*arguments)
        _, err = process.communicate(timeout=timeout)
        return process.returncode, err

    def run_job(self, *arguments: str) -> tuple[int, str]:
        """Run the folder's job on Temporal."""
        return self.run("run", "job.yaml", "--engine", "temporal", "--progress", "none", *arguments)

    def start_job(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the folder's job on Temporal."""
        return self.start("run", "job.yaml", "--engine", "temporal", "--progress", "none", *arguments)

    def wait_for(self, clones: int, *, manifest: str = "job.manifest.jsonl", patience: float = _PATIENCE) -> None:
        """Return once so many clones are recorded."""
        until = time.monotonic() + patience
        path = self.folder / manifest
        while not path.exists() or len(re.findall(rb'"state":"cloned"', path.read_bytes())) < clones:
            assert time.monotonic() < until, "the run does not get on"
            time.sleep(0.05)

    def end(self) -> None:
        """End the workers cleanly, and the remaining ones by force."""
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            try:
                worker.wait(timeout=200)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def faults(folder: Path, text: str = FAULTS) -> str:
    """Write a script of faults and return its name."""
    path = folder / "faults.yaml"
    path.write_text(text, encoding="utf-8")
    return path.name


@contextmanager
def staged(folder: Path, url: str, server: Server) -> Iterator[Stage]:
    """Run the stage, and end its workers after the block."""
    stage = Stage(folder, url, server)
    try:
        yield stage
    finally:
        stage.end()
