"""``zclone run`` as a process: resume, exit codes, signals, streams; against embedded nodes over real sockets."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import forkserver
from tests.nodes import ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.forkserver import Process

    Run = Callable[..., subprocess.CompletedProcess[str]]

SOURCES = [f"{number:012x}4aaa8{number:015x}" for number in range(1, 9)]
SESSION = "b86c9016b4f24953a9edefb53ca0678c"
MANIFEST = "job.simulated.manifest.jsonl"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Write a job of three targets, and a node script under which clones take no time."""
    (tmp_path / "quick.yaml").write_text("version: 1\nnode: {latency: [0, 0.01]}\n", encoding="utf-8")
    return write_job(tmp_path / "job.yaml", SOURCES[:3])


def write_job(path: Path, sources: list[str], *, params: str = "{}") -> Path:
    targets = "".join(f"  - {{uuid: {source}, params: {params}}}\n" for source in sources)
    path.write_text(f"version: 1\nname: job\nlimits: {{rate: 200/s}}\ntargets:\n{targets}", encoding="utf-8")
    return path


def states(manifest: Path) -> Counter[str]:
    records = (json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines())
    return Counter({record["key"]: record["state"] for record in records if "state" in record}.values())


def node_clones(state: Path) -> Counter[str]:
    events = (json.loads(line) for line in state.read_text(encoding="utf-8").splitlines())
    return Counter(event["s"] for event in events if event["e"] == "clone")


@pytest.fixture
def start(tmp_path: Path, child_env: dict[str, str]) -> Callable[..., Process[str]]:
    """Start the command and return while it runs."""

    def begin(*arguments: str) -> Process[str]:
        return forkserver.start_text(arguments, cwd=tmp_path, env=child_env, new_session=True)

    return begin


def read_until(process: Process[str], event: str) -> str:
    assert process.stderr is not None
    seen = ""
    while event not in seen:
        line = process.stderr.readline()
        assert line, f"ended without {event}: {seen}"
        seen += line
    return seen


def test_rerunning_a_finished_run_does_nothing(job: Path, zclone: Run, tmp_path: Path) -> None:
    """A finished run started again makes no call, starts no node and leaves the manifest byte-identical."""
    assert zclone("run", "--simulate=quick.yaml", job).returncode == 0
    before = (tmp_path / MANIFEST).read_bytes()
    (tmp_path / "job.simulated.node.jsonl").unlink()
    again = zclone("run", "--simulate=quick.yaml", job)
    assert (again.returncode, again.stdout) == (0, "")
    assert (tmp_path / MANIFEST).read_bytes() == before
    assert not (tmp_path / "job.simulated.node.jsonl").exists()


@pytest.mark.parametrize(
    ("state", "reason"),
    [("junk", "is not the state of a node; name another file"), ('{"e":"row" garbage', "job.simulated.node.jsonl:1: ")],
)
def test_a_node_that_cannot_start_says_why(job: Path, zclone: Run, tmp_path: Path, state: str, reason: str) -> None:
    """If the embedded node does not start the run exits with 1 and one line with the reason."""
    (tmp_path / "job.simulated.node.jsonl").write_text(state + "\n", encoding="utf-8")
    refused = zclone("run", "--simulate=quick.yaml", job)
    assert refused.returncode == 1
    (output,) = [line for line in refused.stderr.splitlines() if line.startswith("zclone: ")]
    assert output.startswith("zclone: the embedded node did not start: job.simulated.node.jsonl:")
    assert reason in output


