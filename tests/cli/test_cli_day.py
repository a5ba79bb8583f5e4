"""The operator's day as processes: retry, parts of a job, outputs for other programs, watching, a broken log."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from batch.app.observe import _Writer, write_live_metrics
from batch.model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

SOURCES = [f"{number:012x}4aaa8{number:015x}" for number in range(1, 9)]
MANIFEST = "job.simulated.manifest.jsonl"
START = "zclone_run_start_timestamp_seconds"
SAMPLE = re.compile(r'(zclone_\w+)\{job="job"(?:,(?:state|reason)="(\w+)")?\} ([0-9.e+]+)')


def write(folder: Path, *, fails: int = 0, attempts: int = 1, text: str = "{}") -> None:
    """Write eight targets, the first with ``text`` as its parameters, and faults that make the first of them fail."""
    params = [text] + ["{}"] * (len(SOURCES) - 1)
    pairs = zip(SOURCES, params, strict=True)
    targets = "".join(f"  - {{uuid: {source}, params: {one}}}\n" for source, one in pairs)
    limits = f"limits: {{rate: 200/s, attempts: {attempts}}}"
    (folder / "job.yaml").write_text(f"version: 1\nname: job\n{limits}\ntargets:\n{targets}", encoding="utf-8")
    write_faults(folder, fails=fails)


def write_faults(folder: Path, *, fails: int) -> None:
    faults = "".join(f"  - {{fault: fail, code: SYS.1007, source: {source}}}\n" for source in SOURCES[:fails])
    script = "version: 1\nnode: {latency: [0, 0.01]}\n" + (f"faults:\n{faults}" if fails else "")
    (folder / "f.yaml").write_text(script, encoding="utf-8")


def records(manifest: Path) -> list[dict[str, object]]:
    lines = map(json.loads, manifest.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "state" in line]


def states(manifest: Path) -> Counter[object]:
    return Counter({record["key"]: record["state"] for record in records(manifest)}.values())


def test_retry_reopens_only_what_failed(tmp_path: Path, zclone: Run) -> None:
    """Failed targets are sent again under their uuids with attempts from 1; those with another code stay."""
    write(tmp_path, fails=2)
    assert zclone("run", "job.yaml", "--simulate=f.yaml").returncode == 3
    write(tmp_path)
    other = zclone("retry", "job.yaml", "--simulate=f.yaml", "--code", "SYS.9999")
    assert other.returncode == 3
    done = zclone("retry", "job.yaml", "--simulate=f.yaml", "--code", "SYS.1007")
    assert done.returncode == 0, done.stderr
    assert "retrying 2 targets" in done.stderr
    sent = [
        (record["key"], record["resource_uuid"]) for record in records(tmp_path / MANIFEST) if record["state"] == "sent"
    ]
    assert Counter(sent).total() == len(SOURCES) + 2
    assert len(set(sent)) == len(SOURCES)
    assert states(tmp_path / MANIFEST) == {"cloned": len(SOURCES)}
    assert "failed" not in zclone("status", MANIFEST).stdout


def test_retry_sends_what_the_job_says_now(tmp_path: Path, zclone: Run) -> None:
    """A failed target may be fixed in the job file; its retry is no change of an existing clone."""
    write(tmp_path, fails=1)
    assert zclone("run", "job.yaml", "--simulate=f.yaml").returncode == 3
    write(tmp_path, text="{requestCpu: 2}")
    assert zclone("run", "job.yaml", "--simulate=f.yaml").returncode == 3
    done = zclone("retry", "job.yaml", "--simulate=f.yaml")
    assert done.returncode == 0, done.stderr


def test_retry_takes_a_part(tmp_path: Path, zclone: Run) -> None:
    """retry --only reopens the failed targets of the part and does nothing else; with --shard it finds the manifest."""
    write(tmp_path, fails=2)
    job = tmp_path / "job.yaml"
    job.write_text(
        job.read_text(encoding="utf-8").replace("params: {}}", "params: {}, userTags: [team::a]}", 1), encoding="utf-8"
    )
    shard = ("--shard", "0/1")
    assert zclone("run", "job.yaml", "--simulate=f.yaml", *shard).returncode == 3
    part = tmp_path / "job.simulated.shard-0-of-1.manifest.jsonl"
    write_faults(tmp_path, fails=0)
    done = zclone("retry", "job.yaml", "--simulate=f.yaml", *shard, "--only", "tag=team::*")
    assert done.returncode == 0, done.stderr
    assert "retrying 1 target" in done.stderr
    assert states(part) == {"cloned": len(SOURCES) - 1, "failed": 1}
    listed = zclone("list", part.name, "--only", "tag=team::a")
    assert listed.returncode == 2
    assert "a manifest has no tags" in listed.stderr


def test_retry_takes_an_expression(tmp_path: Path, zclone: Run) -> None:
    """retry --only takes state and code as list does, and the fields of the plan; a state must be retriable."""
    write(tmp_path, fails=2)
    assert zclone("run", "job.yaml", "--simulate=f.yaml").returncode == 3
    write_faults(tmp_path, fails=0)
    failed = zclone("list", MANIFEST, "--only", "state=failed", "-o", "jsonl").stdout.splitlines()
    code, key = json.loads(failed[0])["error_code"], json.loads(failed[0])["key"]
    retry = ("retry", "job.yaml", "--simulate=f.yaml", "--only")
    none = zclone(*retry, f"state=failed code!={code}")
    assert "retrying 0 targets" in none.stderr
    one = zclone(*retry, f"state=failed code={code[:-1]}* key={key}")
    assert (one.returncode, "retrying 1 target" in one.stderr) == (0, True), one.stderr
    assert states(tmp_path / MANIFEST) == {"cloned": len(SOURCES) - 1, "failed": 1}
    assert zclone(*retry, "state=cloned").returncode == 2
    assert zclone(*retry, "state!=failed", "--state", "sent").returncode == 2


def test_retry_needs_a_run(tmp_path: Path, zclone: Run) -> None:
    """Without a manifest there is nothing to retry, and none is created."""
    write(tmp_path)
    done = zclone("retry", "job.yaml", "--simulate=f.yaml")
    assert done.returncode == 2
    assert not (tmp_path / MANIFEST).exists()


def test_only_limits_a_run(tmp_path: Path, zclone: Run) -> None:
    """--only limits a run; the next run without it does the rest; an unknown field is an error."""
    write(tmp_path)
    one = zclone("run", "job.yaml", "--simulate=f.yaml", "--only", f"key={SOURCES[0]}")
    assert (one.returncode, states(tmp_path / MANIFEST)) == (0, {"cloned": 1}), one.stderr
    assert zclone("run", "job.yaml", "--simulate=f.yaml").returncode == 0
    assert states(tmp_path / MANIFEST) == {"cloned": len(SOURCES)}
    listed = zclone("list", MANIFEST, "--only", f"state=cloned key!={SOURCES[0]}", "-o", "jsonl")
    assert len(listed.stdout.splitlines()) == len(SOURCES) - 1
    assert zclone("run", "job.yaml", "--simulate=f.yaml", "--only", "stat=x").returncode == 2


def test_shards_make_the_whole(tmp_path: Path, zclone: Run) -> None:
    """Every target is in exactly one shard, under the uuid it has in the whole."""
    write(tmp_path)
    for number in range(3):
        done = zclone("run", "job.yaml", "--simulate=f.yaml", "--shard", f"{number}/3")
        assert done.returncode == 0, done.stderr
    manifests = sorted(tmp_path.glob("job.simulated.shard-?-of-3.manifest.jsonl"))
    cloned = [record["key"] for path in manifests for record in records(path) if record["state"] == "cloned"]
    assert sorted(map(str, cloned)) == SOURCES
    assert zclone("run", "job.yaml", "--simulate=f.yaml", "--shard", "3/3").returncode == 2


@pytest.fixture
def pings() -> Iterator[tuple[str, list[str]]]:
    """Run a dead man's switch; yield its url and the pings it received."""
    received: list[str] = []

    class Switch(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Switch)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/ping/x", received
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_run_leaves_pings_metrics_and_a_report(tmp_path: Path, zclone: Run, pings: tuple[str, list[str]]) -> None:
    """A run pings its start and its exit code, and writes metrics and a report, also if targets failed."""
    write(tmp_path, fails=1)
    url, received = pings
    flags = ("--ping-url", url, "--metrics-file", "z.prom", "--report", "r.json")
    assert zclone("run", "job.yaml", "--simulate=f.yaml", *flags).returncode == 3
    assert received == ["/ping/x/start", "/ping/x/3"]
    values = samples(tmp_path / "z.prom")
    assert values["zclone_running", None] == 0
    assert START in {name for name, _ in values}
    assert values["zclone_targets", "failed"] == 1
    assert values["zclone_run_exit_code", None] == 3
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["counts"]["cloned"] == len(SOURCES) - 1


