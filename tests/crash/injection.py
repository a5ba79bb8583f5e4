"""One system call of the real command made to fail, or made its last, by strace."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import pytest

from batch.manifest import rows
from batch.model import Record
from tests import forkserver
from tests.crash.stage import NodeProcess, environment, finish
from tests.manifest.manifest_world import scan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

TARGETS: Final = 12
MANIFEST: Final = "job.manifest.jsonl"
RUN: Final = ["run", "job.yaml", "--progress", "none"]
QUICK: Final = "version: 1\nnode: {latency: [0, 0.01]}\n"
JOB: Final = "version: 1\nname: strace\nlimits: {rate: 500/s, concurrency: 3}\ntargets:\n"
_LATER: Final = 2400.0
"""More seconds than an api job may take."""
_UNFINISHED: Final = "<unfinished ...>"
PROBE: Final = "import os; os.fsync(os.open('.', os.O_RDONLY))"


class Fault(StrEnum):
    """What happens at the call, in strace's syntax."""

    KILL = "signal=SIGKILL"
    EIO = "error=EIO"
    ENOSPC = "error=ENOSPC"
    LIE = "retval=40"
    """40 bytes are reported as written that never reach the disk."""
    NONE_TAKEN = "retval=0"
    """A socket that accepts no byte this time."""


class Where(StrEnum):
    """Which of the process's calls are counted."""

    DISK = "disk"
    """Those on the manifest, by any thread."""
    NETWORK = "network"
    """Those of the event loop's thread, which are the sockets'."""


@dataclass(frozen=True, slots=True)
class Point:
    """The ``when``-th ``call`` gets the ``fault``."""

    where: Where
    call: str
    fault: Fault
    when: int

    @property
    def name(self) -> str:
        """For the test's id."""
        return f"{self.call}-{self.fault.name.lower()}-{self.when}"

    def number(self) -> int:
        """Different for each point, so that each has its own uuids."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:5])


def require_strace(folder: Path) -> None:
    """Skip if there is no strace or tracing is not allowed."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (Debian: apt-get install strace)")
    probe = ["strace", "-o", "/dev/null", "-e", "inject=fsync:error=EIO", sys.executable, "-c", PROBE]
    if b"Input/output error" not in subprocess.run(probe, capture_output=True, cwd=folder, check=False).stderr:
        pytest.skip("this machine does not let strace trace (ptrace is refused)")


