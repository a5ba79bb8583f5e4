"""Every command reports what a rollback that was cut off may have deleted, and no run counts that as cloned."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from tests import forkserver, nodes
from tests.cli.test_parts_and_wholes import live
from tests.cli.test_rollback import ROLLBACK
from tests.cli.test_verify import serve, uuid_of, verify, write_job

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]
    Serve = Callable[..., str]

HEAD: Final = "version: 1\nname: j\nlimits: {rate: 1000/s}\ntargets:\n"


def fail_deletes(env: dict[str, str], **fault: object) -> None:
    """Make every DELETE fail with the fault."""
    nodes.control(env["ZSTACK_API_URL"], {"faults": {"version": 1, "faults": [{"on": "delete", **fault}]}})


def cut_off(folder: Path, env: dict[str, str], *, until_deleted: bool) -> None:
    """Kill a rollback once both its DELETEs are recorded, or executed."""
    manifest = folder / "job.manifest.jsonl"
    with forkserver.start_text(ROLLBACK, cwd=folder, env=env) as process:
        while manifest.read_text(encoding="utf-8").count('{"deleting":') < 2 or (until_deleted and live(env)):
            assert process.poll() is None
        process.kill()


def test_clones_deleted_by_a_killed_rollback_are_recreated(
    tmp_path: Path, zclone: Run, child_env: dict[str, str], serve_node: Serve
) -> None:
    """A run after a killed rollback does not report deleted clones as cloned: it recreates them."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 2, head=HEAD)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    fail_deletes(env, fault="lost_reply", seconds=30)
    cut_off(tmp_path, child_env | env, until_deleted=True)
    done = zclone("run", "job.yaml", env=env)
    assert done.returncode == 0, done.stderr
    assert sorted(live(env)) == sorted(uuid_of(f"t{number}", generation=1) for number in range(2)), done.stderr
    assert verify(zclone, env=env, exits=0)["counts"]["in-sync"] == 2


def test_a_clone_that_may_still_be_deleted_is_not_cloned(
    tmp_path: Path, zclone: Run, child_env: dict[str, str], serve_node: Serve
) -> None:
    """While a DELETE of a killed rollback may arrive, run exits with 4 and verify calls the clone unknown."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 2, head=HEAD)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    fail_deletes(env, fault="drop")
    cut_off(tmp_path, child_env | env, until_deleted=False)
    held = zclone("run", "job.yaml", env=env)
    assert held.returncode == 4, held.stderr
    assert "it is not known yet whether it deleted t0, t1" in held.stderr
    assert verify(zclone, env=env, exits=4)["counts"]["unknown"] == 2
    assert "2 clones with a DELETE on record" in zclone("status", "job.yaml").stdout
    assert "unfinished" in zclone("runs", "job.yaml").stdout
    assert zclone("runs", "job.yaml", "--prune", "--keep", "0").stderr == ""
    nodes.tamper(env["ZSTACK_API_URL"], {"delete": live(env)})
    assert zclone("run", "job.yaml", env=env).returncode == 0
    assert len(live(env)) == 2


def test_a_clone_whose_delete_was_refused_is_cloned(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """A refused DELETE has an end: the clone exists, and the run says so."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 2, head=HEAD)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    fail_deletes(env, fault="fail", code="SYS.1003")
    assert zclone(*ROLLBACK, env=env).returncode == 3
    done = zclone("run", "job.yaml", env=env)
    assert (done.returncode, len(live(env))) == (0, 2), done.stderr
    assert "2 of 2 targets cloned" in done.stderr


def test_an_undone_target_that_left_the_job_file_does_not_count(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """It is withdrawn, so that the run ends with 0; back in the file it is made under its next generation's uuid."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 2, head=HEAD)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    assert zclone(*ROLLBACK, env=env).returncode == 0
    write_job(tmp_path, 1, head=HEAD)
    done = zclone("run", "job.yaml", env=env)
    assert (done.returncode, live(env)) == (0, [uuid_of("t0", generation=1)]), done.stderr
    listed = [json.loads(line) for line in zclone("list", "job.yaml", "-o", "jsonl").stdout.splitlines()]
    assert [row["state"] for row in listed] == ["cloned", "withdrawn"]
    assert "withdrawn         1" in zclone("status", "job.yaml").stdout
    write_job(tmp_path, 2, head=HEAD)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    assert sorted(live(env)) == sorted(uuid_of(f"t{number}", generation=1) for number in range(2))
