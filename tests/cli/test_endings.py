"""How a process reports its end, and that every command and file reports the same."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

import pytest

from batch.app.manifest import EMBEDDED
from batch.cli.app import run_command
from batch.errors import EndReason
from batch.manifest import Header, open_manifest
from batch.model import Record, State

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


SOURCES: Final = [f"{number:012x}4aaa8{number:015x}" for number in range(1, 25)]
MANIFEST: Final = "job.simulated.manifest.jsonl"
SLOWLY: Final = ("--rate", "3/s", "--concurrency", "1")
"""About one and a half clones a second."""


def write(folder: Path, *, limits: str, failing: tuple[int, ...] = (), node: str = "", fault: str = "") -> None:
    """Write a job of 24 targets, and a node on which those in ``failing`` fail for good."""
    targets = "".join(f"  - {source}\n" for source in SOURCES)
    (folder / "job.yaml").write_text(
        f"version: 1\nname: job\nlimits: {{rate: 500/s, concurrency: 2, attempts: 1, {limits}}}\ntargets:\n{targets}",
        encoding="utf-8",
    )
    faults = [f"{{fault: fail, code: SYS.1007, source: {SOURCES[number]}}}" for number in failing]
    script = f"version: 1\nnode: {{latency: [0, 0.01], locale: en_US{node}}}\nfaults: [{', '.join([*faults, fault])}]\n"
    (folder / "f.yaml").write_text(script.replace(", ]", "]"), encoding="utf-8")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / MANIFEST).read_text(encoding="utf-8").splitlines()]


def sent(folder: Path) -> int:
    return sum(line.get("state") == "sent" for line in lines(folder))


def states(folder: Path) -> Counter[str]:
    return Counter({line["key"]: line["state"] for line in lines(folder) if "state" in line}.values())


def end_of_run(folder: Path, zclone: Run) -> dict[str, Any]:
    """Return the end as manifest, report, metrics and status report it."""
    assert zclone("report", MANIFEST, "--out", "report.json").returncode == 0
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    ended = next(line for line in reversed(lines(folder)) if "ended" in line)
    metrics = (folder / "m.prom").read_text(encoding="utf-8").splitlines()
    reasons = [line for line in metrics if line.startswith("zclone_run_end_reason{") and line.endswith(" 1")]
    codes = [line.split()[-1] for line in metrics if line.startswith("zclone_run_exit_code{")]
    status = zclone("status", MANIFEST).stdout
    process = next(line for line in status.splitlines() if line.startswith("process"))
    return {
        "reasons": {ended.get("reason_code"), report["reason"], *(line.split('"')[3] for line in reasons)},
        "codes": {ended["exit"], report["exit_code"], *map(int, codes)},
        "process": process,
        "next": [line for line in status.splitlines() if line.startswith("next ")],
    }


@pytest.mark.parametrize(
    ("limits", "failing", "reason"),
    [
        ("waves: [2, 6, rest]", (3, 4), EndReason.WAVE),
        ("max_failures: 3", tuple(range(4, 12)), EndReason.MAX_FAILURES),
    ],
)
def test_targets_held_back_by_failures_exit_with_3_and_one_next_step(
    limits: str, failing: tuple[int, ...], reason: EndReason, tmp_path: Path, zclone: Run
) -> None:
    """A wave held back, and max_failures exceeded: exit 3 each time, nothing more is sent, and retry continues."""
    write(tmp_path, limits=limits, failing=failing)
    command = ("run", "job.yaml", "--simulate=f.yaml", "--metrics-file", "m.prom")
    first = zclone(*command)
    assert first.returncode == 3, first.stderr
    assert first.stderr.count("zclone retry job.yaml --simulate\n") == 1
    assert "run the same command again" not in first.stderr
    posts = sent(tmp_path)
    again = zclone(*command)
    assert again.returncode == 3, again.stderr
    assert again.stderr.count("zclone retry job.yaml --simulate\n") == 1
    assert sent(tmp_path) == posts < len(SOURCES)
    found = end_of_run(tmp_path, zclone)
    assert (found["reasons"], found["codes"]) == ({reason.value}, {3})
    assert "ended" in found["process"]
    assert f"exit code 3 ({reason.value}: " in found["process"]
    assert len(found["next"]) == 1
    assert "zclone retry job.yaml --simulate" in found["next"][0]
    write(tmp_path, limits=limits)
    mended = zclone("retry", "job.yaml", "--simulate=f.yaml")
    assert mended.returncode == 0, mended.stderr
    assert states(tmp_path) == {"cloned": len(SOURCES)}


def test_targets_held_back_by_uncertain_clones_exit_with_4(tmp_path: Path, zclone: Run) -> None:
    """The next start queries them first, and the wave continues once they are known."""
    fault = f"{{fault: orphan, source: {SOURCES[1]}, times: 1}}"
    write(tmp_path, limits="timeout: 1s, waves: [2, rest]", fault=fault)
    command = ("run", "job.yaml", "--simulate=f.yaml", "--metrics-file", "m.prom")
    first = zclone(*command)
    assert first.returncode == 4, first.stderr
    assert states(tmp_path) == {"cloned": 1, "uncertain": 1}
    found = end_of_run(tmp_path, zclone)
    assert (found["reasons"], found["codes"]) == ({"wave"}, {4})
    assert "run the same command again" in first.stderr


@pytest.mark.parametrize(
    ("flags", "node", "fault", "code", "reason"),
    [
        (("--deadline", "20s", "--rate", "1/s"), "", "", 4, EndReason.DEADLINE),
        ((), "", "{fault: fail, code: ID.1002, source: " + SOURCES[5] + "}", 3, EndReason.DENIED),
        ((), "", "{fault: fail, code: ID.1002}", 3, EndReason.DENIED),
        ((), ", honours_resource_uuid: false", "", 3, EndReason.RESOURCE_UUID),
    ],
)
def test_the_reason_of_an_early_end_is_reported_everywhere(
    flags: tuple[str, ...], node: str, fault: str, code: int, reason: EndReason, tmp_path: Path, zclone: Run
) -> None:
    """The line that ends a process has a code; exit code, report, metrics and status follow from it."""
    write(tmp_path, limits="timeout: 5s", node=node, fault=fault)
    ended = zclone("run", "job.yaml", "--simulate=f.yaml", "--metrics-file", "m.prom", *flags)
    assert ended.returncode == code, ended.stderr
    found = end_of_run(tmp_path, zclone)
    assert (found["reasons"], found["codes"]) == ({reason.value}, {code})


def write_plain(folder: Path, keys: list[str], *, owners: dict[str, str] | None = None) -> None:
    """Write a job of one source, cloned under each of ``keys``."""
    owner = {key: f", owner: '{account}'" for key, account in (owners or {}).items()}
    targets = "".join(f"  - {{uuid: {SOURCES[0]}, id: {key}{owner.get(key, '')}}}\n" for key in keys)
    text = f"version: 1\nname: job\nlimits: {{rate: 500/s}}\ntargets:\n{targets}"
    (folder / "job.yaml").write_text(text, encoding="utf-8")
    (folder / "f.yaml").write_text("version: 1\nnode: {latency: [0, 0.01], invent_accounts: true}\n", encoding="utf-8")


def count_states(folder: Path, zclone: Run) -> tuple[dict[str, int], ...]:
    """Count the targets by state as report, metrics, status and list do."""
    assert zclone("report", MANIFEST, "--out", "report.json").returncode == 0
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))["counts"]
    metrics = (folder / "m.prom").read_text(encoding="utf-8").splitlines()
    of_metrics = {line.split('"')[3]: int(line.split()[-1]) for line in metrics if line.startswith("zclone_targets{")}
    status = [line.split() for line in zclone("status", MANIFEST).stdout.splitlines() if line.startswith("  ")]
    listed = Counter(row["state"] for row in json.loads(zclone("list", MANIFEST, "-o", "json").stdout))
    found = (report, of_metrics, {state: int(count) for state, count in status}, listed)
    return tuple({state: count for state, count in each.items() if count} for each in found)


def test_a_target_that_left_before_it_was_sent_is_withdrawn(tmp_path: Path, zclone: Run, interrupt: Run) -> None:
    """Run, report, metrics, status and list count alike, and the run is finished; back in the file it is planned."""
    keys = [f"t{number}" for number in range(20)]
    write_plain(tmp_path, keys)
    command = ("run", "job.yaml", "--simulate=f.yaml", "--metrics-file", "m.prom")
    assert interrupt(*command, *SLOWLY).returncode == 4
    cloned = states(tmp_path)["cloned"]
    assert 0 < cloned < 18
    write_plain(tmp_path, keys[:18])
    part = zclone(*command, "--only", "key=t17")
    assert part.returncode == 0, part.stderr
    done = zclone(*command)
    assert done.returncode == 0, done.stderr
    assert "18 of 18 targets cloned; 2 withdrawn" in done.stderr
    assert count_states(tmp_path, zclone) == ({"cloned": 18, "withdrawn": 2},) * 4
    end = end_of_run(tmp_path, zclone)
    assert (end["codes"], end["next"]) == ({0}, [])
    before = (tmp_path / MANIFEST).read_bytes()
    assert zclone(*command).returncode == 0
    assert (tmp_path / MANIFEST).read_bytes() == before
    write_plain(tmp_path, keys)
    back = zclone(*command)
    assert back.returncode == 0, back.stderr
    assert "20 of 20 targets cloned\n" in back.stderr
    assert states(tmp_path) == {"cloned": 20}


async def take_back(path: Path, key: str) -> None:
    """Record for a planned target one attempt that ended, as a run does that may not send it again."""
    manifest = open_manifest(path, Header("job", "default", EMBEDDED, simulated=True))
    at = time.time()
    manifest.note(Record(State.SENT, key, at, 1, SOURCES[0], "a" * 32, "b" * 32, "c" * 32, at + 60.0, open_jobs=()))
    manifest.note(Record(State.PLANNED, key, at, 1, open_jobs=()))
    await manifest.close(4)


def test_a_target_that_left_after_its_attempts_ended_is_withdrawn(tmp_path: Path, zclone: Run, interrupt: Run) -> None:
    """Its attempts are over and it was planned again: the run of the others ends as if it had never been sent."""
    keys = [f"t{number}" for number in range(20)]
    write_plain(tmp_path, keys)
    command = ("run", "job.yaml", "--simulate=f.yaml")
    assert interrupt(*command, *SLOWLY).returncode == 4
    asyncio.run(take_back(tmp_path / MANIFEST, "t19"))
    write_plain(tmp_path, keys[:19])
    done = zclone(*command)
    assert done.returncode == 0, done.stderr
    assert states(tmp_path) == {"cloned": 19, "withdrawn": 1}


def test_targets_outside_only_are_not_withdrawn(tmp_path: Path, zclone: Run, interrupt: Run) -> None:
    """A part of the job says nothing of the other targets."""
    keys = [f"t{number}" for number in range(6)]
    write_plain(tmp_path, keys)
    command = ("run", "job.yaml", "--simulate=f.yaml", "--metrics-file", "m.prom")
    assert interrupt(*command, *SLOWLY).returncode == 4
    assert zclone(*command, "--only", "key=t0").returncode == 0
    left = states(tmp_path)["cloned"]
    assert left < 6
    assert count_states(tmp_path, zclone) == ({"cloned": left, "planned": 6 - left},) * 4


def test_a_run_killed_before_its_plan_was_written_is_no_success(
    tmp_path: Path, zclone: Run, child_env: dict[str, str]
) -> None:
    """Reports and status say that no run is recorded yet: no exit code, a JUnit error, and the command to resume."""
    write_plain(tmp_path, ["a", "b"])
    manifest = tmp_path / "job.manifest.jsonl"
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/zstack"
        env = child_env | {"ZSTACK_API_URL": url, "ZSTACK_SESSION_ID": "b86c9016b4f24953a9edefb53ca0678c"}
        process = subprocess.Popen([sys.executable, "-m", "batch", "run", "job.yaml"], cwd=tmp_path, env=env)
        accepted, _ = server.accept()
        with accepted:
            process.kill()
            process.wait(timeout=200)
    for ending in ("json", "xml", "md", "html"):
        assert zclone("report", manifest, "--out", f"r.{ending}").returncode == 0
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["exit_code"] is None
    suite = ET.parse(tmp_path / "r.xml").getroot()
    assert (suite.get("tests"), suite.get("errors")) == ("1", "1")
    assert len(suite.findall(".//testcase/error")) == 1
    for name in ("r.md", "r.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "no run recorded yet" in text
    assert "all cloned</" not in (tmp_path / "r.html").read_text(encoding="utf-8")
    status = zclone("status", manifest).stdout
    assert "targets   no run recorded yet" in status
    assert "next      zclone run job.yaml" in status


def test_hand_overs_are_counted_alike_after_owners_changed(tmp_path: Path, zclone: Run) -> None:
    """The summary of the run, status and report count the hand-overs that the job file asks for now."""
    keys = [f"t{number}" for number in range(6)]
    write_plain(tmp_path, keys, owners={key: f"{number + 1:032x}" for number, key in enumerate(keys)})
    command = ("run", "job.yaml", "--simulate=f.yaml")
    assert "6 of 6 clones handed over" in zclone(*command).stderr
    write_plain(tmp_path, keys, owners=dict.fromkeys(keys[:4], "9" * 32))
    changed = zclone(*command)
    assert changed.returncode == 0, changed.stderr
    assert "4 of 4 clones handed over" in changed.stderr
    assert "4 of 4 clones handed over" in zclone("status", MANIFEST).stdout
    assert zclone("report", MANIFEST, "--out", "r.md").returncode == 0
    assert "4 of 4 clones handed over" in (tmp_path / "r.md").read_text(encoding="utf-8")


def test_a_hanging_clone_is_named_with_its_time(tmp_path: Path, zclone: Run, child_env: dict[str, str]) -> None:
    """Log and status say what the run waits for once the rest has settled, since when and until when."""
    write(tmp_path, limits="timeout: 31m", fault=f"{{fault: orphan, source: {SOURCES[-1]}, times: 1}}")
    process = subprocess.Popen(
        [sys.executable, "-m", "batch", "run", "job.yaml", "--simulate=f.yaml"],
        cwd=tmp_path,
        env=child_env,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    beats = (json.loads(line) for line in process.stderr if "run.progressed" in line)
    beat = next(one for one in beats if "waiting_for" in one)
    status = zclone("status", MANIFEST).stdout
    process.kill()
    process.communicate(timeout=200)
    assert (beat["waiting_for"], beat["eta_seconds"]) == (SOURCES[-1], None)
    assert beat["waiting_seconds"] + beat["at_most_seconds"] == pytest.approx(31 * 60, abs=2)
    line = next(line for line in status.splitlines() if line.startswith("waiting"))
    assert line.startswith(f"waiting   for {SOURCES[-1]}, sent ")
    assert ", until " in line
    assert "pace" not in status


def test_a_success_names_time_rate_manifest_and_report(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The last line of a run that cloned everything has its time, rate and files; a rerun had nothing to do."""
    write(folder, limits="")
    command = ["run", "job.yaml", "--simulate", "--report", "r.html"]
    assert run_command(command) == 0
    files = f"manifest {MANIFEST}, report r.html"
    last = capfd.readouterr().err.splitlines()[-1]
    assert re.fullmatch(rf"took \d+ s, [\d.]+ clones/s; {re.escape(files)}", last), last
    assert run_command(command) == 0
    assert capfd.readouterr().err.splitlines()[-1] == f"nothing was left to do; {files}"


