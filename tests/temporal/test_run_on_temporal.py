"""``zclone run --engine temporal`` as a user sees it: real server, real workers, the node's own ledger."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from batch.errors import ExitCode
from tests.crash.stage import node, rows, write_job
from tests.temporal.stage import faults, staged, temporal_server

ACCOUNT = {"ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "password"}

if TYPE_CHECKING:
    from pathlib import Path

    from tests.temporal.stage import Server


def test_each_clone_is_made_once(server: Server, tmp_path: Path) -> None:
    """Two workers make each clone of a run once, though the server loses replies, and the manifest has all of it."""
    write_job(tmp_path, 30, concurrency=16)
    with node(faults(tmp_path), cwd=tmp_path) as served, staged(tmp_path, served.url, server) as stage:
        stage.login = ACCOUNT
        before = served.ledger()["sessions_open"]
        workers = [stage.work(share="1/2") for _ in range(2)]
        code, output = stage.run_job("--metrics-file", "m.prom", "--report", "r.json")
        stage.end()
        ledger = served.ledger()
    # SIGTERM is no failure of a worker, which leaves no session behind.
    assert ([worker.returncode for worker in workers], ledger["sessions_open"]) == ([0, 0], before)
    assert "zclone_worker_rate 50.0" in (tmp_path / "worker-0.prom").read_text(encoding="utf-8")
    assert (code, ledger["clones_made"], ledger["duplicates"]) == (ExitCode.OK, 30, []), output
    made = {clone["uuid"] for clone in ledger["clones"]}
    assert {row["clone_uuid"] for row in rows("job.manifest.jsonl", cwd=tmp_path)} == made
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))


def test_a_run_outlives_its_command(server: Server, tmp_path: Path) -> None:
    """Ctrl-C leaves the run to the workers, SIGKILL too; the same command finds it again and ends with its outcome."""
    write_job(tmp_path, 30, concurrency=8)
    with node(faults(tmp_path), cwd=tmp_path) as served, staged(tmp_path, served.url, server) as stage:
        stage.work(rate="20/s")
        first = stage.start_job()
        stage.wait_for(3)
        first.send_signal(signal.SIGINT)
        _, output = first.communicate(timeout=250)
        assert first.returncode == ExitCode.UNFINISHED
        assert "on Temporal" in output
        second = stage.start_job()
        stage.wait_for(12)
        second.kill()
        second.communicate()
        # The engine of the last start is used.
        code, output = stage.run("run", "job.yaml", "--progress", "none")
        ledger = served.ledger()
    assert (code, ledger["clones_made"], ledger["duplicates"]) == (ExitCode.OK, 30, []), output
    assert len(rows("job.manifest.jsonl", cwd=tmp_path)) == 30


@pytest.mark.slow
def test_cancel_ends_a_run_and_another_engine_takes_over(server: Server, tmp_path: Path) -> None:
    """--cancel lets what is in flight settle and exits with 4; before it another engine or plan is refused with 75."""
    job = write_job(tmp_path, 40, concurrency=4)
    with node("calm", cwd=tmp_path) as served, staged(tmp_path, served.url, server) as stage:
        stage.work(rate="3/s")
        first = stage.start_job()
        stage.wait_for(3)
        first.kill()
        first.communicate()
        local = stage.run("run", "job.yaml", "--engine", "local")
        again = stage.run("retry", "job.yaml")
        text = job.read_text(encoding="utf-8")
        job.write_text(text.replace("targets:", "defaults: {params: {description: other}}\ntargets:"), encoding="utf-8")
        edited = stage.run_job("--accept-changes")
        job.write_text(text, encoding="utf-8")
        cancelled = stage.run_job("--cancel")
        assert [code for code, _ in (local, again, edited)] == [ExitCode.LOCKED] * 3
        assert all("zclone/http" in output for _, output in (local, again, edited))
        assert cancelled[0] == ExitCode.UNFINISHED
        states = {row["state"] for row in rows("job.manifest.jsonl", cwd=tmp_path)}
        assert states == {"cloned", "planned"}
        nothing = stage.run_job("--cancel")
        assert nothing[0] == ExitCode.USAGE
        stage.server = replace(stage.server, port=1)
        calls = served.ledger()["calls_total"]
        unasked = stage.run("run", "job.yaml", "--engine", "local")
        # Not 5, which says that the run never sent anything.
        assert (unasked[0], "127.0.0.1:1" in unasked[1]) == (ExitCode.UNFINISHED, True), unasked[1]
        assert served.ledger()["calls_total"] == calls
        stage.server = server
        taken = stage.run("run", "job.yaml", "--engine", "local", "--rate", "100/s")
        ledger = served.ledger()
    assert taken[0] == ExitCode.OK
    assert (ledger["clones_made"], ledger["duplicates"]) == (40, [])


@pytest.mark.slow
def test_nothing_that_is_killed_makes_a_clone_twice(tmp_path: Path) -> None:
    """A worker, the Temporal server and the command are killed in one run; each clone is made once all the same."""
    write_job(tmp_path, 150, concurrency=24)
    with (
        temporal_server(tmp_path) as server,
        node(faults(tmp_path), cwd=tmp_path) as served,
        staged(tmp_path, served.url, server) as stage,
    ):
        workers = [stage.work(rate="60/s", share="1/3") for _ in range(3)]
        command = stage.start_job()
        stage.wait_for(30)
        workers[0].kill()
        stage.wait_for(60)
        server.kill()
        server.start()
        stage.work(rate="60/s", share="1/3")
        stage.wait_for(90)
        command.kill()
        command.communicate()
        code, output = stage.run_job()
        ledger = served.ledger()
    assert (code, ledger["clones_made"], ledger["duplicates"]) == (ExitCode.OK, 150, []), output
    made = {clone["uuid"] for clone in ledger["clones"]}
    assert {row["clone_uuid"] for row in rows("job.manifest.jsonl", cwd=tmp_path)} == made
