"""The command line before typer: --simulate's optional value, and secrets that do not belong there."""

from __future__ import annotations

from typing import Any, Final

import pytest
import typer

from batch.cli.app import app, switches
from batch.cli.parser import read_arguments, read_simple_values
from batch.errors import UsageError

COMMAND: Final = typer.main.get_command(app)
SWITCHES: Final = switches(COMMAND, ["run"])


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
    """After a space --simulate takes a preset, or a YAML file if a job is named beside it."""
    assert read_arguments(given.split(), SWITCHES) == expected.split()


@pytest.mark.parametrize("flag", ["--password", "--session-id", "--access-key-secret"])
@pytest.mark.parametrize("form", ["{} hunter2", "{}=hunter2"])
def test_secrets_on_the_command_line_are_refused(flag: str, form: str) -> None:
    """A secret on the command line is refused with the variable to use, and not repeated."""
    with pytest.raises(UsageError) as refusal:
        read_arguments(["run", "x.yaml", *form.format(flag).split()], SWITCHES)
    assert "ZSTACK_" in str(refusal.value)
    assert "_FILE" in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


def test_no_switch_takes_the_job_for_its_value() -> None:
    """Every option of run without a value leaves the job beside it a job, so that --simulate takes the faults."""
    for switch in SWITCHES - {"--simulate"}:
        words = ["run", switch, "x.yaml", "--simulate", "f.yaml"]
        assert read_arguments(words, SWITCHES) == ["run", switch, "x.yaml", "--simulate=f.yaml"]
    assert {"--strict", "--tag", "--insecure", "-h"} <= SWITCHES
    assert SWITCHES.isdisjoint({"--rate", "--manifest", "--only", "--progress"})


@pytest.mark.parametrize("name", COMMAND.commands)  # type: ignore[attr-defined]
def test_words_are_read_as_typer_reads_them(name: str) -> None:
    """Texts, paths, choices, defaults and absent values of each option are what typer makes of them."""
    command: Any = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    ctx = command.make_context(name, [], resilient_parsing=True)
    for param in typer.main.get_command(app).commands[name].params:  # type: ignore[attr-defined]
        as_typer = outcomes(param, ctx)
        read_simple_values([param], command.callback)
        assert outcomes(param, ctx) == as_typer


def outcomes(param: Any, ctx: Any) -> list[object]:
    """Return the result of some words and of the default: a value or the error's text."""
    found: list[object] = []
    for word in ("a b", "", "7", *(param.metavar or "").split("|"), param.default):
        value = (word,) if isinstance(word, str) and (param.multiple or param.nargs == -1) else word
        try:
            found.append(param.process_value(ctx, value) or None)
        except Exception as error:  # noqa: BLE001 - errors of typer, which has no public names for them
            found.append((type(error), str(error)))
    return found
