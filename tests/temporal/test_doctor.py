"""``doctor --engine temporal`` and the list of open runs: what an operator checks before and between runs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest

from batch.app.doctor import _worker_findings, examine_temporal
from batch.app.temporal import find_open_runs
from batch.cli.app import run_command
from batch.errors import ExitCode
from batch.manifest.kinds import RemoteEngine, StartedLine
from batch.manifest.line import Header
from batch.manifest.summaries import Summary
from batch.model import State
from batch.redaction import SECRETS
from batch.report.listings import RemoteRow, run_lines
from batch.report.status import status_lines
from batch.temporal.worker import Poller, WorkerIdentity, open_connection
from tests.temporal.scene import ScriptedClient, scene, working

if TYPE_CHECKING:
    from pathlib import Path

    from batch.app.doctor import Diagnosis
    from batch.temporal.command import OpenRun
    from tests.temporal.stage import Server


def identity(share: str = "1/1", rate: float = 40.0, keys: tuple[str, ...] = ()) -> WorkerIdentity:
    return WorkerIdentity("12@host", Fraction(share), rate, keys)


def judge(*found: WorkerIdentity, keys: tuple[str, ...] = (), silence: float = 1.0) -> list[Diagnosis]:
    seen_at = time.time() - silence
    return list(_worker_findings([Poller(one, str(one), seen_at) for one in found], keys))


@pytest.mark.parametrize(
    "one", [identity(), identity("1/3", 0.1), identity("2/7", 1e-3, ("aaaa0000",)), identity(keys=("a", "b"))], ids=str
)
def test_a_workers_identity_round_trip(one: WorkerIdentity) -> None:
    """Share, rate and names of keys are unchanged on their way through Temporal, which stores only a text."""
    assert WorkerIdentity.parse(str(one)) == one
    assert WorkerIdentity.parse("12@host") is None


@pytest.mark.parametrize(
    ("workers", "verdict", "word", "code"),
    [
        ((), "FAIL", "no worker", ExitCode.UNREACHABLE),
        ((identity("1/3"), identity("2/3")), "ok", "1 of 40/s", ExitCode.OK),
        ((identity("1/3"), identity("1/3")), "warn", "2/3 of 40/s", ExitCode.OK),
        ((identity("1/3"), identity("1/1")), "FAIL", "4/3 of 40/s", ExitCode.USAGE),
        ((identity("1/2"), identity("1/2", 20.0)), "FAIL", "20/s, 40/s", ExitCode.USAGE),
    ],
)
def test_shares_add_up(workers: tuple[WorkerIdentity, ...], verdict: str, word: str, code: ExitCode) -> None:
    """No worker, shares that do not add up to one, and different rates have different reports."""
    last = judge(*workers)[-1]
    assert (last.verdict, word in last.detail, last.exit_code) == (verdict, True, code)


def test_a_silent_worker_does_not_count() -> None:
    """A worker that has not polled for a task for more than a minute is gone."""
    assert judge(identity(), silence=80.0)[-1].exit_code is ExitCode.UNREACHABLE


def test_a_foreign_poller_is_reported() -> None:
    """A foreign process that takes the endpoint's tasks is reported, and has no share."""
    found = list(_worker_findings([Poller(None, "9@elsewhere", time.time())], ()))
    assert [one.verdict for one in found] == ["warn", "FAIL"]
    assert "9@elsewhere" in found[0].detail


def test_a_wrong_key_is_reported_for_each_worker() -> None:
    """A worker that cannot read what this process writes, or the reverse, is reported with the key."""
    found = [
        one for one in judge(identity("1/2", keys=("bbbb",)), identity("1/2"), keys=("aaaa",)) if one.what == "key"
    ]
    assert [(one.verdict, one.exit_code) for one in found] == [("FAIL", ExitCode.USAGE)] * 2
    assert ("bbbb" in found[0].detail, "aaaa" in found[1].detail) == (True, True)


def test_a_missing_server_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An unreachable Temporal is reported with its address, whatever ZStack says; exit code 5."""
    for name, value in (("ZSTACK_API_URL", "http://127.0.0.1:9/zstack"), ("ZSTACK_SESSION_ID", "b86c9016b4f2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:9")
    assert run_command(["doctor", "--engine", "temporal"]) == ExitCode.UNREACHABLE
    assert "FAIL Temporal: cannot reach Temporal at 127.0.0.1:9" in capsys.readouterr().out


KEY = "planted-api-key-of-temporal"


@pytest.mark.parametrize("line", [f'api_key = "{KEY}', f"api_key = {KEY}", f'api_key = "{KEY}" x'])
async def test_an_unreadable_file_is_not_quoted(line: str, tmp_path: Path) -> None:
    """Temporal's own file may hold an API key: an error in it is reported by its place alone."""
    file = tmp_path / "temporal.secret"
    file.write_text(f"[profile.default]\n{line}\n", encoding="utf-8")
    (found,) = [one async for one in examine_temporal({"TEMPORAL_CONFIG_FILE": str(file)}, "http://z")]
    assert (found.exit_code, "line 2" in found.detail, KEY in found.detail) == (ExitCode.USAGE, True, False)


