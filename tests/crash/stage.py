"""Real processes on a real socket: an embedded node that outlives the command, and the command to be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import forkserver
from tests.nodes import announced, ledger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.forkserver import Process

SESSION = "b86c9016b4f24953a9edefb53ca0678c"
ZCLONE = [sys.executable, "-m", "batch"]


@dataclass
class NodeProcess:
    """A served node."""

    url: str
    process: Process[bytes] | subprocess.Popen[bytes]

    def ledger(self) -> dict[str, Any]:
        """Return all of the node's counts, by its own clock."""
        read: dict[str, Any] = ledger(self.url)
        return read


@contextmanager
def node(faults: str, *, seed: int = 1, cwd: Path) -> Iterator[NodeProcess]:
    """Serve a node with ``faults`` until the end of the block."""
    arguments = ["simulate", "--port", "0", "--faults", faults, "--seed", str(seed)]
    process = forkserver.start(arguments, cwd=cwd, env=environment(), stderr="inherited")
    try:
        yield NodeProcess(announced(process.stdout.readline()), process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def environment(url: str | None = None) -> dict[str, str]:
    """Return the settings of a run against ``url`` and no other ZSTACK variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZSTACK_", "ZCLONE_"))}
    root = Path(__file__).resolve().parents[2]
    kept["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "tests" / "confined")])
    if url is not None:
        kept |= {"ZSTACK_API_URL": url, "ZSTACK_SESSION_ID": SESSION}
    return kept


def start(
    arguments: list[str], *, cwd: Path, url: str | None, settings: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start the command with its output captured; ``settings`` replace the node's session."""
    env = environment(url)
    if settings is not None:
        del env["ZSTACK_SESSION_ID"]
        env |= settings
    return subprocess.Popen(
        [*ZCLONE, *arguments],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(
    arguments: list[str], *, cwd: Path, url: str | None, timeout: float = 250, env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Run the command to its end; ``env``: further variables."""
    done = forkserver.run(arguments, cwd=cwd, env=environment(url) | (env or {}), timeout=timeout)
    return done.returncode, done.stdout, done.stderr


def kill_after(arguments: list[str], seconds: float, *, cwd: Path, url: str) -> None:
    """SIGKILL the command after ``seconds``, unless it ended before."""
    process = forkserver.start_text(arguments, cwd=cwd, env=environment(url))
    time.sleep(seconds)
    process.kill()
    process.communicate()


def write_job(folder: Path, count: int, **limits: object) -> Path:
    """Write a job of ``count`` targets with distinct names."""
    rows = "\n".join(
        json.dumps({"uuid": f"{number:032x}", "params": {"name": f"clone-{number}", "requestCpu": 4}})
        for number in range(1, count + 1)
    )
    (folder / "targets.jsonl").write_text(rows + "\n", encoding="utf-8")
    job = folder / "job.yaml"
    fields = "".join(f"  {name}: {value}\n" for name, value in limits.items())
    job.write_text(
        f"version: 1\nname: crash\nlimits:\n{fields}targets:\n  - from: targets.jsonl\n",
        encoding="utf-8",
    )
    return job


def rows(manifest: str, *, cwd: Path) -> list[dict[str, Any]]:
    """Return the rows of ``zclone list`` for a manifest."""
    code, out, err = finish(["list", manifest, "-o", "json"], cwd=cwd, url=None)
    assert code == 0, err
    listed: list[dict[str, Any]] = json.loads(out)
    return listed