def test_a_locked_manifest_is_left_alone(job: Path, zclone: Run, tmp_path: Path) -> None:
    """A second process on one manifest exits with 75 at once and starts nothing."""
    (tmp_path / MANIFEST).touch(mode=0o600)
    with (tmp_path / MANIFEST).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert zclone("run", "--simulate=quick.yaml", job).returncode == 75
    assert not (tmp_path / "job.simulated.node.jsonl").exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_shuts_down_cleanly(
    name: str, tmp_path: Path, job: Path, start: Callable[..., Process[str]], zclone: Run
) -> None:
    """After a signal nothing more is sent, what is in flight settles, and exit 4 names the command to rerun."""
    write_job(job, SOURCES[:6])
    process = start("run", "--simulate=quick.yaml", "--rate", "2/s", "job.yaml")
    read_until(process, "clone.settled")
    process.send_signal(getattr(signal, name))
    _, output = process.communicate(timeout=200)
    assert process.returncode == 4
    assert "zclone run --simulate=quick.yaml --rate 2/s job.yaml" in output
    stopping = next(line for line in output.splitlines() if line.startswith("Stopping: "))
    again = "Ctrl-C again to leave now." if name == "SIGINT" else f"({name}; a second signal leaves now.)"
    assert re.fullmatch(
        r"Stopping: (no clone is in flight|waiting up to 30 s for \d+ clones?)\. " + re.escape(again), stopping
    )
    assert not {"sent", "accepted"} & set(states(tmp_path / MANIFEST))
    assert zclone("run", "--simulate=quick.yaml", job).returncode == 0
    assert states(tmp_path / MANIFEST) == {"cloned": 6}
    assert node_clones(tmp_path / "job.simulated.node.jsonl") == dict.fromkeys(SOURCES[:6], 1)


def test_rows_that_change_during_a_run_shut_it_down_cleanly(
    tmp_path: Path, job: Path, start: Callable[..., Process[str]], zclone: Run
) -> None:
    """Rows that change meanwhile end the run with exit 4; what was sent settles, and the same command resumes."""
    sources = [f"{number:012x}4aaa8{number:015x}" for number in range(1, 61)]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'"{source}"\n' for source in sources), encoding="utf-8")
    job.write_text("version: 1\nname: job\nlimits: {rate: 50/s}\ntargets: [{from: rows.jsonl}]\n", encoding="utf-8")
    process = start("run", "--simulate=quick.yaml", "job.yaml")
    read_until(process, "clone.settled")
    os.utime(rows, (1.0, 1.0))
    _, output = process.communicate(timeout=200)
    assert process.returncode == 4
    assert f"{rows.name}:1:1: was changed while the run was reading it" in output
    found = states(tmp_path / MANIFEST)
    assert found["cloned"]
    assert not {"sent", "accepted"} & set(found)
    assert zclone("run", "--simulate=quick.yaml", job).returncode == 0
    assert states(tmp_path / MANIFEST) == {"cloned": 60}
    assert node_clones(tmp_path / "job.simulated.node.jsonl") == dict.fromkeys(sources, 1)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_second_signal_exits_at_once(
    name: str, code: int, tmp_path: Path, job: Path, start: Callable[..., Process[str]], zclone: Run
) -> None:
    """The same signal a second later exits without waiting; the manifest is valid, the same command resumes."""
    slow = tmp_path / "slow.yaml"
    slow.write_text("version: 1\nnode: {latency: [9, 9]}\n", encoding="utf-8")
    process = start("run", "--simulate=slow.yaml", "job.yaml")
    read_until(process, "run.progressed")
    process.send_signal(getattr(signal, name))
    read_until(process, "Stopping: ")
    while process.poll() is None:
        process.send_signal(getattr(signal, name))
        time.sleep(0.1)
    process.communicate(timeout=200)
    assert process.returncode == code
    assert zclone("run", "--simulate=quick.yaml", job).returncode == 0
    assert states(tmp_path / MANIFEST) == {"cloned": 3}


def test_edited_targets_that_are_cloned_are_reported_and_stay(job: Path, zclone: Run, tmp_path: Path) -> None:
    """New targets are added, changed clones stay as made and are reported in one line; --strict refuses."""
    zclone("run", "--simulate=quick.yaml", job)
    write_job(job, SOURCES[:4])
    assert zclone("run", "--simulate=quick.yaml", job).returncode == 0
    assert states(tmp_path / MANIFEST) == {"cloned": 4}
    before = (tmp_path / MANIFEST).read_bytes()
    write_job(job, SOURCES[:4], params="{requestCpu: 9}")
    refused = zclone("run", "--simulate=quick.yaml", "--strict", job)
    assert refused.returncode == 2
    assert SOURCES[0] in refused.stderr
    answer = zclone("run", "--simulate=quick.yaml", job)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("4 clones were made before the job file was changed and stay as they were made") == 1
    assert (tmp_path / MANIFEST).read_bytes() == before
    write_job(job, SOURCES[:5], params="{requestCpu: 9}")
    assert zclone("run", "--simulate=quick.yaml", job).returncode == 0
    assert states(tmp_path / MANIFEST) == {"cloned": 5}
    assert zclone("run", "--simulate=quick.yaml", "--strict", job).returncode == 2


