"""The rate as the server sees it: over a socket, with retries, polls and queries counted."""

from __future__ import annotations

import json
import signal
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.crash.stage import NodeProcess, finish, node, rows, start, write_job

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

RATE = 40
LATE = 0.1
"""Seconds by which calls may be delayed on their way, on a machine with other work to do.

``engine/test_gate.py`` counts to the call, on the client's clock.
"""
TRANSIENT = """\
version: 1
preset: calm
node: {latency: [0.05, 0.3]}
faults: [{fault: fail, code: SYS.1011, probability: 0.1}]
"""


def most_within(times: list[float], seconds: float) -> int:
    """Return the most calls in any window of ``seconds``."""
    first = most = 0
    for last, at in enumerate(times):
        while at - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def check_never_passed(times: list[float], rate: float) -> None:
    """Check sorted arrivals, in seconds, against a rate in calls per second: in short windows and in longer ones."""
    for seconds in (1, 5):
        assert most_within(times, seconds) <= rate * (seconds + LATE) + 1


def arrivals(tmp_path: Path) -> tuple[list[float], list[str]]:
    """Run 200 targets at 40/s of which one in ten fails temporarily; return when which calls arrived, in seconds."""
    (tmp_path / "faults.yaml").write_text(TRANSIENT, encoding="utf-8")
    write_job(tmp_path, 200, rate=f"{RATE}/s", concurrency=64, attempts=8)
    with node("faults.yaml", cwd=tmp_path) as served:
        code, _, err = finish(["run", "job.yaml", "--progress", "none"], cwd=tmp_path, url=served.url)
        ledger = served.ledger()
    assert code == 0, err
    assert ledger["faults"]["fail"] >= 8
    return ledger["call_times"], ledger["call_kinds"]


@pytest.mark.timeout(300)
def test_the_set_rate_is_never_exceeded(tmp_path: Path) -> None:
    """No more calls arrive than the rate allows, except for delayed ones."""
    times, _ = arrivals(tmp_path)
    check_never_passed(sorted(times), RATE)


@pytest.mark.bench
def test_the_set_rate_is_kept(tmp_path: Path) -> None:
    """While there is work 0.95 of the rate arrive."""
    times, kinds = arrivals(tmp_path)
    submits = [at for at, kind in zip(times, kinds, strict=True) if kind == "submit"]
    # While there is work: from the end of the lone first clone until the last target was first sent.
    working = [at for at in sorted(times) if submits[1] <= at <= submits[200]]
    assert (len(working) - 1) / (working[-1] - working[0]) >= 0.95 * RATE


@pytest.mark.timeout(300)
def test_rerunning_a_finished_run_does_nothing(tmp_path: Path) -> None:
    """0 calls, and the manifest stays byte-identical."""
    write_job(tmp_path, 30, rate="200/s", concurrency=16)
    with node("calm", cwd=tmp_path) as served:
        command = ["run", "job.yaml", "--progress", "none"]
        code, _, err = finish(command, cwd=tmp_path, url=served.url)
        assert code == 0, err
        calls = served.ledger()["calls_total"]
        manifest = (tmp_path / "job.manifest.jsonl").read_bytes()
        code, _, err = finish(command, cwd=tmp_path, url=served.url)
        assert code == 0, err
        assert served.ledger()["calls_total"] == calls
        assert (tmp_path / "job.manifest.jsonl").read_bytes() == manifest


