"""The command line before typer: --simulate's optional value, and secrets that do not belong there."""

from __future__ import annotations

import pytest
import typer

from batch.cli.app import app
from batch.cli.arguments import SWITCHES, prepared
from batch.errors import UsageError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("run --simulate jobs/x.yaml", "run --simulate=calm jobs/x.yaml"),
        ("run jobs/x.yaml --simulate", "run jobs/x.yaml --simulate=calm"),
        ("run --simulate flaky jobs/x.yaml", "run --simulate=flaky jobs/x.yaml"),
        ("run jobs/x.yaml --simulate chaos", "run jobs/x.yaml --simulate=chaos"),
        ("run --simulate faults.yaml jobs/x.yaml", "run --simulate=faults.yaml jobs/x.yaml"),
        ("run jobs/x.yaml --simulate faults.yml", "run jobs/x.yaml --simulate=faults.yml"),
        ("run --rate 5/s --simulate jobs/x.yaml", "run --rate 5/s --simulate=calm jobs/x.yaml"),
        ("run --insecure --simulate f.yaml --rate 5/s x.yaml", "run --insecure --simulate=f.yaml --rate 5/s x.yaml"),
        ("run --simulate=faults.yaml jobs/x.yaml", "run --simulate=faults.yaml jobs/x.yaml"),
        ("run --simulate --rate 5/s x.yaml", "run --simulate=calm --rate 5/s x.yaml"),
        ("run --simulate=calm flaky", "run --simulate=calm flaky"),
        ("run -- --simulate", "run -- --simulate"),
        ("", ""),
    ],
)
def test_simulate_takes_faults_and_never_the_job(given: str, expected: str) -> None:
    """After a space --simulate takes a preset, or a YAML file where a job is named beside it."""
    assert prepared(given.split()) == expected.split()


@pytest.mark.parametrize("flag", ["--password", "--session-id", "--access-key-secret"])
@pytest.mark.parametrize("form", ["{} hunter2", "{}=hunter2"])
def test_secrets_on_the_command_line_are_refused(flag: str, form: str) -> None:
    """A secret on the command line is refused with the variable to use, and not repeated."""
    with pytest.raises(UsageError) as refusal:
        prepared(["run", "x.yaml", *form.format(flag).split()])
    assert "ZSTACK_" in str(refusal.value)
    assert "_FILE" in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


def test_the_switches_are_those_of_run() -> None:
    """Which options of run take no value is known exactly: a wrong one would make a job of a value."""
    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    flags = {name for option in command.params if getattr(option, "is_flag", False) for name in option.opts}
    assert flags | {"--simulate", "--help", "-h"} == SWITCHES
