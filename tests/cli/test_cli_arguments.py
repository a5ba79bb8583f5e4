"""The command line before typer: --simulate's optional value, and secrets that do not belong there."""

from __future__ import annotations

import pytest

from batch.cli.arguments import prepared
from batch.errors import UsageError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("run --simulate jobs/x.yaml", "run --simulate=calm jobs/x.yaml"),
        ("run jobs/x.yaml --simulate", "run jobs/x.yaml --simulate=calm"),
        ("run --simulate flaky jobs/x.yaml", "run --simulate=flaky jobs/x.yaml"),
        ("run jobs/x.yaml --simulate chaos", "run jobs/x.yaml --simulate=chaos"),
        ("run --simulate=faults.yaml jobs/x.yaml", "run --simulate=faults.yaml jobs/x.yaml"),
        ("run --simulate --rate 5/s x.yaml", "run --simulate=calm --rate 5/s x.yaml"),
        ("run --simulate=calm flaky", "run --simulate=calm flaky"),
        ("run -- --simulate", "run -- --simulate"),
        ("", ""),
    ],
)
def test_simulate_takes_a_presets_name_and_nothing_else(given: str, expected: str) -> None:
    """After a space --simulate takes a preset's name only, so a job file is never taken for faults."""
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
