"""What cron and log collectors get on stderr: nothing after a success, and JSON only if set."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

import jsonschema
import pytest

from batch.app.schemas import log_schema
from batch.cli.app import run_command

if TYPE_CHECKING:
    from pathlib import Path

SOURCES: Final = [f"{number:012x}4aaa8{number:015x}" for number in range(1, 5)]
RUN: Final = ["run", "job.yaml", "--rate", "500/s"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a job, and with faults that make one target fail."""
    (tmp_path / "job.yaml").write_text(f"version: 1\nname: j\ntargets: [{', '.join(SOURCES)}]\n", encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("version: 1\nname: j\nnme: k\ntargets: []\n", encoding="utf-8")
    fault = f"{{fault: fail, code: SYS.1007, source: {SOURCES[0]}}}"
    (tmp_path / "fail.yaml").write_text(f"version: 1\nfaults: [{fault}]\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_quiet_success_writes_nothing(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    """With --quiet a run that clones everything, or has nothing to do, writes nothing; a log file has all of it."""
    for _ in range(2):
        assert run_command([*RUN, "--simulate", "--quiet", "--log-file", "log.jsonl"]) == 0
        assert capfd.readouterr() == ("", "")
    assert "clone.settled" in (folder / "log.jsonl").read_text(encoding="utf-8")


def test_a_failed_quiet_run_prints_its_failures(capfd: pytest.CaptureFixture[str]) -> None:
    """With --quiet, what failed is on stderr all the same: its line of the log, the summary and the next command."""
    assert run_command([*RUN, "--simulate=fail.yaml", "--quiet"]) == 3
    output = capfd.readouterr().err
    assert output.count("clone.settled") == 1
    assert "3 of 4 targets cloned; 1 failed" in output
    assert "run.started" not in output
    assert run_command(["retry", "job.yaml", "--simulate", "--rate", "500/s", "-q"]) == 0
    assert capfd.readouterr().err == ""
    assert run_command(["run", "broken.yaml", "--quiet"]) == 2
    assert "broken.yaml:3:1" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([*RUN, "--simulate"], 0, "4 of 4 targets cloned"),
        ([*RUN, "--simulate=fail.yaml"], 3, "3 of 4 targets cloned; 1 failed"),
        ([*RUN, "--simulate", "--ping-url", "http://127.0.0.1:1/x"], 0, "the ping start was not delivered"),
        (["run", "broken.yaml"], 2, "broken.yaml:3:1"),
        (["run", "absent.yaml"], 2, "absent.yaml"),
        (["retry", "job.yaml", "--simulate"], 2, "lists what can be retried"),
    ],
)
def test_every_line_is_json(arguments: list[str], code: int, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    """With --log-format json every line of stderr conforms to the published schema, summary and errors too."""
    assert run_command([*arguments, "--log-format", "json"]) == code
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    for line in lines:
        jsonschema.validate(line, log_schema())
    assert any(text in line.get("text", "") for line in lines)


def test_a_live_view_contradicts_quiet_and_json(capfd: pytest.CaptureFixture[str]) -> None:
    """A live view that is set explicitly is refused with --quiet or a JSON log."""
    for flags in (["--quiet"], ["--log-format", "json"]):
        assert run_command([*RUN, "--simulate", "--progress", "live", *flags]) == 2
        assert "--progress live" in capfd.readouterr().err


def test_outputs_are_named_after_the_run(folder: Path) -> None:
    """${run}, ${date} and ${name} in the names of report, metrics and log are those of the run at its start."""
    text = (folder / "job.yaml").read_text(encoding="utf-8")
    (folder / "job.yaml").write_text(f"{text}run: night-${{date}}\ntimezone: Asia/Shanghai\n", encoding="utf-8")
    names = ["--report", "${run}.html", "--metrics-file", "${name}-${date}.prom", "--log-file", "$${name}.${name}.log"]
    assert run_command([*RUN, "--simulate", *names]) == 0
    (manifest,) = folder.glob("*.manifest.jsonl")
    header = json.loads(manifest.read_text(encoding="utf-8").splitlines()[0])
    run = header["run"]
    made = {path.name for path in folder.iterdir() if path.suffix in {".html", ".prom", ".log"}}
    assert made == {f"{run}.html", f"j-{run.removeprefix('night-')}.prom", "${name}.j.log"}


def test_a_later_process_of_a_run_writes_the_same_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """${date} is the day of the run's start, whenever the run resumes."""
    command = [*RUN, "--simulate", "--report", "${date}.html"]
    assert run_command(command) == 0
    (first,) = folder.glob("*.html")
    first.unlink()
    later = time.time() + 2 * 86_400
    monkeypatch.setattr(time, "time", lambda: later)
    assert run_command(command) == 0
    assert list(folder.glob("*.html")) == [first]


@pytest.mark.parametrize(
    ("flags", "output"),
    [
        (["--report", "${rum}.html"], "did you mean run?"),
        (["--report", "no/${run}.html"], "the folder no does not exist"),
        (["--metrics-file", "${name}.yaml", "--report", "job.html"], "metrics"),
        (["--report", "${run}.html", "--log-file", "default.html"], "same file"),
    ],
)
def test_an_invalid_output_name_is_reported_before_the_run(
    flags: list[str], output: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An unknown name, a missing folder and a collision are reported once the name is known; nothing is sent."""
    (folder / "j.yaml").write_bytes((folder / "job.yaml").read_bytes())
    assert run_command(["run", "j.yaml", "--simulate", *flags]) == 2
    assert output in capfd.readouterr().err
    assert not list(folder.glob("*.manifest.jsonl"))
