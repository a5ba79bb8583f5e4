"""The embedded node, which simulates ZStack: the child process of a rehearsal, or ``zclone simulate``.

In a rehearsal it is a process of its own so that it survives Ctrl-C while clones settle, ends with its parent by way of
a pipe, and is reached over a real socket.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch import outputs
from batch.app.messages import say
from batch.app.options import PRESETS
from batch.errors import UsageError, ZcloneError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.simulator.options import NodeOptions

_CLOSE_SECONDS = 10.0
_OF_A_PROGRAM: Final = re.compile(r"PATH|LANG|LC_[A-Z]+|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHON[A-Z]+|COVERAGE_[A-Z_]+")


@dataclass(frozen=True, slots=True)
class EmbeddedNode:
    """Address and credentials of an embedded node: a session, and an account that outlives sessions."""

    url: str
    session: str
    account: str
    password: str = field(repr=False)
    token: str = field(repr=False)
    """Token for the ledger."""


@contextmanager
def embedded_node(environ: Mapping[str, str], *, faults: str, state: Path) -> Iterator[EmbeddedNode]:
    """Run a node as a child process. Raises ZcloneError if it does not start.

    The node ends when its stdin closes, and so with this process. It runs in its own session, so that Ctrl-C reaches
    only the run, which then settles the clones in flight.
    """
    node = subprocess.Popen(  # noqa: S603 - our own interpreter and module # nosec B603
        [sys.executable, "-P", "-m", "batch.simulator", faults, str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(environ),
        start_new_session=True,
    )
    with node:
        try:
            yield _read_address(node)
        finally:
            _end(node)


def node_state(manifest: Path) -> Path:
    """Return the state file of a rehearsal's node, beside the manifest. Raises UsageError if that is a folder."""
    return outputs.beside(manifest, ".node.jsonl")


def _read_address(node: subprocess.Popen[bytes]) -> EmbeddedNode:
    assert node.stdout is not None
    line = node.stdout.readline()
    if not line:
        raise ZcloneError(f"the embedded node did not start (exit code {node.wait()})")
    said = json.loads(line)
    if "error" in said:
        raise ZcloneError(f"the embedded node did not start: {said['error']}")
    return EmbeddedNode(said["url"], said["session"], said["account"], said["password"], said["token"])


def _end(node: subprocess.Popen[bytes]) -> None:
    assert node.stdin is not None
    with suppress(BrokenPipeError):
        node.stdin.close()
    try:
        node.wait(_CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        node.kill()


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a child that runs this code, with only the variables that Python needs."""
    ours = {name: value for name, value in environ.items() if _OF_A_PROGRAM.fullmatch(name)}
    code = str(Path(__file__).resolve().parents[2])
    return ours | {"PYTHONPATH": os.pathsep.join(filter(None, (code, ours.get("PYTHONPATH"))))}


def require_faults(faults: str) -> None:
    """Raise UsageError if ``faults`` is neither the name of a preset nor a valid fault file."""
    if faults not in PRESETS:
        fault_options(faults)


def fault_options(faults: str, *, seed: int | None = None) -> NodeOptions:
    """Return the options of a preset or a fault file. Raises UsageError with the position of an error in it."""
    from batch.simulator.script import ScriptError, load_faults

    try:
        return load_faults(faults, seed=seed)
    except (ScriptError, OSError) as error:
        raise UsageError(str(error)) from None


def serve_node(
    host: str, port: int, faults: str, *, state: Path | None, seed: int, sources: int, hooks_anywhere: bool
) -> None:
    """Serve an embedded node until it is stopped. Raises UsageError.

    ``faults``: a preset or a file; ``state``: file that keeps its clones; ``sources``: number of made-up services.
    """
    import asyncio

    from batch.simulator.__main__ import run_forever
    from batch.simulator.options import made_up_sources
    from batch.simulator.state import StateError
    from batch.simulator.wire import is_loopback

    if not is_loopback(host):
        say(f"warning: others can use this node at {host}; its random session and password are in the first line")
    if state is not None and faults not in PRESETS:
        outputs.require_distinct([outputs.NamedFile("--state", state)], [outputs.NamedFile("--faults", Path(faults))])
    node = fault_options(faults, seed=seed)
    given = (*node.sources, *made_up_sources(sources))
    node = replace(node, sources=given, hooks_anywhere=hooks_anywhere or node.hooks_anywhere)
    try:
        asyncio.run(run_forever(node, host=host, port=port, state=state))
    except StateError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{host}:{port}: {error.strerror or error}") from None
