"""What commands do not import: each starts without the libraries that only others need."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MANIFEST: Final = "job.simulated.manifest.jsonl"
KEY: Final = f"{1:012x}4aaa8{1:015x}"
_COMMAND: Final = """
import json, sys
from batch.cli.app import run_command
code = run_command(sys.argv[1:])
json.dump(sorted(sys.modules), open("modules.json", "w"))
sys.exit(code)
"""
_NOTHING: Final = """
import json, sys
json.dump(sorted(sys.modules), open("modules.json", "w"))
"""
_NODE: Final = """
import json, sys
from batch.simulator import __main__
json.dump(sorted(sys.modules), open("modules.json", "w"))
"""

NETWORK: Final = frozenset(
    ["aiohttp", "asyncio", "batch.zstack.client", "batch.engine", "batch.simulator", "batch.temporal", "temporalio"]
)
LOG: Final = NETWORK | {"structlog", "rich", "batch.log", "batch.progress", "opentelemetry"}
JOB: Final = LOG | {"yaml", "pydantic", "openpyxl", "batch.jobfile", "batch.plan", "batch.settings.reader"}
ANY: Final = JOB | {"batch.manifest", "batch.report", "batch.zstack"}
"""Each list includes those before it."""

ABSENT: Final[dict[str, frozenset[str]]] = {
    "--version": ANY,
    "--help": ANY,
    "run --help": ANY,
    f"status {MANIFEST}": JOB,
    "status job.yaml": JOB,
    f"list {MANIFEST}": JOB,
    f"list {MANIFEST} --shard 0/2 -o csv": JOB,
    f"report {MANIFEST} -o html": JOB,
    f"report {MANIFEST} --out report.csv": JOB,
    "runs job.yaml": JOB,
    f"repair {MANIFEST}": JOB,
    # It reads the job file, to say which layer set each parameter.
    f"show {MANIFEST} {KEY}": LOG,
    "validate job.yaml": LOG,
    "schema": LOG,
    "init other.yaml": LOG,
    "run --simulate --run other job.yaml": frozenset(
        ["aiohttp.web", "openpyxl", "batch.simulator", "batch.temporal", "temporalio", "opentelemetry.sdk"]
    ),
}
"""The modules and packages that each command does not import."""
OF_COMMANDS: Final = frozenset(
    ["typer", "rich", "structlog", "pydantic", "batch.cli", "batch.app", "batch.engine", "batch.manifest"]
)


def imported(code: str, arguments: Sequence[str], folder: Path, env: dict[str, str]) -> set[str]:
    """Return the modules that a new interpreter has imported at exit."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    return set(found)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a job, whose manifest the first test makes."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "job.yaml").write_text(f"version: 1\nname: job\ntargets: [{{uuid: {KEY}}}]\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("line", ABSENT)
def test_a_command_imports_only_what_it_needs(line: str, finished: Path, child_env: dict[str, str]) -> None:
    """No command imports a listed module, except those the interpreter has at its start."""
    if not (finished / MANIFEST).exists():
        imported(_COMMAND, ["run", "--simulate", "job.yaml"], finished, child_env)
    # A variable of a flag is read by every command.
    env = child_env | {"ZCLONE_RATE": "100/s"}
    found = imported(_COMMAND, line.split(), finished, env) - imported(_NOTHING, [], finished, env)
    assert sorted(found & ABSENT[line]) == []


def test_the_embedded_node_of_a_run_is_no_command(tmp_path: Path, child_env: dict[str, str]) -> None:
    """The child of a rehearsal imports nothing that only commands need."""
    found = imported(_NODE, [], tmp_path, child_env) - imported(_NOTHING, [], tmp_path, child_env)
    assert "aiohttp.web" in found
    assert sorted(found & OF_COMMANDS) == []
