"""``zclone demo``: exactly-once cloning on an embedded node, despite faults and a SIGKILL."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin

from batch import outputs
from batch.app.embedded_node import EmbeddedNode, child_environment, embedded_node
from batch.app.messages import language, say
from batch.app.run_access import VerifyOptions
from batch.app.verify import VerifyResult, verify_run
from batch.errors import ExitCode, UsageError, ZcloneError
from batch.jobfile import load
from batch.manifest import summary
from batch.model import State
from batch.plan import Planning
from batch.report.figures import exit_code
from batch.report.proof import check_proof
from batch.report.verification import Verdict
from batch.report.write import write_report
from batch.settings.sources import EndpointOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SERVICES: Final = 150
ARCHITECTURES: Final = ("X86_64", "AARCH64")
TARGETS: Final = SERVICES * len(ARCHITECTURES)
_MANIFEST: Final = "demo.manifest.jsonl"
_COMMAND: Final = ("run", "demo.yaml")
_MAX_RUNS: Final = 4
_GLANCE: Final = 0.1
_JOB: Final = """\
version: 1
name: demo
tag: true
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
  - {fault: lost_reply, probability: 0.02}              # made, but the answer is lost
  - {fault: drop, probability: 0.02}
  - {fault: proxy, probability: 0.01, status: 504, executed: true}
  - {fault: error_500, probability: 0.01}
  - {fault: rate_limited, probability: 0.01, seconds: 1}
  - {fault: purged, probability: 0.01}                  # the api job is purged before it is polled
"""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """Result of the demo."""

    lines: tuple[str, ...]
    """Counts from the node's ledger and the manifest."""
    is_proven: bool
    """Whether each target was cloned exactly once."""
    manifest: Path
    report: Path


def run_demo(folder: Path, environ: Mapping[str, str]) -> Demonstration:
    """Run the demo in ``folder``, which must not exist. Raises UsageError if it cannot be created."""
    _write_job(folder)
    plan = Planning(load(folder / "demo.yaml"), run=None, started_at=time.time()).plan()
    say(
        f"1. A job of {plan.count} targets: {SERVICES} services on {' and '.join(ARCHITECTURES)}, in {folder}/demo.yaml"
    )
    say("2. An embedded ZStack node in a process of its own loses answers, drops connections and forgets jobs.")
    faults, state = str((folder / "faults.yaml").resolve()), (folder / "node.jsonl").resolve()
    with embedded_node(environ, faults=faults, state=state) as node:
        environment = child_environment(environ) | {"ZSTACK_API_URL": node.url, "ZSTACK_SESSION_ID": node.session}
        say("3. zclone run demo.yaml, killed with SIGKILL halfway:")
        settled = _run_and_kill(folder, environment)
        say(f"\n   killed: {settled} of {plan.count} had settled, others were in flight.")
        say("4. The same command once more: zclone run demo.yaml")
        code = _run_again(folder, environment)
        made, twice, faults_made = _read_ledger(node)
        manifest, report, proof = folder / _MANIFEST, folder / "report.html", folder / "proof.json"
        say("5. zclone verify demo.yaml --proof proof.json: every clone read back, and compared with the job file")
        endpoint = EndpointOptions(environment)
        found = verify_run(VerifyOptions(folder / "demo.yaml", endpoint, manifest=manifest, proof=proof), _keep).found
    write_report(manifest, report, at=time.time(), language=language(environ))
    counts = summary(manifest).counts
    lines = (
        f"The node's ledger: {made} made, {twice} twice, through {faults_made} faults and one SIGKILL.",
        f"The manifest: {counts[State.CLONED]} of {counts.total()} cloned: {manifest}",
        f"On the server: {found.counts[Verdict.IN_SYNC]} in sync, {found.counts[Verdict.DUPLICATE]} duplicates.",
        f"The proof: {check_proof(proof, manifest)}",
    )
    is_proven = code is ExitCode.OK is found.exit_code and (made, twice) == (TARGETS, 0)
    return Demonstration(lines, is_proven, manifest, report)


def _keep(_verified: VerifyResult) -> bool:
    """Record nothing."""
    return False


def new_folder(wanted: Path) -> Path:
    """Return ``wanted``, with a number appended if it exists."""
    names = (wanted if number == 1 else Path(f"{wanted}-{number}") for number in range(1, 1000))
    return next((path for path in names if not path.exists()), wanted)


def _write_job(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror or error}") from None
    outputs.write_new(folder / "demo.yaml", _JOB, mode=outputs.PUBLIC)
    outputs.write_new(folder / "faults.yaml", _FAULTS, mode=outputs.PUBLIC)
    outputs.write_new(folder / "services.csv", "\n".join(_rows()) + "\n", mode=outputs.PUBLIC)


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
    """Start a run and kill it once half of the targets are settled; return how many were settled."""
    run = _start(folder, environment)
    try:
        while run.poll() is None and _count_settled(folder) < TARGETS // 2:
            time.sleep(_GLANCE)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    if run.returncode != -signal.SIGKILL:
        raise ZcloneError(f"the run ended with exit code {run.returncode} before it could be killed")
    return _count_settled(folder)


def _count_settled(folder: Path) -> int:
    try:
        counts = summary(folder / _MANIFEST).counts
    except ZcloneError:
        # The file does not exist yet, or is empty.
        return 0
    return sum(number for state, number in counts.items() if state.is_final)


def _run_again(folder: Path, environment: dict[str, str]) -> ExitCode:
    """Repeat the same command until nothing is left to do."""
    for _ in range(_MAX_RUNS):
        run = _start(folder, environment)
        run.wait()
        code = exit_code(summary(folder / _MANIFEST).counts)
        if run.returncode != ExitCode.UNFINISHED:
            return code
    return ExitCode.UNFINISHED


def _read_ledger(node: EmbeddedNode) -> tuple[int, int, int]:
    """Return the number of clones made, of duplicates, and of faults injected."""
    # Ignore proxy settings of the environment for loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(urljoin(node.url, "/__ledger"), headers={"X-Node-Token": node.token})  # noqa: S310 - http: the node's own
    with opener.open(request, timeout=10) as reply:
        books: dict[str, Any] = json.load(reply)
    clones = [clone for clone in books["clones"] if not clone["deleted"]]
    kinds = {(clone["source"], clone["name"]) for clone in clones}
    return len(kinds), len(clones) - len(kinds), sum(books["faults"].values())
