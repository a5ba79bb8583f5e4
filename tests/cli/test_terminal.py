"""The two streams, and the live view on a real terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
import tty
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from batch import redaction
from batch.app.messages import say
from batch.cli.app import run_command
from batch.cli.terminal import emit

if TYPE_CHECKING:
    from pathlib import Path


def test_messages_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Text for people goes to stderr, line by line, its control characters escaped."""
    say("first\nsecond \x1b[2J\u202e")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "first\nsecond \\x1b[2J\\u202e\n"


def test_a_message_breaks_between_words(child_env: dict[str, str]) -> None:
    """On a narrow terminal the message at a signal is broken between words; elsewhere it is one line."""
    text = "Stopping: waiting up to 30 s for 12 clones. Ctrl-C again to leave now."
    command = [sys.executable, "-c", f"from batch.app.outcome import wrap; print(wrap({text!r}))"]
    for columns, lines in ((50, [text[:50], text[51:]]), (80, [text])):
        ours, theirs = pty.openpty()
        try:
            termios.tcsetwinsize(theirs, (24, columns))
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=child_env, check=True)
        finally:
            os.close(ours)
            os.close(theirs)
        assert done.stdout.splitlines() == lines
    assert subprocess.run(command, capture_output=True, text=True, env=child_env, check=True).stdout == f"{text}\n"


def test_messages_have_no_secret(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered secret is redacted from messages."""
    monkeypatch.setattr("batch.app.messages.SECRETS", secrets := redaction.Secrets())
    secrets.add("hunter2")
    say("refused: hunter2")
    assert capsys.readouterr().err == "refused: [redacted]\n"


def test_data_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """Data goes to stdout and nowhere else."""
    emit(["a", "b"])
    assert capsys.readouterr() == ("a\nb\n", "")


def test_no_command_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command the help shows, with examples that work."""
    assert run_command([]) == 2
    captured = capsys.readouterr()
    assert "zclone run --simulate migrate-arm64.yaml" in captured.out + captured.err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints name and version."""
    assert run_command(["--version"]) == 0
    assert re.fullmatch(r"zclone \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_init_writes_a_valid_job(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The job file init writes is valid, and an existing file is kept."""
    job = tmp_path / "new.yaml"
    assert run_command(["init", str(job)]) == 0
    text = job.read_text(encoding="utf-8")
    assert run_command(["validate", str(job)]) == 0
    assert run_command(["init", str(job)]) == 2
    assert job.read_text(encoding="utf-8") == text
    assert "File exists" in capsys.readouterr().err


def test_an_error_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    """An error is reported in one line, without a traceback."""
    assert run_command(["status", "absent.jsonl"]) == 2
    assert capsys.readouterr().err == "zclone: absent.jsonl: No such file or directory\n"


@pytest.mark.parametrize("no_color", [False, True])
def test_the_live_view(no_color: bool, tmp_path: Path, child_env: dict[str, str]) -> None:  # noqa: FBT001 - a parameter
    """On a terminal the run shows a live view, keeps the cursor, obeys NO_COLOR, and ends with a summary."""
    (tmp_path / "quick.yaml").write_text("version: 1\nnode: {latency: [0, 0.01]}\n", encoding="utf-8")
    (tmp_path / "job.yaml").write_text(
        "version: 1\nname: job\ntargets: [90d425a802ff44eeb530f21587633700]\n", encoding="utf-8"
    )
    env = {name: value for name, value in child_env.items() if name != "NO_COLOR"} | {"TERM": "xterm-256color"}
    seen = on_terminal(
        ["run", "--simulate=quick.yaml", "job.yaml"], tmp_path, env | ({"NO_COLOR": "1"} if no_color else {})
    )
    assert "1/1" in seen
    assert "calls/s of 10" in seen
    assert "1 of 1 targets cloned" in seen
    assert "\x1b[?25l" not in seen
    assert bool(re.search(r"\x1b\[[\d;]*3[1-7]m", seen)) is not no_color


@pytest.mark.parametrize("no_color", [False, True])
def test_help_on_a_terminal(no_color: bool, tmp_path: Path, child_env: dict[str, str]) -> None:  # noqa: FBT001 - a parameter
    """On a terminal the names in --help have a colour, and under NO_COLOR none."""
    env = {name: value for name, value in child_env.items() if name != "NO_COLOR"} | {"TERM": "xterm-256color"}
    seen = on_terminal(["plan", "--help"], tmp_path, env | ({"NO_COLOR": "1"} if no_color else {}))
    assert ("--server-check\x1b[0m" in seen) is not no_color
    assert ("\x1b[" in seen) is not no_color


def test_a_stalled_terminal_ends_no_run(tmp_path: Path, child_env: dict[str, str]) -> None:
    """A terminal whose other end stopped reading loses the view, not the run: exit code and manifest are the same."""
    targets = "".join(f"  - {number:012x}4aaa8{number:015x}\n" for number in range(1, 31))
    text = f"version: 1\nname: job\nlimits: {{rate: 25/s}}\ntargets:\n{targets}"
    (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    os.set_blocking(theirs, False)
    with suppress(BlockingIOError):
        while os.write(theirs, b"." * 512):
            pass
    os.set_blocking(theirs, True)
    command = [sys.executable, "-m", "batch", "run", "--simulate", "job.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=child_env, stderr=theirs, timeout=200, check=False)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0
    assert (tmp_path / "job.simulated.manifest.jsonl").read_text(encoding="utf-8").count('"cloned"') >= 30


def on_terminal(arguments: list[str], cwd: Path, env: dict[str, str]) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "batch", *arguments], cwd=cwd, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # the other end was closed: that is how a terminal ends
        pass
    os.close(ours)
    assert process.wait(200) == 0, seen
    return seen.decode()
