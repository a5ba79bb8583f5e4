"""No file that a command writes is one that it reads, or another one that it writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from batch.cli.app import run_command

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

OUTPUTS: Final = {"--manifest": "m.json", "--log-file": "l.json", "--metrics-file": "z.json", "--report": "r.json"}
INPUTS: Final = {
    "the job file": "job.yaml",
    "a file of targets": "rows.csv",
    "another file of targets": "rows.jsonl",
    "a secret's file of the environment": "env.secret",
    "a secret's file of the job": "job.secret",
    "the CA file": "ca.pem",
    "the contexts": "config.yaml",
    "the faults": "faults.yaml",
}
JOB: Final = """\
version: 1
name: job
endpoint: {url: "https://127.0.0.1:9/zstack", ca_file: ca.pem, auth: {session: {file: job.secret}}}
targets:
  - {from: rows.csv}
  - {from: rows.jsonl}
"""
RUN: Final = ("run", "job.yaml", "--simulate=faults.yaml", "--progress", "none")
UUID: Final = "d76744cb53f9378abf42b907df3efb6e"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every kind of input, in which the command runs."""
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    (tmp_path / "rows.csv").write_text(f"uuid,id\n{UUID},a\n", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(f'{{"uuid": "{UUID}", "id": "b"}}\n', encoding="utf-8")
    (tmp_path / "faults.yaml").write_text("version: 1\nnode: {latency: [0, 0.01]}\n", encoding="utf-8")
    for name in ("env.secret", "job.secret", "ca.pem", "config.yaml"):
        (tmp_path / name).write_text("some text\n", encoding="utf-8")
        (tmp_path / name).chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZSTACK_SESSION_ID_FILE", "env.secret")
    monkeypatch.setenv("ZSTACK_CONFIG", "config.yaml")
    return tmp_path


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and mode of every file."""
    return {path.name: (path.read_bytes(), path.stat().st_mode) for path in folder.iterdir() if path.is_file()}


def same_path(path: Path, ending: str) -> Path:
    return Path("..", path.resolve().parent.name, path.name) if path.suffix == ending else symlink(path, ending)


def symlink(path: Path, ending: str) -> Path:
    link = path.with_name(f"link-to-{path.stem}{ending}")
    link.symlink_to(path.name)
    return link


def hard_link(path: Path, ending: str) -> Path:
    link = path.with_name(f"same-as-{path.stem}{ending}")
    os.link(path, link)
    return link


WAYS: Final = (same_path, symlink, hard_link)


def require_refused(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str | Path) -> None:
    """Check that the run exits with 2, names both files, and creates, changes or removes no file."""
    before = contents(folder)
    assert run_command([*RUN, *map(str, flags)]) == 2
    assert "is the same file as" in capsys.readouterr().err
    assert contents(folder) == before


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_no_output_replaces_an_input(
    output: str, given: str, way: Callable[[Path, str], Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output that is an input, by its path, a link or an inode, is refused before anything is opened."""
    ending = ".csv" if way is same_path and given == "a file of targets" else ".json"
    require_refused(folder, capsys, output, way(folder / INPUTS[given], ending))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("other", OUTPUTS)
def test_no_output_replaces_another(
    output: str, other: str, way: Callable[[Path, str], Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two outputs that are one file, by path, link or inode, are refused before anything is opened."""
    if output == other:
        return
    there = folder / OUTPUTS[other]
    if way is hard_link:
        there.write_text("an earlier one\n", encoding="utf-8")
    require_refused(folder, capsys, other, there, output, way(there, ".json"))


@pytest.mark.parametrize("output", ["--log-file", "--metrics-file", "--report"])
def test_no_output_replaces_the_default_manifest(output: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A manifest or a node's state that no option names is not overwritten either."""
    for name in ("job.simulated.manifest.jsonl", "job.simulated.node.jsonl"):
        require_refused(folder, capsys, output, symlink(folder / name, ".json"))
        (folder / f"link-to-{Path(name).stem}.json").unlink()


def test_the_nodes_state_replaces_no_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rehearsal whose node would keep its state in a file of targets is refused."""
    (folder / "rows.jsonl").rename(folder / "rows.node.jsonl")
    (folder / "job.yaml").write_text(JOB.replace("rows.jsonl", "rows.node.jsonl"), encoding="utf-8")
    require_refused(folder, capsys, "--manifest", "rows.manifest.jsonl")


def test_no_output_replaces_a_saved_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan that a run executes is not overwritten by that run."""
    (folder / "job.yaml").write_text(JOB.replace("endpoint", "# endpoint"), encoding="utf-8")
    assert run_command(["plan", "job.yaml", "--out", "plan.json"]) == 0
    before = contents(folder)
    for output in OUTPUTS:
        assert run_command(["run", "--plan", "plan.json", "--simulate", output, "plan.json"]) == 2
        assert "is the same file as --plan" in capsys.readouterr().err
    assert contents(folder) == before


@pytest.mark.parametrize("way", WAYS)
def test_a_report_does_not_replace_its_manifest(way: Callable[[Path, str], Path], folder: Path, zclone: Run) -> None:
    """``report`` refuses to write over the manifest that it reads."""
    assert zclone(*RUN, "--manifest", "m.json").returncode == 0
    before = contents(folder)
    done = zclone("report", "m.json", "--out", way(folder / "m.json", ".json"))
    assert (done.returncode, "is the same file as" in done.stderr) == (2, True), done.stderr
    assert {name: text for name, text in contents(folder).items() if name in before} == before


def test_a_nodes_state_is_not_its_faults(folder: Path, zclone: Run) -> None:
    """``simulate`` refuses to keep its state in its file of faults, or in a file that no node wrote."""
    (folder / "noted.txt").write_text("no end of line", encoding="utf-8")
    before = contents(folder)
    same = zclone("simulate", "--port", "0", "--faults", "faults.yaml", "--state", "./faults.yaml")
    other = zclone("simulate", "--port", "0", "--state", "noted.txt")
    assert (same.returncode, other.returncode) == (2, 2), other.stderr
    assert "is the same file as --faults" in same.stderr
    assert "noted.txt: is not the state of a node" in other.stderr
    assert contents(folder) == before


def test_distinct_outputs_are_written(folder: Path, zclone: Run) -> None:
    """A run writes every output that is a file of its own, links among them, and keeps the links."""
    for name in OUTPUTS.values():
        if name != "m.json":
            (folder / name).symlink_to(f"real-{name}")
    (folder / "real-r.json").write_text("an earlier one\n", encoding="utf-8")
    flags = [word for pair in OUTPUTS.items() for word in pair]
    done = zclone(*RUN, *flags)
    assert done.returncode == 0, done.stderr
    assert [name for name in OUTPUTS.values() if (folder / name).is_symlink()] == ["l.json", "z.json", "r.json"]
    assert "zclone_run_exit_code" in (folder / "real-z.json").read_text(encoding="utf-8")
    assert '"counts"' in (folder / "real-r.json").read_text(encoding="utf-8")
    assert "run.ended" in (folder / "real-l.json").read_text(encoding="utf-8")
