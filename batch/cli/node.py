"""The embedded node: as the child of a rehearsal, and as the command ``zclone simulate``."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import batch
from batch.cli import options
from batch.errors import UsageError, ZcloneError

if TYPE_CHECKING:
    from batch.simulator.options import NodeOptions

_CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Running:
    """Where an embedded node listens, and how it is opened: by a session, or by an account that outlives sessions."""

    url: str
    session: str
    account: str
    password: str = field(repr=False)


@contextmanager
def embedded_node(*, faults: str, state: Path) -> Iterator[Running]:
    """Run a node as a child process. Raises ZcloneError where it does not start.

    Its stdin is its life line: whatever ends this process ends the node. It has its own session, so that a Ctrl-C of
    the terminal reaches the run only, which then settles what the node still holds.
    """
    arguments = ["simulate", "--port", "0", "--faults", faults, "--state", str(state), "--until-stdin-closes"]
    node = subprocess.Popen(  # noqa: S603 - our own interpreter and module # nosec B603
        [sys.executable, "-P", "-m", "batch", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(),
        start_new_session=True,
    )
    with node:
        try:
            yield _announced(node)
        finally:
            _end(node)


def _announced(node: subprocess.Popen[bytes]) -> Running:
    assert node.stdout is not None
    line = node.stdout.readline()
    if not line:
        raise ZcloneError(f"the embedded node did not start (exit code {node.wait()})")
    said = json.loads(line)
    return Running(said["url"], said["session"], said["account"], said["password"])


def _end(node: subprocess.Popen[bytes]) -> None:
    assert node.stdin is not None
    with suppress(BrokenPipeError):
        node.stdin.close()
    try:
        node.wait(_CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        node.kill()


def child_environment() -> dict[str, str]:
    """Give the node this very code and none of the user's settings."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("ZSTACK_", "ZCLONE_"))}
    code = str(Path(batch.__file__).resolve().parents[1])
    return ours | {"PYTHONPATH": os.pathsep.join(filter(None, (code, ours.get("PYTHONPATH"))))}


def simulate(
    *,
    port: options.Port = 8080,
    host: options.Host = "127.0.0.1",
    faults: options.Faults = "calm",
    state: options.NodeState = None,
    seed: options.Seed = 1,
    until_stdin_closes: options.Lifeline = False,
) -> None:
    """Serve an embedded ZStack node until it is stopped; its first line of output is {"url": ...}.

    GET /__ledger tells what it made and which calls it got. Any source that is cloned is made up.

    FAULTS as a file: version: 1, preset: calm, and faults: [{fault: lost_reply, on: submit, probability: 0.02}, {fault:
    fail, code: SYS.1006, source: UUID, times: 1}]; a word that is unknown is told with those that are known.
    """
    import asyncio

    from batch.simulator.daemon import run_forever
    from batch.simulator.state import StateError

    serving = run_forever(
        fault_options(faults, seed=seed), host=host, port=port, state=state, parent_pipe=until_stdin_closes
    )
    try:
        asyncio.run(serving)
    except StateError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{host}:{port}: {error.strerror or error}") from None


def fault_options(faults: str, *, seed: int | None = None) -> "NodeOptions":
    """Read a preset's name or a fault file. Raises UsageError with the place of what is wrong in it."""
    from batch.simulator.script import ScriptError, load_faults

    try:
        return load_faults(faults, seed=seed)
    except (ScriptError, OSError) as error:
        raise UsageError(str(error)) from None
