"""``zclone demo``: the tool's promise shown in a minute, on an embedded node with faults that survives the kill."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin

from batch.cli.node import Running, child_environment, embedded_node
from batch.cli.terminal import emit, is_terminal, say
from batch.errors import ExitCode, UsageError, ZcloneError
from batch.jobfile import load
from batch.manifest import summary
from batch.model import State
from batch.plan import expand
from batch.report import exit_code
from batch.report.write import write_report

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICES: Final = 150
ARCHITECTURES: Final = ("X86_64", "AARCH64")
TARGETS: Final = SERVICES * len(ARCHITECTURES)
_MANIFEST: Final = "demo.manifest.jsonl"
_COMMAND: Final = ("run", "demo.yaml")
_MOST_RUNS: Final = 4
_GLANCE: Final = 0.1
_STDOUT: Final = 1
_JOB: Final = """\
version: 1
name: demo
limits: {rate: 50/s, concurrency: 24}
targets:
  - from: services.csv                # 150 services on two architectures each
    params: {name: "${title}", cpuArchitectures: ["${arch}"]}
"""
_FAULTS: Final = """\
version: 1
seed: 7
node: {latency: [0.1, 0.6], api_timeout_ms: 5000}
faults:
  - {fault: lost_reply, probability: 0.02}              # made, but nobody hears of it
  - {fault: drop, probability: 0.02}
  - {fault: proxy, probability: 0.01, status: 504, executed: true}
  - {fault: error_500, probability: 0.01}
  - {fault: rate_limited, probability: 0.01, seconds: 1}
  - {fault: purged, probability: 0.01}                  # the api job is forgotten before it is asked about
"""


@dataclass(frozen=True, slots=True)
class Proof:
    """What the node's own books say."""

    made: int
    twice: int
    faults: int


def demo(folder: Path) -> ExitCode:
    """Run the tour in ``folder``, which must not exist. Raises UsageError where it cannot be made."""
    _write_job(folder)
    plan = expand(load(folder / "demo.yaml"), run=None, started_at=time.time())
    say(
        f"1. A job of {plan.count} targets: {SERVICES} services on {' and '.join(ARCHITECTURES)}, in {folder}/demo.yaml"
    )
    say("2. A ZStack node of its own process loses answers, drops connections and forgets jobs.")
    with embedded_node(faults=str((folder / "faults.yaml").resolve()), state=(folder / "node.jsonl").resolve()) as node:
        environment = child_environment() | {"ZSTACK_API_URL": node.url, "ZSTACK_SESSION_ID": node.session}
        say("3. zclone run demo.yaml, killed with SIGKILL halfway:")
        settled = _run_and_kill(folder, environment)
        say(f"\n   killed: {settled} of {plan.count} were settled, others were on their way.")
        say("4. The same command once more: zclone run demo.yaml")
        code = _run_again(folder, environment)
        proof = _proof(node)
    write_report(folder / _MANIFEST, folder / "report.html", at=time.time())
    emit(_ending(folder, proof))
    is_proven = code is ExitCode.OK and (proof.made, proof.twice) == (TARGETS, 0)
    return ExitCode.OK if is_proven else ExitCode.BROKEN


def new_folder(wanted: Path) -> Path:
    """Return ``wanted``, or with a number behind it where that exists."""
    names = (wanted if number == 1 else Path(f"{wanted}-{number}") for number in range(1, 1000))
    return next((path for path in names if not path.exists()), wanted)


def _write_job(folder: Path) -> None:
    try:
        folder.mkdir()
        (folder / "demo.yaml").write_text(_JOB, encoding="utf-8")
        (folder / "faults.yaml").write_text(_FAULTS, encoding="utf-8")
        (folder / "services.csv").write_text("\n".join(_rows()) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror or error}") from None


def _rows() -> Iterator[str]:
    yield "uuid,id,title,arch"
    for number in range(1, SERVICES + 1):
        for architecture in ARCHITECTURES:
            title = f"chat-{number:03}-{architecture.lower()}"
            yield f"{number:012x}4a1b8c2d{number:012x},{title},{title},{architecture}"


def _start(folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module # nosec B603
        [sys.executable, "-P", "-m", "batch", *_COMMAND], cwd=folder, env=environment, stdin=subprocess.DEVNULL
    )


def _run_and_kill(folder: Path, environment: dict[str, str]) -> int:
    """Start a run and kill it once half of the targets are settled; return how many were."""
    run = _start(folder, environment)
    try:
        while run.poll() is None and _settled(folder) < TARGETS // 2:
            time.sleep(_GLANCE)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    if run.returncode != -signal.SIGKILL:
        raise ZcloneError(f"the run ended by itself with exit code {run.returncode}, before it could be killed")
    return _settled(folder)


def _settled(folder: Path) -> int:
    try:
        counts = summary(folder / _MANIFEST).counts
    except ZcloneError:
        # Not there yet, or nothing in it.
        return 0
    return sum(number for state, number in counts.items() if state.is_final)


def _run_again(folder: Path, environment: dict[str, str]) -> ExitCode:
    """Run the same command until there is nothing left to do."""
    for _ in range(_MOST_RUNS):
        run = _start(folder, environment)
        run.wait()
        code = exit_code(summary(folder / _MANIFEST).counts)
        if run.returncode != ExitCode.UNFINISHED:
            return code
    return ExitCode.UNFINISHED


def _proof(node: Running) -> Proof:
    # No proxy of the environment stands between this machine and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urljoin(node.url, "/__ledger"), timeout=10) as reply:
        books: dict[str, Any] = json.load(reply)
    clones = [clone for clone in books["clones"] if not clone["deleted"]]
    kinds = {(clone["source"], clone["name"]) for clone in clones}
    return Proof(len(kinds), len(clones) - len(kinds), sum(books["faults"].values()))


def _ending(folder: Path, proof: Proof) -> list[str]:
    counts = summary(folder / _MANIFEST).counts
    report = (folder / "report.html").resolve()
    shown = f"\x1b]8;;{report.as_uri()}\x1b\\{report}\x1b]8;;\x1b\\" if is_terminal(_STDOUT) else str(report)
    return [
        f"The node's ledger: {proof.made} made, {proof.twice} twice, through {proof.faults} faults and one SIGKILL.",
        f"The manifest: {counts[State.CLONED]} of {counts.total()} cloned: {folder / _MANIFEST}",
        f"The report: {shown}",
        f"Next: zclone init my.yaml; or look closer: {shlex.join(['zclone', 'status', str(folder / _MANIFEST)])}",
    ]
