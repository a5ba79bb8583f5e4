"""``--help`` and ``zclone help``: what a newcomer reads first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
from typer.main import get_command

from batch.cli.app import EPILOG, app, run_command
from batch.cli.parser import GROUPS

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS: Final[dict[str, Any]] = dict(get_command(app).commands)  # type: ignore[attr-defined]


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run_command([*name.split(), "--help"]) == 0
    return capsys.readouterr().out


def test_options_are_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    """`run` has the option groups What to run, How fast, Output and Server, in this order, and no other."""
    text = help_of("run", capsys)
    heads = re.findall(r"^(\S[^:]*):$", text, re.MULTILINE)
    assert heads == ["Arguments", "What to run", "How fast", "Output", "Server"] == ["Arguments", *GROUPS]
    how_fast = text.split("\nHow fast:")[1].split("\n\n")[0]
    assert set(re.findall(r"--[a-z-]+", how_fast)) == {"--rate", "--concurrency", "--deadline"}
    server = text.split("\nServer:")[1].split("\n\n")[0]
    assert {"--insecure", "--ca-file", "--trust-endpoint", "--context"} <= set(re.findall(r"--[a-z-]+", server))


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_no_flag_has_a_metavar(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No help shows a type in angle brackets, such as <bool> or <path>, or braces around an argument."""
    text = help_of(name, capsys)
    assert not re.search(r"<[a-z]+[|>\[]", text)
    usage = text.split("Usage:")[1].splitlines()[0]
    assert not re.search(r"\{|\[\[", usage)
    assert name != "validate" or usage.strip().endswith("[OPTIONS] JOB...")


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_a_narrow_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every help is at most 80 columns wide where the terminal is, and no sentence of the list of commands is cut."""
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(name, capsys)
    assert max(map(len, text.splitlines())) <= 80
    assert "...\n" not in text.partition("\nCommands:")[2]


def test_help_is_a_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    """`zclone help COMMAND` is `zclone COMMAND --help`, without COMMAND the list of all; unknown ones exit with 2."""
    assert run_command(["help", "plan"]) == 0
    assert capsys.readouterr().out == help_of("plan", capsys)
    assert run_command(["help"]) == 0
    assert capsys.readouterr().out == help_of("", capsys)
    assert run_command(["help", "plane"]) == 2
    assert "did you mean plan?; zclone help lists all" in capsys.readouterr().err


def test_the_first_steps_work_in_an_empty_folder(tmp_path: Path, child_env: dict[str, str]) -> None:
    """The first commands of `zclone --help` run as they stand, without a checkout, settings or a server."""
    lines = [line.strip() for line in EPILOG.splitlines()]
    steps = [line.split("   ")[0] for line in lines if line.startswith("zclone ")]
    assert [step.split()[1] for step in steps] == ["init", "plan", "run", "list"]
    shown = ""
    for step in steps:
        done = subprocess.run(
            [sys.executable, "-m", "batch", *step.split()[1:]],
            cwd=tmp_path,
            env=child_env | {"HOME": os.devnull},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        shown = done.stdout
    assert shown.count(" cloned ") == 6
