"""``run --on-overlap``: what a command does while another process holds the manifest it needs."""

from __future__ import annotations

import fcntl
import json
from typing import TYPE_CHECKING, Final

import pytest

from tests import forkserver

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

SOURCES: Final = [f"{number:012x}4aaa8{number:015x}" for number in range(1, 4)]
RUN: Final = ("run", "job.yaml", "--simulate", "--progress", "none")
MANIFEST: Final = "job.simulated.manifest.jsonl"


@pytest.fixture
def folder(tmp_path: Path, zclone: Run) -> Path:
    """A run with one target cloned."""
    write(tmp_path, run="default")
    assert zclone(*RUN, "--only", f"key={SOURCES[0]}").returncode == 0
    assert cloned(tmp_path / MANIFEST) == 1
    return tmp_path


def write(folder: Path, *, run: str) -> None:
    targets = "".join(f"  - {source}\n" for source in SOURCES)
    text = f"version: 1\nname: job\nrun: {run}\nlimits: {{rate: 500/s}}\ntargets:\n{targets}"
    (folder / "job.yaml").write_text(text, encoding="utf-8")


def cloned(manifest: Path) -> int:
    lines = map(json.loads, manifest.read_text(encoding="utf-8").splitlines())
    return len({line["key"] for line in lines if line.get("state") == "cloned"})


def test_another_process_is_waited_for_skipped_or_refused(folder: Path, zclone: Run, child_env: dict[str, str]) -> None:
    """fail: 75; skip: 0 and one line; wait: continues once the lock is free; nothing is done before."""
    manifest = folder / MANIFEST
    before = manifest.read_bytes()
    with manifest.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert zclone(*RUN, "--on-overlap", "fail").returncode == 75
        skipped = zclone(*RUN, env={"ZCLONE_ON_OVERLAP": "skip"})
        assert skipped.returncode == 0
        (line,) = skipped.stderr.splitlines()
        assert line.startswith("skipped: ")
        assert MANIFEST in line
        with forkserver.start_text([*RUN, "--on-overlap", "wait:1m"], cwd=folder, env=child_env) as waiting:
            assert waiting.stderr is not None
            assert "waiting up to 60 s" in waiting.stderr.readline()
            assert manifest.read_bytes() == before
            fcntl.flock(held, fcntl.LOCK_UN)
            assert waiting.wait(200) == 0
    assert cloned(manifest) == len(SOURCES)


def test_a_wait_that_is_over_exits_with_75(folder: Path, zclone: Run) -> None:
    """A lock that is not released in time: 75, and nothing was written."""
    manifest = folder / MANIFEST
    before = manifest.read_bytes()
    with manifest.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waited = zclone(*RUN, "--on-overlap", "wait:1s")
    assert waited.returncode == 75
    assert manifest.read_bytes() == before


def test_another_run_of_the_job_is_an_overlap_too(folder: Path, zclone: Run) -> None:
    """Tonight's start is skipped, or waits, while last night's run of `run: nightly-${time}` is active."""
    write(folder, run="nightly-${time}")
    assert zclone(*RUN, "--only", f"key={SOURCES[0]}").returncode == 0
    (last,) = folder.glob("job.nightly*manifest.jsonl")
    with last.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        skipped, waited = (zclone(*RUN, "--on-overlap", how) for how in ("skip", "wait:1s"))
    assert (skipped.returncode, waited.returncode) == (0, 75)
    assert last.name in skipped.stderr
    assert list(folder.glob("job.nightly*manifest.jsonl")) == [last]


@pytest.mark.parametrize("how", ["wait", "wait:", "wait:0s", "later", "wait:soon"])
def test_an_invalid_overlap_policy_is_refused(how: str, folder: Path, zclone: Run) -> None:
    """Anything but fail, skip and wait:TIME is refused with 2."""
    refused = zclone(*RUN, "--on-overlap", how)
    assert refused.returncode == 2
    assert "--on-overlap" in refused.stderr
    assert cloned(folder / MANIFEST) == 1
