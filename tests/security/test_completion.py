"""TAB in real shells: the author of a manifest cannot run anything, and harmless keys are completed all the same."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import pytest

from batch.manifest import Header
from batch.manifest.kinds import PlanLine
from batch.manifest.records import encode_plan, encode_planned, encode_record
from batch.model import Record, State
from tests.security.test_shown_text import sealed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHELLS: Final = {
    "zsh": ["zsh", "-f", "-i"],
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
SET_UP: Final = {
    "zsh": 'autoload -Uz compinit; compinit -u -D; eval "$(_ZCLONE_COMPLETE=source_zsh zclone)"',
    "bash": "bind 'set enable-bracketed-paste off'; eval \"$(_ZCLONE_COMPLETE=source_bash zclone)\"",
    "fish": "_ZCLONE_COMPLETE=source_fish zclone | source",
}
PAYLOADS: Final = (
    "$(touch PWNED)",
    '"$(touch PWNED)"',
    '"\\$(touch PWNED)"',
    '\\"$(touch PWNED)\\"',
    "\\$(touch PWNED)",
    "\\\\$(touch PWNED)",
    "`touch PWNED`",
    "\\`touch PWNED\\`",
    "'$(touch PWNED)'",
    "'`touch PWNED`'",
    "x;touch PWNED;",
    "x\ntouch PWNED\n",
    "))';touch PWNED;'((",
    "\"))';touch PWNED;'((\"",
    "${(e):-$(touch PWNED)}",
    "<(touch PWNED)",
    "=(touch PWNED)",
    "x:$(touch PWNED)",
    "x[$(touch PWNED)]",
)
"""Each begins a command in some shell at some level of quoting."""
HARMLESS: Final = "safe-1.a:b@c%d+e,f=g[0]"
"""Every character that may be offered."""
MANIFEST: Final = "job.manifest.jsonl"


def write_manifest(folder: Path) -> None:
    """Write a manifest of which all keys and error codes but one of each are payloads."""
    texts = [*PAYLOADS, HARMLESS]
    bodies = [
        Header("job", "default", "http://x", simulated=False, tool="t", created_at=1.0, job_file="job.yaml").body()
    ]
    bodies += [
        encode_planned([(text, "a" * 32) for text in texts]),
        encode_plan(PlanLine("d" * 32, "", len(texts), 1.0)),
    ]
    bodies += [encode_record(Record(State.FAILED, text, 2.0, 1, error_code=text, error="x")) for text in texts]
    (folder / MANIFEST).write_bytes(sealed(bodies))
    (folder / MANIFEST).chmod(0o600)


def settings(folder: Path, child_env: dict[str, str]) -> dict[str, str]:
    """Return an environment in which the shell finds the command under test and no start-up file of a user."""
    command = folder / "bin" / "zclone"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m batch "$@"\n', encoding="utf-8")
    command.chmod(0o700)
    path = os.pathsep.join([str(command.parent), child_env.get("PATH", os.defpath)])
    return child_env | {"PATH": path, "HOME": str(folder), "ZDOTDIR": str(folder), "TERM": "xterm", "PS1": "ready> "}


class Terminal:
    """A shell in its own terminal."""

    def __init__(self, shell: str, folder: Path, env: dict[str, str]) -> None:
        self._screen, theirs = pty.openpty()
        # fish needs a controlling terminal.
        begin = "import os, sys; os.login_tty(0); os.execvp(sys.argv[1], sys.argv[1:])"
        self.shell = subprocess.Popen(
            [sys.executable, "-c", begin, *SHELLS[shell]],
            cwd=folder,
            env=env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        """Type it."""
        os.write(self._screen, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until the shell showed it."""
        seen, give_up = b"", time.monotonic() + 200
        while text.encode() not in seen:
            ready, _, _ = select.select([self._screen], [], [], max(0.0, give_up - time.monotonic()))
            assert ready, f"{text!r} is not shown: {seen!r}"
            seen += os.read(self._screen, 65536)

    def close(self) -> None:
        """End the shell."""
        self.shell.kill()
        self.shell.wait()
        os.close(self._screen)


@pytest.fixture
def terminal(request: pytest.FixtureRequest, tmp_path: Path, child_env: dict[str, str]) -> Iterator[Terminal]:
    """Run a shell that completes zclone, in a folder with a job and a manifest."""
    shell: str = request.getfixturevalue("shell")
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: apt-get install {shell}")
    write_manifest(tmp_path)
    config = "contexts:\n  production: {endpoint: http://z}\n  'x;touch PWNED': {endpoint: http://z}\n"
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    (tmp_path / "job.yaml").write_text("version: 1\n", encoding="utf-8")
    (tmp_path / "job;touch PWNED.yaml").write_text("version: 1\n", encoding="utf-8")
    env = settings(tmp_path, child_env) | {"ZSTACK_CONFIG": str(tmp_path / "config.yaml")}
    found = Terminal(shell, tmp_path, env)
    found.type(f"{SET_UP[shell]}\n")
    found.type("echo prep''ared\n")
    found.wait_for("prepared")
    yield found
    found.close()
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("line", [f"zclone show {MANIFEST} ", "zclone retry job.yaml --code "])
@pytest.mark.parametrize("shell", SHELLS)
def test_tab_runs_nothing(shell: str, line: str, terminal: Terminal) -> None:
    """Whatever keys and codes a manifest has, TAB runs none of them and completes the harmless one."""
    terminal.type(f"{line}\t")
    terminal.wait_for("safe-1")
    terminal.type("\x15echo fini''shed\n")
    terminal.wait_for("finished")


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes_files_contexts_keys_and_formats(shell: str, terminal: Terminal) -> None:
    """Job files, manifests, contexts, keys of a job's runs, formats and examples are completed in each shell."""
    for line, rest in (
        ("zclone run jo", "b.yaml"),
        ("zclone status job.m", "anifest.jsonl"),
        ("zclone run --context pro", "duction"),
        ("zclone show job.yaml safe", "-1.a:b"),
        ("zclone plan job.yaml -o cur", "l"),
        ("zclone init --example mig", "rate"),
        ("zclone run --simulate fl", "aky"),
    ):
        terminal.type("\x15echo ne''xt\n")
        terminal.wait_for("next")
        terminal.type(f"{line}\t")
        terminal.wait_for(line.split()[-1] + rest if rest != "l" else "curl")


@pytest.mark.parametrize("shell", ["complete_bash", "complete_zsh", "complete_fish", "complete_powershell"])
@pytest.mark.parametrize("line", [f"zclone show {MANIFEST} ", "zclone retry job.yaml --code "])
def test_no_shell_is_offered_a_payload(shell: str, line: str, tmp_path: Path, child_env: dict[str, str]) -> None:
    """The answer to any shell has the harmless candidate and none of the others."""
    write_manifest(tmp_path)
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_TYPER_COMPLETE_ARGS": line}
    words |= {"_TYPER_COMPLETE_WORD_TO_COMPLETE": "", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    answer = subprocess.run(
        [sys.executable, "-P", "-m", "batch"],
        cwd=tmp_path,
        env=child_env | words | {"_ZCLONE_COMPLETE": shell},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout
    assert "safe-1" in answer
    assert "touch" not in answer
