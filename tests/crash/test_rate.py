"""The rate as the server sees it: over a socket, with retries, polls and queries counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.stage import finish, node, write_job

if TYPE_CHECKING:
    from pathlib import Path

RATE = 40
TRANSIENT = """\
version: 1
preset: calm
node: {latency: [0.05, 0.3]}
faults: [{fault: fail, code: SYS.1011, probability: 0.1}]
"""


def most_in_a_second(times: list[float]) -> int:
    """Most calls in any window of one second."""
    first = most = 0
    for last, at in enumerate(times):
        while at - times[first] >= 1:
            first += 1
        most = max(most, last - first + 1)
    return most


@pytest.mark.timeout(120)
def test_the_asked_rate_is_kept_and_never_passed(tmp_path: Path) -> None:
    """40/s asked, one job in ten fails for the moment: at most 41 calls in any second, 38/s while there is work."""
    (tmp_path / "faults.yaml").write_text(TRANSIENT, encoding="utf-8")
    write_job(tmp_path, 200, rate=f"{RATE}/s", concurrency=64, attempts=8)
    with node("faults.yaml", cwd=tmp_path) as served:
        code, _, err = finish(["run", "job.yaml", "--progress", "none"], cwd=tmp_path, url=served.url)
        ledger = served.ledger()
    assert code == 0, err
    assert ledger["faults"]["fail"] >= 8
    times = sorted(ledger["call_times"])
    assert most_in_a_second(times) <= RATE + 1
    submits = [at for at, kind in zip(ledger["call_times"], ledger["call_kinds"], strict=True) if kind == "submit"]
    # While there is work: from the end of the lone first clone until the last target was first sent.
    working = [at for at in times if submits[1] <= at <= submits[200]]
    assert (len(working) - 1) / (working[-1] - working[0]) >= 38


@pytest.mark.timeout(120)
def test_a_finished_run_started_again_does_nothing(tmp_path: Path) -> None:
    """0 calls, and the manifest stays as it is, byte for byte."""
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
