"""Contenders and the light server as processes, each half on its own core, and their cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.crash.stage import ZCLONE, environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LAUNCHER = Path(__file__).with_name("launcher.py")
_EXTRAS = ("uvloop", "orjson")


@dataclass(frozen=True, slots=True)
class ProcessCost:
    """The cost of a process and of the children it waited for."""

    seconds: float
    processor: float
    """Seconds of processor time."""
    peak_mib: float
    exit_code: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What the light server measured, in seconds of its own clock."""

    posts: int
    polls: int
    seconds: float
    """From the first POST to the last."""
    makespan: float
    """From the first POST to the last answer that ended a clone."""
    drawn: float
    """Length of all api jobs together."""
    late: list[float]
    """From the end of each api job to the poll that reported it, sorted."""
    processor: float
    """Processor time of the server: near ``seconds``, the server was the slow half."""

    @property
    def rate(self) -> float:
        """POSTs a second."""
        return (self.posts - 1) / self.seconds


@dataclass(frozen=True, slots=True)
class LightServer:
    """A running light server."""

    url: str

    def figures(self) -> Figures:
        """Query all counts."""
        with urllib.request.urlopen(self.url.removesuffix("/zstack") + "/__figures", timeout=60) as answer:
            return Figures(**json.load(answer))


@contextmanager
def light_server(*numbers: float) -> Iterator[LightServer]:
    """Serve on the last core until the end of the block; ``numbers`` are the server's own arguments."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.stage.light_server", *map(str, numbers)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    if core := _core(-1):
        os.sched_setaffinity(process.pid, {int(core)})
    try:
        assert process.stdout is not None
        yield LightServer(f"http://127.0.0.1:{int(process.stdout.readline())}/zstack")
    finally:
        process.kill()
        process.communicate()


def settings(folder: Path, url: str | None = None, *, extras: bool = True) -> dict[str, str]:
    """Return the environment of a process; without ``extras`` the imports of the extra [speed] fail in it."""
    made = environment(url)
    if not extras:
        hidden = folder / "without-extras"
        hidden.mkdir(exist_ok=True)
        for name in _EXTRAS:
            (hidden / f"{name}.py").write_text("raise ImportError('switched off')\n", encoding="utf-8")
        made["PYTHONPATH"] = f"{hidden}{os.pathsep}{made['PYTHONPATH']}"
    return made


def spend(command: Sequence[str], *, cwd: Path, env: dict[str, str], expected: int | None = 0) -> ProcessCost:
    """Run a command on the first core to its end; its stderr is kept in ``cwd``/stderr.

    Raises RuntimeError where it exits with another code than ``expected``; None: with any.
    """
    launcher = [sys.executable, "-S", str(_LAUNCHER), "stderr", _core(0), *command]
    done = subprocess.run(launcher, cwd=cwd, env=env, stdout=subprocess.PIPE, check=True)
    cost = ProcessCost(*json.loads(done.stdout))
    if expected is not None and cost.exit_code != expected:
        output = (cwd / "stderr").read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{command} left with {cost.exit_code}: {output}")
    return cost


def zclone(*arguments: str) -> list[str]:
    """Return the command line."""
    return [*ZCLONE, *arguments]


def run_job(*more: str, manifest: str = "manifest.jsonl") -> list[str]:
    """Return the command line of a run of job.yaml without a live view."""
    return zclone("run", "job.yaml", "--manifest", manifest, "--progress", "none", *more)


def _core(which: int) -> str:
    """Name the core for one half of a benchmark; nothing where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return str(cores[which]) if len(cores) > 1 else ""
