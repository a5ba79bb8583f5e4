"""`show`: which layer set each parameter, if the job file still gives what was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from batch.cli.app import run_command

if TYPE_CHECKING:
    from pathlib import Path

UUID: Final = "d76744cb53f9378abf42b907df3efb6e"
KEY: Final = f"{UUID}[size=s]"
JOB: Final = f"""version: 1
name: j
defaults: {{params: {{type: App, requestCpu: 1}}}}
targets:
  - {{from: rows.csv, params: {{description: '${{team}}'}}}}
  - uuid: {UUID}
    matrix: {{size: [s]}}
    keep: [system]
    params: {{name: '${{source.name}}-${{size}}', requestCpu: 2}}
"""
MANIFEST: Final = "job.simulated.manifest.jsonl"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rehearse the job in a new directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    (tmp_path / "rows.csv").write_text(f"uuid,id,team,params.name\n{UUID},row,t,n\n", encoding="utf-8")
    assert run_command(["run", "--simulate", "job.yaml", "--progress", "none", "--rate", "500/s"]) == 0
    return tmp_path


def shown(key: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert run_command(["show", MANIFEST, key]) == 0
    lines = capsys.readouterr().out.splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.startswith("parameters"))
    return [" ".join(line.split()) for line in lines[start:]]


def test_every_layer_is_named_as_in_the_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Defaults, file entry, row, target, source and rendering are shown with their places, also after the run."""
    assert shown(KEY, capsys) == [
        "parameters, by job.yaml, as they were sent:",
        "type defaults, job.yaml:3:27",
        "requestCpu target, job.yaml:9:58",
        "name target, rendered, job.yaml:9:20",
        "system source, job.yaml:9:13",
    ]
    assert shown("row", capsys)[1:] == [
        "type defaults, job.yaml:3:27",
        "requestCpu defaults, job.yaml:3:44",
        "description from, rendered, job.yaml:5:44",
        "name target, rows.csv:2:1",
    ]
    text = (folder / "job.yaml").read_text(encoding="utf-8")
    (folder / "job.yaml").write_text(text.replace("\ndefaults", "\n# moved\ndefaults"), encoding="utf-8")
    assert shown("row", capsys)[1] == "type defaults, job.yaml:4:27"


def test_unknown_origins_are_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job file that was edited, moved, swapped for another job or lost its target proves nothing."""
    path = folder / "job.yaml"
    path.write_text(JOB.replace("requestCpu: 2", "requestCpu: 3"), encoding="utf-8")
    assert shown(KEY, capsys)[0].endswith("job.yaml has changed since they were sent")
    assert shown("row", capsys)[0] == "parameters, by job.yaml, as they were sent:"
    path.write_text(JOB.replace("size: [s]", "size: [l]"), encoding="utf-8")
    assert shown(KEY, capsys)[0].endswith("job.yaml no longer has this target")
    path.write_text(JOB.replace("name: j", "name: k"), encoding="utf-8")
    assert shown(KEY, capsys)[0].endswith("job.yaml now holds the job k, not j")
    path.unlink()
    assert "job.yaml" in shown(KEY, capsys)[0]
    assert shown(KEY, capsys)[0].startswith("parameters: their origin is not known:")


@pytest.mark.usefixtures("folder")
def test_no_value_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Only names, layers and places are shown: the values stay in the job file."""
    assert not {"App", "'t'", '"t"'} & set(" ".join(shown("row", capsys)).split())