@pytest.fixture
def real(serve_node: Callable[..., str], tmp_path: Path, job: Path) -> dict[str, str]:
    """Return the settings of a node that stands for a real server."""
    return {"ZSTACK_API_URL": serve_node("--faults", str(tmp_path / "quick.yaml")), "ZSTACK_SESSION_ID": SESSION}


def test_a_real_endpoint(job: Path, zclone: Run, real: dict[str, str], tmp_path: Path) -> None:
    """Settings from the environment select a real endpoint; no output holds the session."""
    done = zclone("run", job, env=real)
    assert done.returncode == 0, done.stderr
    assert states(tmp_path / "job.manifest.jsonl") == {"cloned": 3}
    assert SESSION not in done.stderr + (tmp_path / "job.manifest.jsonl").read_text(encoding="utf-8")
    assert len(ledger(real["ZSTACK_API_URL"])["clones"]) == 3


def test_a_rehearsal_is_not_a_run(job: Path, zclone: Run, real: dict[str, str]) -> None:
    """A simulated manifest is refused for a real endpoint and the other way round; nothing is sent."""
    zclone("run", "--simulate=quick.yaml", job)
    assert zclone("run", job, "--manifest", MANIFEST, env=real).returncode == 2
    assert zclone("run", job, env=real).returncode == 0
    assert zclone("run", "--simulate", job, "--manifest", "job.manifest.jsonl").returncode == 2
    assert len(ledger(real["ZSTACK_API_URL"])["clones"]) == 3


def test_an_unreachable_server(job: Path, zclone: Run, tmp_path: Path) -> None:
    """If nothing listens the exit code is 5, and the manifest has no target that was sent."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    done = zclone("run", job, env={"ZSTACK_API_URL": url, "ZSTACK_SESSION_ID": SESSION})
    assert done.returncode == 5, done.stderr
    assert not states(tmp_path / "job.manifest.jsonl")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["job.yaml"], "ZSTACK_API_URL"),
        (["absent.yaml", "--simulate"], "absent.yaml"),
        (["job.yaml", "--simulate", "--rate", "fast"], "fast"),
        (["job.yaml", "--simulate=absent-faults.yaml"], "absent-faults.yaml"),
        (["job.yaml", "--simulate", "--log-file", "no/such/folder/log"], "no/such/folder/log"),
        (["job.yaml", "--sumulate"], "--sumulate"),
        (["job.yaml", "--password", "hunter2"], "ZSTACK_PASSWORD_FILE"),
    ],
)
def test_unusable_input_exits_with_2(arguments: list[str], hint: str, job: Path, zclone: Run, tmp_path: Path) -> None:
    """Usage, settings and job files that cannot be used exit with 2, name what is wrong, and leave nothing behind."""
    before = sorted(path.name for path in tmp_path.iterdir())
    done = zclone("run", *arguments)
    assert done.returncode == 2, done.stderr
    assert hint in done.stderr
    assert "hunter2" not in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_every_problem_of_a_job_file_is_reported(job: Path, zclone: Run) -> None:
    """A broken job file is reported with every problem as file:line:column, exit 2."""
    write_job(job, SOURCES[:2], params="{requestCpus: 1}")
    done = zclone("run", "--simulate", job)
    assert done.returncode == 2
    assert done.stderr.count("did you mean requestCpu?") == 2
    assert "job.yaml:5:" in done.stderr
    checked = zclone("validate", "--format", "github", job)
    assert checked.returncode == 2
    assert checked.stdout.count("::error file=") == 2


def test_flags_have_variables(job: Path, zclone: Run, tmp_path: Path) -> None:
    """Each flag is read from ZCLONE_<FLAG>, and the command line wins."""
    env = {"ZCLONE_SIMULATE": "quick.yaml", "ZCLONE_RUN": "second", "ZCLONE_LOG_FORMAT": "console"}
    done = zclone("run", job, "--log-format", "json", env=env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "job.second.simulated.manifest.jsonl").exists()
    assert json.loads(done.stderr.splitlines()[0])["event"]


def test_a_full_log_disk_loses_only_the_log(job: Path, zclone: Run, tmp_path: Path) -> None:
    """A log that cannot be written changes neither exit code nor manifest; the loss is reported."""
    done = zclone("run", "--simulate=quick.yaml", "--log-file", "/dev/full", job)
    assert done.returncode == 0, done.stderr
    assert "log lines were lost" in done.stderr
    assert states(tmp_path / MANIFEST) == {"cloned": 3}


def test_a_stalled_reader_of_stderr_ends_no_run(job: Path, tmp_path: Path, child_env: dict[str, str]) -> None:
    """A reader of stderr that stays open but stops reading changes neither exit code nor manifest."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while os.write(writing, b"." * 512):
            pass
    os.set_blocking(writing, True)
    command = [sys.executable, "-m", "batch", "run", "--simulate=quick.yaml", str(job)]
    done = subprocess.run(command, cwd=tmp_path, env=child_env, stderr=writing, timeout=200, check=False)
    os.close(writing)
    os.close(reading)
    assert done.returncode == 0
    assert states(tmp_path / MANIFEST) == {"cloned": 3}