def test_exit_3_names_retry_with_its_flags(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """If targets failed for good, the last line is the command that retries them, and it works."""
    write(folder, limits="", failing=(3, 4))
    assert run_command(["run", "job.yaml", "--simulate=f.yaml", "--run", "my", "--manifest", "m.jsonl"]) == 3
    last = capfd.readouterr().err.splitlines()[-1]
    retry = "zclone retry job.yaml --simulate --run my --manifest m.jsonl"
    assert last == f"fix what failed, then: {retry}"
    assert run_command(retry.split()[1:]) == 0


def test_the_process_that_holds_a_manifest_is_named(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit 75 names the process and since when it runs, and not one that ended before."""
    write(folder, limits="")
    assert run_command(["run", "job.yaml", "--simulate"]) == 0
    path = folder / MANIFEST
    whole = path.read_bytes().splitlines(keepends=True)
    assert b'"ended"' in whole[-1]
    for kept, is_named in ((whole, False), (whole[:-1], True)):
        path.write_bytes(b"".join(kept))
        with path.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            for command in (["run", "--rate", "9/s", "--only", "key=*"], ["rollback", "--yes"], ["verify", "--reopen"]):
                assert run_command([*command, "job.yaml", "--simulate"]) == 75
                output = capfd.readouterr().err
                assert (f"(process {os.getpid()} on {socket.gethostname()}, since 2" in output) is is_named