async def test_temporals_api_key_is_redacted() -> None:
    """The API key, from any source, is among the secrets that no message shows."""
    settings = {"TEMPORAL_ADDRESS": "127.0.0.1:9", "TEMPORAL_API_KEY": KEY}
    (found,) = [one async for one in examine_temporal(settings, "http://z")]
    assert found.exit_code is ExitCode.UNREACHABLE
    assert KEY not in SECRETS.redact(f"x {KEY} x")


@pytest.mark.parametrize("address", ["temporal:port", "a b:7233", "[::1"])
async def test_an_invalid_address_is_reported(address: str) -> None:
    """An invalid address is an error of the settings that names the variable."""
    (found,) = [one async for one in examine_temporal({"TEMPORAL_ADDRESS": address}, "http://z")]
    assert (found.exit_code, "TEMPORAL_ADDRESS" in found.detail) == (ExitCode.USAGE, True)


async def test_namespace_and_workers_are_checked(server: Server) -> None:
    """A wrong namespace, a queue without a worker and one with its workers have different reports on a real server."""
    client = ScriptedClient()
    settings = {"TEMPORAL_ADDRESS": server.address}
    (wrong,) = [one async for one in examine_temporal(settings | {"TEMPORAL_NAMESPACE": "nowhere"}, client.url)]
    assert (wrong.verdict, "no namespace nowhere" in wrong.detail, wrong.exit_code) == ("FAIL", True, 5)
    empty = [one async for one in examine_temporal(settings, client.url)]
    assert [(one.verdict, one.what) for one in empty] == [("ok", "Temporal"), ("FAIL", "workers")]
    async with working(server, client, rate=40.0):
        found = empty
        while found == empty:  # a worker is listed once it has polled for a task
            found = [one async for one in examine_temporal(settings, client.url)]
    assert [(one.verdict, one.what) for one in found] == [("ok", "Temporal"), ("ok", "worker"), ("ok", "shares")]


async def test_an_open_run_is_listed_with_its_counts(server: Server) -> None:
    """A run is listed as open until it has ended; its memo has job, run and, at the end, all counts."""
    client = ScriptedClient()
    found = await scene(server, client, 6, job=client.url[7:])
    await found.begin()
    settings = {"TEMPORAL_ADDRESS": server.address}
    (one,) = await _listed(settings, found.work.plan.job, count=1)
    assert (one.run, one.targets, one.workflow_id) == ("run", 6, found.run.id)
    assert await find_open_runs(settings, "other") == []
    async with working(server, client):
        await found.follow()
    assert await _listed(settings, found.work.plan.job, count=0) == []
    connection = await open_connection(settings)
    memo = await (await connection.client.get_workflow_handle(found.run.id).describe()).memo()
    assert memo["states"] == {State.CLONED: 6}


async def _listed(settings: dict[str, str], job: str, *, count: int) -> list[OpenRun]:
    """Return the open runs once there are ``count``: lists lag behind."""
    while True:
        found = await find_open_runs(settings, job)
        if len(found) == count:
            return found
        await asyncio.sleep(0.1)


def test_status_names_the_workflow(tmp_path: Path) -> None:
    """For a run on Temporal `status` prints its workflow, and the command that shows it there, safe for a shell."""
    path = tmp_path / "m.jsonl"
    remote = RemoteEngine("temporal", "h:7233", "n s", "zclone/http://z/job/run")
    header = Header("job", "run", "http://z", simulated=False)
    started = StartedLine(0.0, 1, "here", "zclone 0", remote=remote)
    summary = Summary(header, None, Counter(), (), started, None, (), 0)
    lines = status_lines(summary, manifest=path, is_locked=False, now=1.0)
    assert "engine    Temporal at h:7233, namespace n s; it shows the run:" in lines
    command = "temporal workflow describe --address h:7233 --namespace 'n s' --workflow-id zclone/http://z/job/run"
    assert f"          {command}" in lines


def test_a_list_of_runs_shows_the_open_ones() -> None:
    """A run on Temporal without a local manifest has its own line, with its counts and its workflow."""
    lines = run_lines([], [RemoteRow("night", 0.0, {State.CLONED: 3}, 9, "zclone/http://z/job/night")])
    assert lines[1].split("  ") == [
        "night",
        "1970-01-01T00:00:00.000Z",
        "on Temporal",
        "3 of 9",
        "zclone/http://z/job/night",
    ]
