"""A very long YAML list of targets is a warning and no error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batch.cli.app import run_command

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "command", [("validate", "job.yaml"), ("plan", "job.yaml"), ("run", "--simulate", "job.yaml", "--progress", "none")]
)
def test_every_command_warns_of_a_long_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """``validate``, ``plan`` and ``run`` report place and length of the list once on stderr, and continue."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZSTACK_API_URL", raising=False)
    monkeypatch.setattr("batch.jobfile.targets.LONG_LIST", 2)
    rows = "".join(f"  - {number:012x}4aaa8{number:015x}\n" for number in range(1, 4))
    (tmp_path / "job.yaml").write_text(f"version: 1\nname: j\nlimits: {{rate: 500/s}}\ntargets:\n{rows}")
    assert run_command([*command]) == 0
    output = capfd.readouterr()
    assert output.err.count("job.yaml:4:1: targets: warning: 3 targets in one YAML list: a JSON Lines or CSV file") == 1
    assert "YAML list" not in output.out
