"""Commands about a part of a job leave the rest alone, and a merged run is one run."""

from __future__ import annotations

import shlex
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pytest

from tests import nodes
from tests.cli.test_verify import serve, write_job

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]
    Serve = Callable[..., str]

HEAD: Final = "version: 1\nname: j\nlimits: {rate: 1000/s}\ntargets:\n"
PARTS: Final = [f"job.shard-{number}-of-2.manifest.jsonl" for number in (0, 1)]


def live(env: dict[str, str]) -> list[str]:
    """Return the uuids of the existing clones."""
    return [row["uuid"] for row in nodes.ledger(env["ZSTACK_API_URL"])["clones"] if not row["deleted"]]


def made(env: dict[str, str]) -> int:
    """Return how many clones were ever made."""
    return len(nodes.ledger(env["ZSTACK_API_URL"])["clones"])


def command_in(text: str, name: str) -> list[str]:
    """Return the arguments of the last ``zclone NAME`` that a text suggests to the operator."""
    return shlex.split(text[text.rindex(f"zclone {name}") :].splitlines()[0])[1:]


@pytest.mark.parametrize("name", [PARTS[1], "part.jsonl"])
def test_suggested_commands_of_a_shard_leave_other_targets_alone(
    tmp_path: Path, zclone: Run, serve_node: Serve, name: str
) -> None:
    """The commands that status, verify and a run's end suggest for a shard's manifest leave the other targets alone."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 6, head=HEAD)
    assert zclone("run", "job.yaml", "--shard", "1/2", "--manifest", name, env=env).returncode == 0
    count = made(env)
    assert 0 < count < 6
    nodes.tamper(env["ZSTACK_API_URL"], {"delete": live(env)[:1]})
    reopened = zclone("verify", "job.yaml", "--manifest", name, "--reopen", "--yes", env=env)
    commands = [command_in(reopened.stderr, "run"), command_in(zclone("status", name, env=env).stdout, "run")]
    assert all(("--shard", "1/2") in pairwise(words) for words in commands), commands
    nodes.control(env["ZSTACK_API_URL"], {"faults": {"version": 1, "faults": [{"fault": "fail", "code": "SYS.1003"}]}})
    failed = zclone(*commands[0], env=env)
    assert failed.returncode == 3, failed.stderr
    nodes.control(env["ZSTACK_API_URL"], {"faults": {"version": 1, "faults": []}})
    again = zclone(*command_in(failed.stderr, "retry"), env=env)
    assert (again.returncode, made(env)) == (0, count + 1), again.stderr
    assert f"{count} of {count} targets cloned" in again.stderr


def test_a_merged_run_is_rolled_back_as_a_whole(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """Once the shards are merged a command with the job file means the whole run, not its newest shard."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 6, head=HEAD)
    for number in (0, 1):
        assert zclone("run", "job.yaml", "--shard", f"{number}/2", env=env).returncode == 0
    assert zclone("merge", *PARTS, "--out", "job.manifest.jsonl").returncode == 0
    assert "targets   6" in zclone("status", "job.yaml").stdout
    assert zclone("verify", "job.yaml", env=env).stdout == "j, run default: 6 targets: 6 in-sync\n"
    done = zclone("rollback", "job.yaml", "--yes", env=env)
    assert (done.returncode, live(env)) == (0, []), done.stdout
    assert "6 undone" in done.stdout
    assert zclone("run", "job.yaml", env=env).returncode == 0
    assert len(live(env)) == 6


