"""One conformance suite, two engines: each scenario ends alike in this process and on Temporal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from batch.errors import ExitCode
from tests.crash.stage import node, rows
from tests.temporal.stage import faults, staged

if TYPE_CHECKING:
    from pathlib import Path

    from tests.temporal.stage import Server

ACCOUNT: Final = {"ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "password"}


@dataclass(frozen=True)
class Scenario:
    """What goes wrong, and how a run of ten targets ends all the same."""

    faults: str
    code: ExitCode = ExitCode.OK
    states: dict[str, int] = field(default_factory=lambda: {"cloned": 10})
    job: str = "limits: {concurrency: 4}\n"
    login: dict[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


STORIES: Final = {
    "429": Scenario("{fault: rate_limited, seconds: 1, on: submit, requests: 3}"),
    "lost replies": Scenario("{fault: lost_reply, on: submit, requests: [2, 5]}"),
    "lost polls": Scenario("{fault: lost_reply, on: poll, requests: [2, 4]}"),
    "an expired job": Scenario("{fault: purged, requests: [3, 6]}"),
    "a row that is missing": Scenario("{fault: row_missing, requests: [3, 6]}"),
    "a POST that arrives twice": Scenario("{fault: twice, seconds: 0.1, requests: [2, 6]}"),
    "a node that is not ready": Scenario("{fault: fail, code: SYS.1010, requests: [2, 4]}"),
    "a session that ended": Scenario("{fault: expire_sessions, requests: 4}", login=ACCOUNT),
    "a target that cannot be cloned": Scenario(
        "{fault: fail, code: SYS.1006, source: '00000000000000000000000000000003'}",
        ExitCode.FAILED,
        {"cloned": 9, "failed": 1},
    ),
    "a wave that failed": Scenario(
        "{fault: fail, code: SYS.1006, source: '00000000000000000000000000000002'}",
        ExitCode.FAILED,
        {"cloned": 2, "failed": 1, "planned": 7},
        "limits: {concurrency: 4, waves: [1, 2, rest]}\n",
    ),
    "at most once": Scenario(
        "{fault: drop, requests: 3}", ExitCode.UNFINISHED, {"cloned": 9, "uncertain": 1}, flags=("--at-most-once",)
    ),
}
QUICK: Final = {"a POST that arrives twice"}


def write(folder: Path, story: Scenario) -> None:
    targets = "".join(f"  - {{uuid: '{number:032x}', id: t{number}}}\n" for number in range(1, 11))
    (folder / "job.yaml").write_text(f"version: 1\nname: story\n{story.job}targets:\n{targets}", encoding="utf-8")


def cases() -> list[object]:
    return [
        pytest.param(name, engine, id=f"{name}, {engine}", marks=() if name in QUICK else pytest.mark.slow)
        for name in STORIES
        for engine in ("local", "temporal")
    ]


@pytest.mark.parametrize(("name", "engine"), cases())
def test_a_scenario_ends_alike_on_both_engines(server: Server, tmp_path: Path, name: str, engine: str) -> None:
    """Exit code, states and what the node made are those of the scenario on both engines; none is made twice."""
    story = STORIES[name]
    write(tmp_path, story)
    script = f"version: 1\nnode: {{latency: [0.05, 0.2]}}\nfaults: [{story.faults}]\n"
    with node(faults(tmp_path, script), cwd=tmp_path) as served, staged(tmp_path, served.url, server) as stage:
        stage.login = story.login
        if engine == "temporal":
            stage.work()
        code, output = stage.run("run", "job.yaml", "--engine", engine, "--progress", "none", *story.flags)
        ledger = served.ledger()
    states = Counter(row["state"] for row in rows("job.manifest.jsonl", cwd=tmp_path))
    assert (code, dict(states)) == (story.code, story.states), output
    assert ledger["duplicates"] == []
    assert ledger["clones_made"] >= story.states["cloned"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "temporal"])
def test_both_engines_follow_an_edited_job_file(server: Server, tmp_path: Path, engine: str) -> None:
    """A failed target is sent as the file is now, one that left is withdrawn, an existing clone stays."""
    story = STORIES["a wave that failed"]
    write(tmp_path, story)
    script = (
        "version: 1\nfaults: [{fault: fail, code: SYS.1007, source: '00000000000000000000000000000002', times: 1}]\n"
    )
    with node(faults(tmp_path, script), cwd=tmp_path) as served, staged(tmp_path, served.url, server) as stage:
        if engine == "temporal":
            stage.work()
        first = stage.run("run", "job.yaml", "--engine", engine, "--progress", "none")
        job = tmp_path / "job.yaml"
        text = job.read_text(encoding="utf-8").replace("id: t2}", "id: t2, params: {requestCpu: 8}}")
        job.write_text(
            "".join(line for line in text.splitlines(keepends=True) if "id: t9}" not in line), encoding="utf-8"
        )
        again = stage.run("retry", "job.yaml", "--progress", "none")
        ledger = served.ledger()
    assert (first[0], again[0]) == (ExitCode.FAILED, ExitCode.OK), again[1]
    states = Counter(row["state"] for row in rows("job.manifest.jsonl", cwd=tmp_path))
    assert states == {"cloned": 9, "withdrawn": 1}
    assert (ledger["clones_made"], ledger["duplicates"]) == (9, [])