def test_failing_outputs_do_not_change_the_exit_code(tmp_path: Path, child_env: dict[str, str]) -> None:
    """A failed ping and a report that can no longer be written are reported, and the exit code is the same."""
    write(tmp_path)
    command = [sys.executable, "-m", "batch", "run", "job.yaml", "--simulate=f.yaml", "--rate", "5/s"]
    with subprocess.Popen(
        [*command, "--ping-url", "http://127.0.0.1:9/s3cret", "--report", "r.html"],
        cwd=tmp_path,
        env=child_env,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stderr is not None
        messages: list[str] = []
        while not messages or "clone.settled" not in messages[-1]:
            assert run.poll() is None
            messages.append(run.stderr.readline())
        (tmp_path / "r.html").mkdir()
        text = "".join([*messages, run.stderr.read()])
    assert run.returncode == 0
    assert "the ping start was not delivered" in text
    assert "r.html: is not a regular file" in text
    assert "s3cret" not in text


def _no_ending(folder: Path) -> str:
    return str(folder / "r.pdf")


def _a_folder(folder: Path) -> str:
    (folder / "r.html").mkdir()
    return "r.html"


def _no_folder(_folder: Path) -> str:
    return "absent/r.html"


def _a_pipe(folder: Path) -> str:
    os.mkfifo(folder / "r.html")
    return "r.html"


def _a_device(folder: Path) -> str:
    (folder / "r.html").symlink_to("/dev/stdout")
    return "r.html"


def _a_long_name(_folder: Path) -> str:
    return "r" * 245 + ".html"


@pytest.mark.parametrize("place", [_no_ending, _a_folder, _no_folder, _a_pipe, _a_device, _a_long_name])
@pytest.mark.parametrize("flag", ["--report", "--metrics-file"])
def test_an_unwritable_output_is_reported_before_the_run(
    flag: str, place: Callable[[Path], str], tmp_path: Path, zclone: Run, pings: tuple[str, list[str]]
) -> None:
    """A report or metrics that cannot be written end the command with 2 before anything else is done."""
    if (flag, place) == ("--metrics-file", _no_ending):
        return
    write(tmp_path)
    named = place(tmp_path)
    before = sorted((path.name, path.lstat().st_mode, path.lstat().st_ino) for path in tmp_path.iterdir())
    done = zclone("run", "job.yaml", "--simulate=f.yaml", "--ping-url", pings[0], flag, named)
    assert done.returncode == 2
    assert named in done.stderr
    assert pings[1] == []
    assert sorted((path.name, path.lstat().st_mode, path.lstat().st_ino) for path in tmp_path.iterdir()) == before


def samples(file: Path) -> dict[tuple[str, str | None], float]:
    """Read a metrics file; every line must be a sample."""
    lines = file.read_text(encoding="utf-8").splitlines()
    found = [SAMPLE.fullmatch(line) for line in lines if not line.startswith("#")]
    assert None not in found
    return {(sample[1], sample[2]): float(sample[3]) for sample in found if sample is not None}


async def test_metrics_are_updated_during_a_run(tmp_path: Path) -> None:
    """From its start a run writes regularly that it is alive and its progress, each time a whole file."""
    counts = {State.PLANNED: 8}
    file, seen = tmp_path / "z.prom", set[float]()
    async with write_live_metrics(file, job="job", counts=lambda: counts, every=0.0):
        while len(seen) < 8:
            await asyncio.sleep(0)
            if file.exists():
                found = samples(file)
                seen.add(found["zclone_targets", "cloned"])
                counts.update({State.CLONED: len(seen)})
                assert found["zclone_running", None] == 1
                assert found["zclone_written_timestamp_seconds", None] >= found[START, None]
                assert ("zclone_run_exit_code", None) not in found
    assert os.listdir(tmp_path) == ["z.prom"]  # noqa: PTH208 - a coroutine may not walk a Path


def test_unwritable_metrics_are_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run reports once that it cannot write the metrics, however often it tries, and continues."""
    writer = _Writer(tmp_path / "absent" / "z.prom")
    for _ in range(3):
        writer.put("text")
        writer.finish()
    assert capsys.readouterr().err.count("No such file or directory") == 1


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "gb2312"])
def test_data_is_utf8_in_every_locale(
    form: str, encoding: str, tmp_path: Path, zclone: Run, child_env: dict[str, str]
) -> None:
    """The machine-readable output of ``list`` is UTF-8 in every locale, without escapes."""
    name = "\u79df\u6237-\u00e9"
    write(tmp_path, text=f"{{name: {name}}}")
    assert zclone("run", "job.yaml", "--simulate=f.yaml").returncode == 0
    command = [sys.executable, "-m", "batch", "list", MANIFEST, "-o", form]
    listed = subprocess.run(
        command, cwd=tmp_path, env=child_env | {"PYTHONIOENCODING": encoding}, capture_output=True, check=True
    )
    assert name in listed.stdout.decode("utf-8")


def test_watch_ends_with_the_process(tmp_path: Path, zclone: Run) -> None:
    """status --watch shows the last state once and exits with the run's exit code when its process has ended."""
    write(tmp_path, fails=1)
    assert zclone("run", "job.yaml", "--simulate=f.yaml").returncode == 3
    done = zclone("status", MANIFEST, "--watch")
    assert done.returncode == 3
    assert done.stdout.count("targets ") == 1
    assert zclone("status", MANIFEST).returncode == 0


def test_watch_notices_that_the_process_was_killed(tmp_path: Path, child_env: dict[str, str]) -> None:
    """status --watch follows a running process; if that is killed it says so, with the command, and exits with 4."""
    write(tmp_path)
    command = [sys.executable, "-m", "batch"]
    with subprocess.Popen(
        [*command, "run", "job.yaml", "--simulate=f.yaml", "--rate", "1200/h"],
        cwd=tmp_path,
        env=child_env,
        stderr=subprocess.PIPE,
    ) as run:
        assert run.stderr is not None
        while b"clone.settled" not in run.stderr.readline():
            assert run.poll() is None
        with subprocess.Popen(
            [*command, "status", MANIFEST, "--watch"], cwd=tmp_path, env=child_env, stdout=subprocess.PIPE, text=True
        ) as watch:
            assert watch.stdout is not None
            first = [watch.stdout.readline() for _ in range(3)]
            run.kill()
            rest = watch.stdout.read()
    assert "process   running since" in first[2]
    assert "process   killed: no process holds the manifest" in rest
    assert rest.splitlines()[-1] == "next      zclone run job.yaml --simulate"
    assert watch.returncode == 4


@pytest.mark.parametrize("reader", ["head -1 >/dev/null", "sleep 3", "true"])
def test_a_log_without_a_reader_changes_nothing(tmp_path: Path, child_env: dict[str, str], reader: str) -> None:
    """The reader of the log may stop reading or exit: manifest and exit code are the same."""
    write(tmp_path)
    command = f"{{ {sys.executable} -m batch run job.yaml --simulate=f.yaml; echo $? >code; }} 2>&1 | {reader}"
    subprocess.run(["/bin/bash", "-c", command], cwd=tmp_path, env=child_env, check=True, timeout=200)
    assert (tmp_path / "code").read_text(encoding="ascii") == "0\n"
    assert states(tmp_path / MANIFEST) == {"cloned": len(SOURCES)}


def test_a_full_log_disk_is_reported_at_the_end(tmp_path: Path, zclone: Run) -> None:
    """A log that cannot be written is reported at the end; manifest and exit code are the same."""
    write(tmp_path)
    done = zclone("run", "job.yaml", "--simulate=f.yaml", "--log-file", "/dev/full")
    assert done.returncode == 0, done.stderr
    assert "log lines were lost" in done.stderr
    assert states(tmp_path / MANIFEST) == {"cloned": len(SOURCES)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"zclone show {MANIFEST} {SOURCES[0][:12]}", {SOURCES[0]}),
        (f"zclone list {MANIFEST} --code SYS", {"SYS.1007"}),
        ("zclone retry job.yaml --code ", {"SYS.1007"}),
        ("zclone show no.manifest.jsonl ", set()),
    ],
)
def test_the_shell_completes_from_the_manifest(tmp_path: Path, zclone: Run, line: str, expected: set[str]) -> None:
    """Keys and codes are completed from the manifest on the line, or from the job's; without one there is no output."""
    write(tmp_path, fails=1)
    assert zclone("run", "job.yaml", "--simulate=f.yaml").returncode == 3
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_ZCLONE_COMPLETE": "complete_bash"}
    done = zclone(env=words)
    assert (set(done.stdout.split()), done.stderr) == (expected, "")