@dataclass(frozen=True, slots=True)
class Scene:
    """A point's own folder and sources on a node that all points share."""

    point: Point
    folder: Path
    node: NodeProcess

    def sources(self) -> list[str]:
        return [f"{self.point.number():012x}4000a{number:015x}" for number in range(1, TARGETS + 1)]

    def write_job(self) -> None:
        lines = "".join(f"  - {{uuid: {uuid}, params: {{name: n-{uuid[-3:]}}}}}\n" for uuid in self.sources())
        (self.folder / "job.yaml").write_text(JOB + lines, encoding="utf-8")

    def inject(self, *command: str) -> int:
        """Run the command, by default the job, into the point; return its exit code and leave the trace."""
        point = self.point
        only = ["-P", str(self.folder / MANIFEST), "-P", str(self.folder)]
        aim = {
            (Where.DISK, True): ["-f", *only],
            # Without -P the trace has the POSTs too, in their order.
            (Where.DISK, False): ["-f"],
            (Where.NETWORK, True): [],
            (Where.NETWORK, False): [],
        }[point.where, point.fault in {Fault.KILL, Fault.LIE}]
        calls = f"trace=sendto,{point.call}"
        strace = ["strace", "-y", "-ttt", "-s", "8", "-o", "trace.txt", "-e", calls, *aim]
        inject = f"inject={point.call}:{point.fault}:when={point.when}"
        begin = self.folder / "begin"
        os.mkfifo(begin)
        # asyncio's own loop: its socket calls are sendto and recvfrom.
        env = environment(self.node.url) | {"BEGINS_AT": str(begin), "LACKS": "uvloop"}
        with forkserver.start_text(command or RUN, cwd=self.folder, env=env) as process:
            attach = [*strace, "-e", inject, "-p", str(process.pid)]
            with subprocess.Popen(attach, cwd=self.folder, stderr=subprocess.PIPE, text=True) as tracer:
                assert tracer.stderr is not None
                assert " attached" in tracer.stderr.readline()
                begin.open("w").close()
                _, output = process.communicate(250)
                tracer.communicate(timeout=250)
        (self.folder / "output.txt").write_text(output, encoding="utf-8")
        return process.wait()

    def run(self, *, later: float = 0.0) -> int:
        """Run without a fault; ``later``: seconds by which the wall clock is ahead."""
        flag = self.folder / "clock"
        flag.touch()
        return self.zclone(*RUN, env={"CLOCK_JUMPS": str(later), "CLOCK_FLAG": str(flag)} if later else {})

    def zclone(self, *arguments: str, env: dict[str, str] | None = None) -> int:
        """Run a command without a fault."""
        code, _, output = finish(list(arguments), cwd=self.folder, url=self.node.url, env=env)
        (self.folder / "output.txt").write_text(output, encoding="utf-8")
        return code

    def output(self) -> str:
        return (self.folder / "output.txt").read_text(encoding="utf-8")

    def trace(self) -> list[str]:
        """Return the calls in the order of their ends, interrupted ones joined again."""
        return list(_whole((self.folder / "trace.txt").read_text(encoding="utf-8").splitlines()))

    def ledger(self) -> list[dict[str, Any]]:
        """Return the clones of this point's sources."""
        mine = set(self.sources())
        return [clone for clone in self.node.ledger()["clones"] if clone["source"] in mine]

    def posted(self) -> set[str]:
        """Return those of this point's sources that were ever POSTed."""
        return set(self.node.ledger()["posts_per_source"]) & set(self.sources())

    def recorded(self) -> set[str]:
        """Return the sources with a recorded attempt."""
        manifest = self.folder / MANIFEST
        if not manifest.stat().st_size:
            return set()
        return {record.key for record in scan(manifest) if isinstance(record, Record) and record.attempt}

    def settle(self) -> int:
        """Rerun the same command until it exits with 0 or 3; repair what a lying disk damaged as the message says.

        A visible clone whose job was on lost lines counts once the time of that job is over: the clock is set ahead.
        """
        code = self.run()
        for _ in range(5):
            if code in {0, 3}:
                break
            if code == 1:
                self.repair()
            code = self.run(later=_LATER if self.point.fault is Fault.LIE else 0.0)
        return code

    def repair(self) -> None:
        """Do what the refusal asks for: repair, or move a file away whose header is lost."""
        assert self.point.fault is Fault.LIE, self.output()
        manifest, repaired = self.folder / MANIFEST, self.folder / "job.repaired.manifest.jsonl"
        repaired.unlink(missing_ok=True)
        if self.zclone("repair", MANIFEST) == 0:
            repaired.replace(manifest)
        else:
            manifest.unlink()

    def check(self) -> None:
        """Compare ledger and manifest: none duplicated, none lost, none made up."""
        made = {clone["uuid"]: clone["source"] for clone in self.ledger()}
        assert sorted(made.values()) == self.sources()
        listed = list(rows(self.folder / MANIFEST))
        assert {str(row.state) for row in listed} == {"cloned"}
        assert {row.clone_uuid: row.source_uuid for row in listed} == made


def _whole(lines: Iterable[str]) -> Iterator[str]:
    begun: dict[str, str] = {}
    for line in lines:
        thread = line.split(" ", 1)[0]
        if line.endswith(_UNFINISHED):
            begun[thread] = line.removesuffix(_UNFINISHED)
        elif "<... " in line:
            yield begun.pop(thread) + line.partition(" resumed>")[2]
        else:
            yield line


def is_hit(scene: Scene, code: int) -> bool:
    """Return whether the point was reached: a check that was never made must not pass."""
    if scene.point.fault is Fault.KILL:
        return code == -9
    return any("(INJECTED)" in line for line in scene.trace())


def posts_after_failure(trace: Iterable[str]) -> list[float]:
    """Return the seconds from the injected failure of the manifest to each later POST."""
    lines = iter(trace)
    failed = next(line for line in lines if _is_failure(line))
    return [_at(line) - _at(failed) for line in lines if re.search(r'sendto\(.*"POST', line)]


def _at(line: str) -> float:
    """Return when the call began, in seconds since the epoch."""
    return float(line.split()[1])


def failures(trace: Iterable[str]) -> int:
    """Return how often the manifest's call was made to fail."""
    return sum(map(_is_failure, trace))


def _is_failure(line: str) -> bool:
    """Return whether the line is a failure of the manifest: a line of the log, which is a pipe, may fail too."""
    return "(INJECTED)" in line and "<pipe:" not in line
