"""A manifest that is moved, deleted or truncated during a run, and a repair of one that a run is writing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.crash.stage import ZCLONE, NodeProcess, environment, finish, node, write_job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MANIFEST = "job.manifest.jsonl"
RUN = ["run", "../job.yaml", "--progress", "none"]


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NodeProcess]:
    """A node whose jobs take as long as the parameter says, in seconds; default: almost no time."""
    latency = getattr(request, "param", 0.01)
    (tmp_path / "node.yaml").write_text(f"version: 1\nnode: {{latency: [{latency}, {latency}]}}\n", encoding="utf-8")
    (tmp_path / "work").mkdir()
    with node("node.yaml", cwd=tmp_path) as running:
        yield running


def submits(served: NodeProcess) -> int:
    return int(served.ledger()["calls"].get("submit", 0))


def move(folder: Path) -> None:
    (folder / MANIFEST).rename(folder / "elsewhere.jsonl")


def delete(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def put_another(folder: Path) -> None:
    (folder / "another").write_bytes((folder / MANIFEST).read_bytes())
    (folder / "another").rename(folder / MANIFEST)


def cut(folder: Path) -> None:
    os.truncate(folder / MANIFEST, 0)


def move_folder(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def delete_folder(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    while folder.exists():  # the command may add a file meanwhile
        shutil.rmtree(folder, ignore_errors=True)


def lose(lose: Callable[[Path], None], folder: Path, served: NodeProcess) -> tuple[int, str]:
    """Run in ``folder`` and lose its manifest after the first POSTs; return the exit code and the output."""
    left = ["--metrics-file", str(folder.parent / "z.prom"), "--report", str(folder.parent / "r.json")]
    process = subprocess.Popen(
        [*ZCLONE, *RUN, *left], cwd=folder, env=environment(served.url), stderr=subprocess.PIPE, text=True
    )
    give_up = time.monotonic() + 200
    while submits(served) < 3:
        assert time.monotonic() < give_up, "the command sends nothing"
        time.sleep(0.02)
    lose(folder)
    _, output = process.communicate(timeout=250)
    return process.returncode, output


@pytest.mark.parametrize("how", [move, delete, put_another, cut, move_folder, delete_folder])
def test_a_manifest_that_vanishes_ends_the_run(
    how: Callable[[Path], None], tmp_path: Path, served: NodeProcess
) -> None:
    """A manifest that is moved, deleted, replaced or truncated ends the run with 1, final metrics and a report."""
    write_job(tmp_path, 400, rate="40/s")
    code, output = lose(how, tmp_path / "work", served)
    assert code == 1, output
    assert "was moved, deleted or cut" in output
    assert submits(served) < 400
    values = (tmp_path / "z.prom").read_text(encoding="utf-8")
    assert 'zclone_run_exit_code{job="crash"} 1\n' in values
    assert 'zclone_running{job="crash"} 0\n' in values
    assert (tmp_path / "r.json").exists() == (how is not cut)
    if how is not cut:
        report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
        assert report["counts"]["cloned"] >= 1


@pytest.mark.parametrize("served", [300], indirect=True)
def test_a_manifest_that_vanishes_is_noticed_between_two_writes(tmp_path: Path, served: NodeProcess) -> None:
    """A run notices the loss of its manifest also while it writes nothing."""
    write_job(tmp_path, 3, rate="40/s")
    process = subprocess.Popen(
        [*ZCLONE, *RUN], cwd=tmp_path / "work", env=environment(served.url), stderr=subprocess.PIPE, text=True
    )
    while submits(served) < 1:
        time.sleep(0.02)
    # Its first clone is under way, alone, for five minutes.
    while b'"state":"accepted"' not in (tmp_path / "work" / MANIFEST).read_bytes():
        time.sleep(0.02)
    delete(tmp_path / "work")
    assert process.stderr is not None
    output: list[str] = []
    while not output or "was moved, deleted or cut" not in output[-1]:
        output.append(process.stderr.readline())
        assert output[-1], "it was not told"
    assert served.ledger()["clones"] == []
    process.kill()
    process.communicate(timeout=200)


def test_the_same_command_resumes_after_a_lost_manifest(tmp_path: Path, served: NodeProcess) -> None:
    """After a manifest was deleted during a run the same command clones the rest, and none twice."""
    write_job(tmp_path, 60, rate="40/s")
    assert lose(delete, tmp_path / "work", served)[0] == 1
    assert finish([*RUN, "--rate", "500/s"], cwd=tmp_path / "work", url=served.url)[0] == 0
    made = [clone["source"] for clone in served.ledger()["clones"]]
    assert sorted(made) == [f"{number:032x}" for number in range(1, 61)]


def test_a_manifest_in_use_is_not_repaired(tmp_path: Path, served: NodeProcess) -> None:
    """``repair`` refuses a manifest that a run holds, with exit code 75, and writes nothing."""
    write_job(tmp_path, 400, rate="40/s")
    process = subprocess.Popen(
        [*ZCLONE, *RUN], cwd=tmp_path / "work", env=environment(served.url), stderr=subprocess.DEVNULL
    )
    while submits(served) < 1:
        time.sleep(0.02)
    code, _, output = finish(["repair", MANIFEST], cwd=tmp_path / "work", url=None)
    process.terminate()
    assert process.wait(200) == 4
    assert (code, "a process is writing to this manifest" in output) == (75, True), output
    assert [path.name for path in (tmp_path / "work").iterdir()] == [MANIFEST]
    assert finish(["repair", MANIFEST], cwd=tmp_path / "work", url=None)[0] == 0
