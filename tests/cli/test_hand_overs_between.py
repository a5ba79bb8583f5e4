"""Hand-overs of a run that other commands changed in between: none is lost, and none is taken for done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests import nodes
from tests.cli.test_verify import TENANT, as_account, serve, uuid_of, write_job

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]
    Serve = Callable[..., str]


def test_a_refused_share_is_not_done_once_fields_are_set(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """``verify --fix`` by an account that sees no shares exits with 0, and the next run retries the refused one."""
    env = as_account(serve(tmp_path, serve_node), "tenant")
    write_job(tmp_path, 1, head="version: 1\nname: j\ntargets:\n", more=f", share_with: [{'9' * 32}]")
    assert zclone("run", "job.yaml", env=env).returncode == 3
    nodes.tamper(env["ZSTACK_API_URL"], {"change": {uuid_of("t0"): {"requestCpu": 7}}})
    fixed = zclone("verify", "job.yaml", "--fix", "--yes", env=env)
    assert fixed.returncode == 0, fixed.stderr
    again = zclone("run", "job.yaml", env=env)
    assert again.returncode == 3
    assert "0 of 1 clones handed over, 1 refused" in again.stderr


def test_a_recreated_clone_is_handed_over_even_if_its_predecessor_was_not_ours(
    tmp_path: Path, zclone: Run, serve_node: Serve
) -> None:
    """A clone that existed before its manifest is not handed over; the one that the run makes in its place is."""
    env = serve(tmp_path, serve_node)
    head = "version: 1\nname: j\ntargets:\n"
    write_job(tmp_path, 1, head=head)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    (tmp_path / "job.manifest.jsonl").unlink()
    write_job(tmp_path, 1, head=head, more=f", owner: {TENANT}")
    kept = zclone("run", "job.yaml", env=env)
    assert kept.returncode == 3
    assert "ZCLONE.NOT_OURS" in kept.stderr
    nodes.tamper(env["ZSTACK_API_URL"], {"delete": [uuid_of("t0")]})
    zclone("verify", "job.yaml", "--reopen", "--yes", env=env)
    done = zclone("run", "job.yaml", env=env)
    assert done.returncode == 0, done.stderr
    owners = {row["uuid"]: row["owner"] for row in nodes.ledger(env["ZSTACK_API_URL"])["clones"]}
    assert owners[uuid_of("t0", generation=1)] == TENANT


def test_a_refused_owner_that_left_the_job_file_is_no_failure(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """Once the job file no longer has the owner, exit code, status, list, report and JUnit agree that all is done."""
    env = serve(tmp_path, serve_node)
    head = "version: 1\nname: j\ntargets:\n"
    write_job(tmp_path, 1, head=head, more=f", owner: {'9' * 32}")
    assert zclone("run", "job.yaml", env=env).returncode == 3
    write_job(tmp_path, 1, head=head)
    done = zclone("run", "job.yaml", "--report", "r.json", env=env)
    assert (done.returncode, json.loads((tmp_path / "r.json").read_text())["exit_code"]) == (0, 0), done.stderr
    assert "refused" not in zclone("status", "job.yaml").stdout
    assert json.loads(zclone("list", "job.yaml", "-o", "jsonl").stdout)["error_code"] is None
    assert zclone("report", "job.yaml", "--out", "r.xml").returncode == 0
    assert "<failure" not in (tmp_path / "r.xml").read_text()
    assert "settled" in zclone("runs", "job.yaml").stdout