def test_a_pipe_without_a_reader_is_refused(job: Path, zclone: Run, tmp_path: Path) -> None:
    """A log file that is a pipe without a reader is an error at once: waiting for one might never end."""
    os.mkfifo(tmp_path / "log")
    done = zclone("run", "--simulate=quick.yaml", "--log-file", "log", job)
    assert (done.returncode, done.stderr) == (2, "zclone: log: this pipe has no reader\n")
    assert not (tmp_path / MANIFEST).exists()


def test_unwritable_stdout_is_one_message(job: Path, zclone: Run, child_env: dict[str, str]) -> None:
    """A full disk behind stdout is reported in one line with exit code 1, without a traceback."""
    assert zclone("run", "--simulate=quick.yaml", job).returncode == 0
    command = [sys.executable, "-m", "batch", "list", MANIFEST]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, cwd=job.parent, env=child_env, stdout=full, stderr=subprocess.PIPE, timeout=200, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"zclone: stdout: No space left on device\n")


def test_a_log_file_has_every_detail(job: Path, zclone: Run, tmp_path: Path) -> None:
    """A log file has JSON lines including the sends, mode 0600, and stderr only the ends."""
    done = zclone("run", "--simulate=quick.yaml", "--log-file", "run.log", job)
    events = [json.loads(line) for line in (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()]
    assert Counter(event["event"] for event in events)["clone.sent"] == 3
    assert Counter(event["event"] for event in events)["clone.settled"] == 3
    assert (tmp_path / "run.log").stat().st_mode & 0o777 == 0o600
    assert [line for line in done.stderr.splitlines() if not line.startswith("took ")] == ["3 of 3 targets cloned"]


def test_a_reader_that_exits_is_no_error(job: Path, zclone: Run, tmp_path: Path, child_env: dict[str, str]) -> None:
    """`zclone list … | head -1` ends quietly with exit code 0, and so does a run with a closed stdout."""
    assert zclone("run", "--simulate=quick.yaml", job).returncode == 0
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "batch", "list", MANIFEST]
    done = subprocess.run(
        command, cwd=tmp_path, env=child_env, stdout=writing, stderr=subprocess.PIPE, timeout=200, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
    shell = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m batch run --simulate=quick.yaml job.yaml >&- 2>&-"],
        cwd=tmp_path,
        env=child_env,
        timeout=200,
        check=False,
    )
    assert shell.returncode == 0


def test_rows_can_be_filtered(job: Path, zclone: Run) -> None:
    """`list` filters by state and code, `show` prints one target's history, an unknown key is an error."""
    zclone("run", "--simulate=quick.yaml", job)
    assert len(json.loads(zclone("list", MANIFEST, "--state", "cloned", "-o", "json").stdout)) == 3
    assert json.loads(zclone("list", MANIFEST, "--state", "failed", "-o", "json").stdout) == []
    assert SOURCES[1] in zclone("show", MANIFEST, SOURCES[1]).stdout
    assert zclone("show", MANIFEST, "nobody").returncode == 2


