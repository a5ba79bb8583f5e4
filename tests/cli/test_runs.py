"""Runs that `run:` names by date or time: which one a command means, before and after midnight."""

from __future__ import annotations

import fcntl
import json
import time
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]
    At = Callable[[float], dict[str, str]]

DAY: Final = 86_400
SOURCES: Final = [f"{number:012x}4aaa8{number:015x}" for number in range(1, 9)]
RUN: Final = ("run", "nightly.yaml", "--simulate=f.yaml")
BRIEFLY: Final = ("--deadline", "3s", "--rate", "1/s")
"""A deadline before four targets are cloned, which take eight calls."""


@pytest.fixture
def at(tmp_path: Path) -> At:
    """Return an environment in which the command's clock shows a time, in seconds after the next midnight (UTC)."""
    flag = tmp_path / "flag"
    flag.touch()
    midnight = (time.time() // DAY + 1) * DAY

    def environment(after: float) -> dict[str, str]:
        return {"CLOCK_FLAG": str(flag), "CLOCK_JUMPS": str(midnight + after - time.time())}

    return environment


@pytest.fixture
def job(tmp_path: Path) -> Path:
    write(tmp_path)
    (tmp_path / "f.yaml").write_text("version: 1\nnode: {latency: [0, 0.01]}\n", encoding="utf-8")
    return tmp_path


def write(folder: Path, *, run: str = "nightly-${date}", more: str = "") -> None:
    targets = "".join(f"  - {source}\n" for source in SOURCES)
    text = f"version: 1\nname: nightly\nrun: {run}\n{more}limits: {{rate: 500/s}}\ntargets:\n{targets}"
    (folder / "nightly.yaml").write_text(text, encoding="utf-8")


def name(after: float) -> str:
    day = (time.time() // DAY + 1) * DAY + after
    return time.strftime("nightly-%Y-%m-%d", time.gmtime(day))


def count_clones(folder: Path) -> dict[str, int]:
    """Count the clones by run."""
    found = {}
    for path in sorted(folder.glob("*.manifest.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found[lines[0]["run"]] = len({line["key"] for line in lines if line.get("state") == "cloned"})
    return found


def test_the_same_command_after_midnight_resumes(job: Path, zclone: Run, interrupt: Run, at: At) -> None:
    """Stopped at 23:59, the same command at 00:05 does the rest of the same run, says so, and every hint names it."""
    yesterday, today = name(-60), name(300)
    first = interrupt(*RUN, "--rate", "3/s", "--concurrency", "1", env=at(-60))
    assert first.returncode == 4, first.stderr
    assert f"--run {yesterday}" in first.stderr
    assert 0 < count_clones(job)[yesterday] < len(SOURCES)
    second = zclone(*RUN, env=at(300))
    assert second.returncode == 0, second.stderr
    assert second.stderr.count(f"resuming the unfinished run {yesterday}; --new-run starts {today}") == 1
    assert count_clones(job) == {yesterday: len(SOURCES)}
    third = zclone(*RUN, env=at(600))
    assert third.returncode == 0, third.stderr
    assert count_clones(job) == {yesterday: len(SOURCES), today: len(SOURCES)}


@pytest.mark.parametrize(
    ("more", "after", "run"),
    [
        ("", DAY, "nightly-${date}"),
        ("resume_within: 0\n", 300, "nightly-${date}"),
        ("resume_within: 1h\n", 2 * 3600, "nightly-${date}"),
        ("", 300, "nightly-${date}-${time}"),
    ],
)
def test_an_older_unfinished_run_is_warned_of_and_the_new_one_begins(
    more: str, after: float, run: str, job: Path, zclone: Run, at: At
) -> None:
    """Beyond `resume_within` (12h; 0 with ${time}) the plain command begins the run that is named now."""
    write(job, run=run, more=more)
    assert zclone(*RUN, *BRIEFLY, env=at(-60)).returncode == 4
    (old,) = count_clones(job)
    second = zclone(*RUN, env=at(after))
    assert second.returncode == 0, second.stderr
    assert f"the run {old} is unfinished; zclone run nightly.yaml --simulate --run {old} resumes it" in second.stderr
    found = count_clones(job)
    assert found.pop(old) < len(SOURCES)
    assert list(found.values()) == [len(SOURCES)]


def test_new_run_begins_the_current_run(job: Path, zclone: Run, at: At) -> None:
    """Also if an unfinished one is left; if it has a manifest, or nothing is rendered, exit 2 and no change."""
    assert zclone(*RUN, *BRIEFLY, env=at(-60)).returncode == 4
    begun = zclone(*RUN, "--new-run", env=at(300))
    assert begun.returncode == 0, begun.stderr
    found = count_clones(job)
    assert found[name(300)] == len(SOURCES)
    again = zclone(*RUN, "--new-run", env=at(600))
    assert again.returncode == 2
    assert "already has a manifest" in again.stderr
    write(job, run="fixed")
    fixed = zclone(*RUN, "--new-run", env=at(600))
    assert fixed.returncode == 2
    assert count_clones(job) == found


def test_other_commands_mean_the_newest_run(job: Path, zclone: Run, at: At) -> None:
    """Days later `retry` and every MANIFEST given as the job file mean the newest run with a manifest."""
    fault = f"faults: [{{fault: fail, code: SYS.1007, source: {SOURCES[0]}}}]\n"
    script = (job / "f.yaml").read_text(encoding="utf-8")
    (job / "f.yaml").write_text(script + fault, encoding="utf-8")
    assert zclone(*RUN, env=at(-60)).returncode == 3
    (job / "f.yaml").write_text(script, encoding="utf-8")
    assert f"run {name(-60)}" in zclone("status", "nightly.yaml", env=at(3 * DAY)).stdout
    assert zclone("report", "nightly.yaml", "--out", "r.json", env=at(3 * DAY)).returncode == 0
    retried = zclone("retry", "nightly.yaml", "--simulate=f.yaml", env=at(3 * DAY))
    assert retried.returncode == 0, retried.stderr
    assert count_clones(job) == {name(-60): len(SOURCES)}
    assert zclone("status", "absent.yaml").returncode == 2


def test_another_active_run_is_an_overlap(job: Path, zclone: Run, at: At) -> None:
    """A process that holds another run of the job: 75; one named by --run, another shard or a rehearsal is none."""
    assert zclone(*RUN, *BRIEFLY, env=at(-60)).returncode == 4
    assert zclone(*RUN, *BRIEFLY, "--run", "mine", env=at(-60)).returncode == 4
    assert zclone(*RUN, *BRIEFLY, "--shard", "0/2", env=at(-60)).returncode == 4
    paths = {path.name.split(".")[1]: path for path in job.glob("*.manifest.jsonl") if "shard" not in path.name}
    (part,) = job.glob("*shard*.manifest.jsonl")
    with paths["mine"].open("rb") as mine, part.open("rb") as shard, paths[name(-60)].open("rb") as held:
        fcntl.flock(mine, fcntl.LOCK_EX)
        fcntl.flock(shard, fcntl.LOCK_EX)
        assert zclone(*RUN, "--new-run", env=at(DAY)).returncode == 0
        fcntl.flock(held, fcntl.LOCK_EX)
        overlap = zclone(*RUN, env=at(2 * DAY))
        assert overlap.returncode == 75
        assert name(-60) in overlap.stderr
        assert zclone(*RUN, "--run", name(2 * DAY), env=at(2 * DAY)).returncode == 0


def run_named(folder: Path, zclone: Run, name: str, *more: str) -> None:
    done = zclone("run", "nightly.yaml", "--simulate=f.yaml", "--run", name, *more)
    assert done.returncode in {0, 3, 4}, done.stderr


@pytest.mark.parametrize(
    "command", [["status"], ["list"], ["show"], ["report", "-o", "json"], ["verify", "--simulate"]]
)
def test_a_job_file_means_its_newest_run_or_the_named_one(command: list[str], job: Path, zclone: Run) -> None:
    """Every command that reads a manifest takes the job file: its newest run, and another with --run."""
    run_named(job, zclone, "one")
    run_named(job, zclone, "two", "--only", f"key={SOURCES[0]}")
    key = [SOURCES[1]] if command[0] == "show" else []
    newest, first = (zclone(*command, "nightly.yaml", *key, *more) for more in ([], ["--run", "one"]))
    assert first.stdout
    assert first.stdout != newest.stdout
    by_file = zclone(*command, "nightly.one.simulated.manifest.jsonl", *key)
    if command[0] not in {"verify", "report"}:
        assert first.stdout == by_file.stdout
    absent = zclone(*command, "nightly.yaml", *key, "--run", "three")
    assert absent.returncode == 2
    assert "three" in absent.stderr
    both = zclone(*command, "nightly.one.simulated.manifest.jsonl", *key, "--run", "one")
    assert both.returncode == 2
    assert "with a job file" in both.stderr


def test_a_job_file_in_json_is_no_manifest(job: Path, zclone: Run) -> None:
    """A job file that ends in .json is a job file to every command, and no report is written over it."""
    text = json.dumps({"version": 1, "name": "nightly", "targets": SOURCES})
    (job / "nightly.json").write_text(text, encoding="utf-8")
    assert zclone("run", "nightly.json", "--simulate").returncode == 0
    assert "job       nightly, run default" in zclone("status", "nightly.json").stdout
    assert zclone("report", "nightly.json", "--out", "nightly.json").returncode == 2
    assert (job / "nightly.json").read_text(encoding="utf-8") == text


def list_runs(zclone: Run) -> dict[str, str]:
    """Return the state of each run that ``zclone runs`` lists, by the name of its manifest, in its order."""
    lines = zclone("runs", "nightly.yaml").stdout.splitlines()
    return {line.split()[-1]: next(word for word in line.split() if word in STATES) for line in lines[1:]}


STATES: Final = {"settled", "unfinished", "running"}


def test_runs_are_listed_and_only_settled_ones_pruned(job: Path, zclone: Run) -> None:
    """`runs` lists every run, the newest first; --prune removes settled ones beyond --keep, and never another."""
    for name in ("one", "two", "three"):
        run_named(job, zclone, name)
    run_named(job, zclone, "open", *BRIEFLY)
    run_named(job, zclone, "held")
    manifests = {name: f"nightly.{name}.simulated.manifest.jsonl" for name in ("held", "open", "three", "two", "one")}
    states = dict(zip(manifests.values(), ["settled", "unfinished", "settled", "settled", "settled"], strict=True))
    assert list(list_runs(zclone).items()) == list(states.items())
    with (job / manifests["held"]).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        pruned = zclone("runs", "nightly.yaml", "--prune", "--keep", "1")
    assert pruned.returncode == 0, pruned.stderr
    assert sorted(pruned.stderr.splitlines()) == [f"removed {manifests[name]}" for name in ("one", "two")]
    assert list(list_runs(zclone)) == [manifests[name] for name in ("held", "open", "three")]
    assert not list(job.glob("nightly.one.*"))
    assert zclone("runs", "nightly.yaml", "--prune", "--keep", "0").returncode == 0
    assert list_runs(zclone) == {manifests["open"]: "unfinished"}


def test_a_run_of_shards_is_settled_once_all_of_them_are(job: Path, zclone: Run) -> None:
    """The manifests of a run's shards are removed together or not at all."""
    run_named(job, zclone, "wide", "--shard", "0/2")
    run_named(job, zclone, "wide", "--shard", "1/2", *BRIEFLY)
    assert sorted(list_runs(zclone).values()) == ["settled", "unfinished"]
    assert zclone("runs", "nightly.yaml", "--prune", "--keep", "0").stderr == ""
    run_named(job, zclone, "wide", "--shard", "1/2")
    assert zclone("runs", "nightly.yaml", "--prune", "--keep", "0").stderr.count("removed") == 2


def test_a_run_with_undone_clones_is_not_pruned(job: Path, zclone: Run) -> None:
    """Only its manifest knows which uuids are used up: after a rollback and a rerun it stays, and clones again."""
    run_named(job, zclone, "one")
    manifest = job / "nightly.one.simulated.manifest.jsonl"
    again = ("nightly.yaml", "--run", "one", "--simulate")
    for state in ("unfinished", "settled"):
        assert zclone("rollback", *again, "--yes").returncode == 0
        status = zclone("status", "nightly.yaml", "--run", "one").stdout
        assert "with exit code 0 (clones were rolled back)" in status
        assert "next " not in status
        if state == "settled":
            assert zclone("run", *again).returncode == 0
        assert list_runs(zclone) == {manifest.name: state}
        assert zclone("runs", "nightly.yaml", "--prune", "--keep", "0").stderr == ""
        assert manifest.exists()


def test_prune_says_how_many_to_keep(job: Path, zclone: Run) -> None:
    """--prune without --keep, and the reverse, is refused and removes nothing."""
    run_named(job, zclone, "one")
    for flags in (["--prune"], ["--keep", "1"]):
        assert zclone("runs", "nightly.yaml", *flags).returncode == 2
    assert len(list_runs(zclone)) == 1
    assert zclone("runs", "absent.yaml").returncode == 2