ACCOUNT = {"ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "password"}
ENDLESS = "version: 1\nnode: {latency: [3600, 3600]}\n"
AWAY = """\
version: 1
node: {latency: [0.05, 0.1]}
faults: [{fault: rate_limited, seconds: 3600, on: submit}]
"""
SOON = 150
"""Seconds within which a command ends on a slow machine too: the calls show what a stop cut short."""


def begin(folder: Path, served: NodeProcess, *options: str) -> subprocess.Popen[str]:
    """Start a run of ten targets that logs in with an account."""
    write_job(folder, 10, concurrency=4)
    command = ["run", "job.yaml", "--progress", "none", "--log-format", "json", *options]
    return start(command, cwd=folder, url=served.url, settings=ACCOUNT)


def wait_for(served: NodeProcess, is_there: Callable[[dict[str, Any]], bool]) -> None:
    give_up = time.monotonic() + 200
    while not is_there(served.ledger()):
        assert time.monotonic() < give_up, "the command does not get that far"
        time.sleep(0.05)


def check_left(served: NodeProcess, rate: float) -> dict[str, int]:
    """Check that every opened session is closed, and that only the logout exceeded the rate; return the calls."""
    ledger = served.ledger()
    calls: dict[str, int] = ledger["calls"]
    assert calls.get("logout", 0) == calls.get("login", 0)
    timeline = zip(ledger["call_times"], ledger["call_kinds"], strict=True)
    times = sorted(at for at, kind in timeline if kind != "logout")
    check_never_passed(times, rate)
    assert all(later - sooner > 0.9 / rate for sooner, later in pairwise(times) if rate < 1)
    return calls


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("setting", "rate"), [("1/h", 1 / 3600), ("60/h", 1 / 60), ("10/min", 1 / 6)])
def test_a_stop_does_not_wait_for_a_slow_rate(setting: str, rate: float, tmp_path: Path) -> None:
    """With the next call's turn far away SIGTERM ends the run with 4 before it comes, at the login too."""
    (tmp_path / "node.yaml").write_text(ENDLESS, encoding="utf-8")
    with node("node.yaml", cwd=tmp_path) as served:
        process = begin(tmp_path, served, "--rate", setting)
        wait_for(served, lambda ledger: bool(ledger["calls"]))
        process.send_signal(signal.SIGTERM)
        _, output = process.communicate(timeout=SOON)
        assert process.returncode == 4, output
        calls = check_left(served, rate)
    assert not calls.get("submit", 0)
    assert sum(calls.values()) == 1


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("setting", "rate", "posts"), [("30/min", 0.5, 1), pytest.param("40/s", 40, 1, marks=pytest.mark.slow)]
)
def test_a_stop_ends_with_the_grace_at_any_rate(setting: str, rate: float, posts: int, tmp_path: Path) -> None:
    """With clones in flight that never end polls continue at the rate, and the run ends after 30 s; they stay open."""
    (tmp_path / "node.yaml").write_text(ENDLESS, encoding="utf-8")
    with node("node.yaml", cwd=tmp_path) as served:
        process = begin(tmp_path, served, "--rate", setting)
        wait_for(served, lambda ledger: ledger["calls"].get("submit", 0) >= posts)
        process.send_signal(signal.SIGTERM)
        _, output = process.communicate(timeout=SOON)
        assert process.returncode == 4, output
        calls = check_left(served, rate)
    assert (calls["submit"], calls["logout"]) == (posts, 1)
    assert calls["poll"] > 1
    found = [row["state"] for row in rows("job.manifest.jsonl", cwd=tmp_path)]
    assert sum(state in {"sent", "accepted"} for state in found) == posts


@pytest.mark.timeout(300)
def test_a_deadline_does_not_wait_for_a_slow_rate(tmp_path: Path) -> None:
    """A deadline counts from the start and ends a run at 60/h that has got no further than its first call."""
    (tmp_path / "node.yaml").write_text(ENDLESS, encoding="utf-8")
    with node("node.yaml", cwd=tmp_path) as served:
        process = begin(tmp_path, served, "--rate", "60/h", "--deadline", "3s")
        _, output = process.communicate(timeout=SOON)
        assert process.returncode == 4, output
        assert "the deadline has passed" in output
        assert sum(check_left(served, 1 / 60).values()) == 1


@pytest.mark.timeout(300)
def test_a_deadline_does_not_wait_for_a_pause(tmp_path: Path) -> None:
    """While the server asks to come back in an hour the deadline ends the run; the log says how long it waited."""
    (tmp_path / "node.yaml").write_text(AWAY, encoding="utf-8")
    with node("node.yaml", cwd=tmp_path) as served:
        process = begin(tmp_path, served, "--rate", "40/s", "--deadline", "4s")
        _, output = process.communicate(timeout=SOON)
        assert process.returncode == 4, output
        calls = check_left(served, 40)
    assert (calls["submit"], calls["logout"]) == (1, 1)
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [event["seconds"] for event in events if event["event"] == "server.busy" and "seconds" in event] == [900]