def test_a_rollback_of_a_shard_says_that_it_is_one(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """A rollback by a shard's manifest names the shard: the clones of the others stay."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 6, head=HEAD)
    for number in (0, 1):
        assert zclone("run", "job.yaml", "--shard", f"{number}/2", env=env).returncode == 0
    done = zclone("rollback", "job.yaml", "--manifest", PARTS[1], "--yes", env=env)
    assert done.returncode == 0
    assert all(
        line.startswith("j, run default, shard 1/2 only: ") for line in done.stdout.splitlines() if "run" in line
    )
    assert len(live(env)) == zclone("list", PARTS[0], "-o", "jsonl").stdout.count("\n") > 0


def test_what_is_shown_of_a_shard_says_that_it_is_one(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """`status` by a shard's manifest names the shard, and a command that took it for the job file says so."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 6, head=HEAD)
    for number in (0, 1):
        assert zclone("run", "job.yaml", "--shard", f"{number}/2", env=env).returncode == 0
    assert ", shard 0/2 only\n" in zclone("status", PARTS[0]).stdout
    assert ", shard 1/2 only\n" in zclone("status", "job.yaml").stdout
    for command in (["status"], ["list"], ["report", "-o", "csv"]):
        done = zclone(*command, "job.yaml")
        assert (done.returncode, done.stderr.count("of shard 1/2 only")) == (0, 1), done.stderr
    retry = zclone("retry", "job.yaml", env=env)
    assert (retry.returncode, "zclone runs job.yaml" in retry.stderr) == (2, True)


def test_a_merged_run_is_continued_as_a_whole(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """Once the shards are merged, none is continued by itself: the merged manifest would not know what it made."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 6, head=HEAD)
    once = {"version": 1, "faults": [{"fault": "fail", "code": "SYS.1003", "times": 1}]}
    nodes.control(env["ZSTACK_API_URL"], {"faults": once})
    assert sorted(zclone("run", "job.yaml", "--shard", f"{number}/2", env=env).returncode for number in (0, 1)) == [
        0,
        3,
    ]
    assert zclone("merge", *PARTS, "--out", "job.manifest.jsonl").returncode == 0
    for command, number in (("retry", 0), ("retry", 1), ("run", 0), ("run", 1)):
        refused = zclone(command, "job.yaml", "--shard", f"{number}/2", env=env)
        assert (refused.returncode, "merged into job.manifest.jsonl" in refused.stderr) == (2, True), refused.stderr
    assert made(env) == 5
    assert zclone("retry", "job.yaml", env=env).returncode == 0
    assert zclone("rollback", "job.yaml", "--yes", env=env).returncode == 0
    assert live(env) == []


@pytest.mark.parametrize("name", ["job.backup.manifest.jsonl", "job.old.manifest.jsonl"])
def test_a_copy_beside_the_manifest_is_not_the_run(tmp_path: Path, zclone: Run, serve_node: Serve, name: str) -> None:
    """A job file means the manifest that `run` continues, not a copy of it, whichever name the copy has."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 3, head=HEAD)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    copy = tmp_path / name
    copy.write_bytes((tmp_path / "job.manifest.jsonl").read_bytes())
    copy.chmod(0o600)
    assert zclone("rollback", "job.yaml", "--yes", env=env).returncode == 0
    assert "  undone            3\n" in zclone("status", "job.yaml").stdout
    assert zclone("run", "job.yaml", env=env).returncode == 0
    assert len(live(env)) == 3
    assert zclone("verify", "job.yaml", env=env).stdout == "j, run default: 3 targets: 3 in-sync\n"


def test_a_copy_of_a_shard_is_not_the_whole_run(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """A copy of a shard's manifest is not taken for that of the whole run."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 6, head=HEAD)
    for number in (0, 1):
        assert zclone("run", "job.yaml", "--shard", f"{number}/2", env=env).returncode == 0
    (tmp_path / "job.shard-0-of-2.old.manifest.jsonl").write_bytes((tmp_path / PARTS[0]).read_bytes())
    assert ", shard 1/2 only\n" in zclone("status", "job.yaml").stdout
    assert zclone("verify", "job.yaml", env=env).stdout.startswith("j, run default, shard 1/2 only: ")


def write_twins(folder: Path, acme: str, globex: str) -> list[str]:
    """Write two job files of one name in two folders, each with more lines in its envelope; return their paths."""
    for name, more in (("acme", acme), ("globex", globex)):
        (folder / name).mkdir()
        write_job(folder / name, 2, head=HEAD.replace("limits", f"{more}limits"))
    return ["acme/job.yaml", "globex/job.yaml"]


def test_a_job_file_of_another_folder_is_another(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """A job file means its own newest run, not a newer one of a job file of the same name in another folder."""
    env = serve(tmp_path, serve_node)
    acme, globex = write_twins(tmp_path, "run: acme\n", "run: globex\n")
    for job in (acme, globex):
        assert zclone("run", job, env=env).returncode == 0
    before = live(env)
    for command in (["status"], ["verify"], ["retry"]):
        done = zclone(*command, acme, env=env)
        assert "globex" not in done.stdout + done.stderr, done.stderr
    done = zclone("rollback", acme, "--yes", env=env)
    assert (done.returncode, done.stdout.count("run acme: ")) == (0, 2), done.stdout
    assert len(live(env)) == 2
    assert zclone("verify", globex, env=env).stdout == "j, run globex: 2 targets: 2 in-sync\n"
    assert set(live(env)) <= set(before)


def test_a_manifest_of_another_job_file_is_warned_of(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """Two job files with one name and run are one run: commands with the second say so, unless the first is gone."""
    env = serve(tmp_path, serve_node)
    acme, globex = write_twins(tmp_path, "", "")
    warning = f"job.manifest.jsonl: was begun with the job file {acme}, and this is {globex}"
    assert zclone("run", acme, env=env).returncode == 0
    commands = (["run", globex], ["verify", globex], ["rollback", globex])
    for command in commands:
        assert warning in zclone(*command, env=env).stderr
    (tmp_path / acme).unlink()
    for command in commands:
        assert warning not in zclone(*command, env=env).stderr


def test_a_run_at_most_once_is_divided_once(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """At most once, a run that has a manifest begins no other one with other shards, which would send again."""
    env = serve(tmp_path, serve_node, honours_resource_uuid=False)
    write_job(tmp_path, 6, head=HEAD)
    for number in (0, 1):
        assert zclone("run", "job.yaml", "--shard", f"{number}/2", "--at-most-once", env=env).returncode == 0
    for flags in ([], ["--shard", "0/3"], ["--at-most-once"]):
        refused = zclone("run", "job.yaml", *flags, env=env)
        assert (refused.returncode, PARTS[0] in refused.stderr) == (2, True), refused.stderr
    assert made(env) == 6
    assert zclone("merge", *PARTS, "--out", "job.manifest.jsonl").returncode == 0
    assert zclone("run", "job.yaml", env=env).returncode == 0
    assert made(env) == 6