@pytest.mark.parametrize("only", ["key=nobody", "source=x*", "sample:0%"])
def test_an_only_that_matches_nothing_is_refused(job: Path, zclone: Run, only: str) -> None:
    """``run`` with an ``--only`` that matches no target exits with 2, names it and leaves no manifest."""
    done = zclone("run", "--simulate=quick.yaml", job, "--only", only)
    assert done.returncode == 2
    assert only in done.stderr
    assert "matches none of the 3 targets" in done.stderr
    assert not (job.parent / MANIFEST).exists()


def test_a_later_empty_match_is_an_answer(job: Path, zclone: Run) -> None:
    """In ``list``, and for states and codes in ``retry``, no match is an answer on stderr; for keys it is not."""
    assert zclone("run", "--simulate=quick.yaml", job).returncode == 0
    before = (job.parent / MANIFEST).read_bytes()
    assert zclone("run", "--simulate=quick.yaml", job, "--only", "key=nobody").returncode == 2
    assert zclone("retry", "--simulate=quick.yaml", job, "--only", "key=nobody").returncode == 2
    assert not {"planned", "sent"} & {json.loads(line).get("state") for line in added(job, before)}
    assert zclone("retry", "--simulate=quick.yaml", job, "--only", "code=X").returncode == 0
    for choice in (("--only", "key=nobody"), ("--state", "failed"), ("--code", "X")):
        done = zclone("list", MANIFEST, *choice, "-o", "jsonl")
        assert (done.returncode, done.stdout) == (0, "")
        assert "no target matches" in done.stderr


def added(job: Path, before: bytes) -> list[bytes]:
    return (job.parent / MANIFEST).read_bytes().removeprefix(before).splitlines()


def test_an_empty_shard_is_valid(job: Path, zclone: Run) -> None:
    """A ``--shard`` without targets exits with 0, as Indexed Jobs need it."""
    codes = [zclone("run", "--simulate=quick.yaml", job, "--shard", f"{part}/9").returncode for part in range(9)]
    assert codes == [0] * 9


def test_a_file_without_rows_is_refused(tmp_path: Path, job: Path, zclone: Run) -> None:
    """``run`` and ``plan`` of a file with a header and no rows exit with 2 and its name."""
    job.write_text(f"version: 1\nname: job\ntargets: [{{from: r.csv, uuid: {SOURCES[0]}}}]\n", encoding="utf-8")
    (tmp_path / "r.csv").write_text("id,tenant\n", encoding="utf-8")
    for command in ("run", "plan"):
        done = zclone(command, "--simulate=quick.yaml", job) if command == "run" else zclone(command, job)
        assert (done.returncode, "r.csv has no rows" in done.stderr) == (2, True), done.stderr


def test_names_that_are_not_utf8(tmp_path: Path, zclone: Run) -> None:
    """Files whose names are not UTF-8 are read and written; other such values match nothing, or are refused."""
    name, run = "job\udcff", ("run", "job\udcff.yaml", "--simulate", "--rate", "500/s")
    uuid = "d76744cb53f9378abf42b907df3efb6e"
    (tmp_path / f"{name}.yaml").write_text(f"version: 1\nname: j\ntargets: [{uuid}]\n", encoding="utf-8")
    (tmp_path / "j.yaml").write_text(f"version: 1\nname: j\ntargets: [{uuid}]\n", encoding="utf-8")
    done = zclone(*run, "--report", f"{name}.html", "--metrics-file", f"{name}.prom", "--log-file", f"{name}.log")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    for ending in ("html", "md", "csv", "xml", "json"):
        assert zclone("report", f"{name}.yaml", "--out", f"other{name}.{ending}").returncode == 0
        (tmp_path / f"other{name}.{ending}").read_text(encoding="utf-8")
    for flags, part in ((("--only", "key=\udcff"), "matches none"), (("--webhook-listen", "\udcff:1"), "HOST:PORT")):
        refused = zclone("run", "j.yaml", "--simulate", *flags)
        assert (refused.returncode, part in refused.stderr) == (2, True), refused.stderr
