"""``zclone plan``: the summary by kind of change, single targets, rehearsals, and the width of a terminal."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

import pytest

from batch.cli.app import run_command
from batch.manifest import Header, open_manifest
from batch.model import Record, State
from batch.simulator.options import made_up_sources
from batch.text import width
from tests.report.terminal import Terminal

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

SESSION: Final = "b86c9016b4f24953a9edefb53ca0678c"
SERVICES: Final = 12


def uuid_of(number: int) -> str:
    return f"{number:012x}4aaa8{number:015x}"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Write a job of twelve targets: two get more CPUs, one has an owner, four values of the rest are grouped."""
    rows = "".join(
        f"  - {{uuid: {uuid_of(number)}, id: t{number}, params: {{name: '${{source.name}}-arm', "
        f"requestCpu: {2 if number < 2 else 4}}}{f', owner: {uuid_of(99)}' if not number else ''}}}\n"
        for number in range(SERVICES)
    )
    images = "architectureImages: [{cpuArchitecture: AARCH64, dockerImage: registry.example.com/aarch64/" + "x" * 90
    head = f"version: 1\nname: j\nlimits: {{rate: 20/s}}\ndefaults:\n  params:\n    {images}}}]\ntargets:\n"
    path = tmp_path / "job.yaml"
    path.write_text(head + rows, encoding="utf-8")
    return path


@pytest.fixture
def env(tmp_path: Path, serve_node: Callable[..., str]) -> dict[str, str]:
    """Return the settings of a server with the job's sources, of which three have a size."""
    rows = [
        {"uuid": uuid_of(n), "name": f"s{n}", "fields": {"size": 5 if n < 3 else 0, "requestCpu": 2}}
        for n in range(SERVICES)
    ]
    script = {"version": 1, "accounts": [{"uuid": uuid_of(99), "name": "tenant"}], "sources": rows}
    (tmp_path / "node.yaml").write_text(json.dumps(script), encoding="utf-8")
    return {"ZSTACK_API_URL": serve_node("--faults", str(tmp_path / "node.yaml")), "ZSTACK_SESSION_ID": SESSION}


def row_of(text: str, *words: str) -> str:
    """Return the one line that has all the words."""
    (line,) = [line for line in text.splitlines() if all(word in line for word in words)]
    return " ".join(line.split())


@pytest.mark.usefixtures("job")
def test_the_summary_groups_what_changes(zclone: Run, env: dict[str, str]) -> None:
    """Job, calls and time come first; then each kind of change with its count, old and new value, layer and place."""
    done = zclone("plan", "job.yaml", env=env)
    assert done.returncode == 0, done.stderr
    head, cost, empty, columns, *_ = done.stdout.splitlines()
    assert head == "job j, run default"
    assert cost.startswith("12 targets, about 28 calls, at 20/s 1 s or more; 1 handed over; digest ")
    assert (empty, columns.split()) == ("", ["PARAMETER", "CLONES", "VALUE", "SET", "BY"])
    assert row_of(done.stdout, "requestCpu", "4") == "requestCpu 10 2 -> 4 target"
    assert row_of(done.stdout, "as the source has it") == "requestCpu 2 2, as the source has it target"
    assert row_of(done.stdout, "name ") == 'name 12 12 values, such as "s0" -> "s0-arm" target, rendered'
    assert row_of(done.stdout, "owner") == f'owner 1 "{uuid_of(99)}" once it is made'
    assert row_of(done.stdout, "size", "5 -> 0") == "size 3 5 -> 0 reset by the server"
    image = row_of(done.stdout, "architectureImages")
    assert image.endswith(f"AARCH64 registry.example.com/aarch64/{'x' * 90} defaults, job.yaml:6:25")
    assert "x86_64 registry.example.com/x86_64/service-" in image
    assert uuid_of(3) not in done.stdout


@pytest.mark.usefixtures("job")
def test_single_targets_are_shown_in_full(zclone: Run, env: dict[str, str]) -> None:
    """--details shows each target with each parameter, --only those it matches, in every format; images in full."""
    one = zclone("plan", "job.yaml", "--only", "key=t1", env=env)
    assert one.returncode == 0, one.stderr
    assert one.stdout.splitlines()[0].split() == ["KEY", "SOURCE", "CLONE", "NAME"]
    assert '    name: "s1" -> "s1-arm"  (target, rendered, job.yaml:9:' in one.stdout
    assert f"registry.example.com/aarch64/{'x' * 90}  (defaults, " in one.stdout
    assert "1 targets, about 2 calls" in one.stderr
    every = zclone("plan", "job.yaml", "--details", env=env).stdout
    assert all(f"\nt{number} " in every for number in range(SERVICES))
    assert "\nt1 " in one.stdout
    assert "\nt2 " not in one.stdout
    data = json.loads(zclone("plan", "job.yaml", "--only", "name=s1?-arm", "-o", "json", env=env).stdout)
    assert (data["count"], [clone["key"] for clone in data["clones"]]) == (2, ["t10", "t11"])
    curl = zclone("plan", "job.yaml", "--only", "key=t1", "-o", "curl", env=env)
    assert curl.stdout.count("curl ") == 1
    none = zclone("plan", "job.yaml", "--only", "key=t99", env=env)
    assert (none.returncode, "matches none of the 12 targets" in none.stderr) == (2, True)
    both = zclone("plan", "job.yaml", "--only", "key=t1", "--out", "p.json", env=env)
    assert (both.returncode, "--out saves the whole plan" in both.stderr) == (2, True)


def test_an_undone_target_is_planned_under_its_next_uuid(
    tmp_path: Path, job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An undone target counts as left, and the plan shows the uuid that the next run requests."""
    text = job.read_text(encoding="utf-8").replace("${source.name}", "s")
    job.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZSTACK_API_URL", raising=False)
    assert run_command(["plan", "job.yaml", "-o", "json"]) == 0
    first = {clone["key"]: clone["resource_uuid"] for clone in json.loads(capsys.readouterr().out)["clones"]}

    async def begin() -> None:
        header = Header("j", "default", "http://z", simulated=False, tool="zclone", created_at=1_700_000_000.0)
        manifest = open_manifest(tmp_path / "job.manifest.jsonl", header)
        for key, end in (("t1", State.CLONED), ("t2", State.UNDONE), ("t3", State.FAILED)):
            uuid = first[key]
            manifest.note(Record(State.SENT, key, 1_700_000_001.0, 1, uuid_of(1), uuid, uuid_of(50)))
            if end is State.UNDONE:
                manifest.note(Record(State.CLONED, key, 1_700_000_002.0, 1, uuid_of(1), uuid, clone_uuid=uuid))
            manifest.note(Record(end, key, 1_700_000_003.0, 1, uuid_of(1), uuid, clone_uuid=uuid))
        await manifest.flush()
        await manifest.close(4)

    asyncio.run(begin())
    assert run_command(["plan", "job.yaml"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "12 targets: 1 cloned, 1 failed, 10 left, by job.manifest.jsonl"
    assert out[2].startswith("10 of 12 targets, about 24 calls")
    assert run_command(["plan", "job.yaml", "-o", "json"]) == 0
    then = {clone["key"]: clone["resource_uuid"] for clone in json.loads(capsys.readouterr().out)["clones"]}
    assert [key for key in first if then[key] != first[key]] == ["t2"]


REHEARSED: Final = f"""version: 1
name: j
limits: {{rate: 500/s}}
targets:
  - {{query: ["name~=qwen%"], params: {{name: "${{source.name}}-x"}}}}
  - {{uuid: {uuid_of(1)}, id: own, owner: {uuid_of(7)}, params: {{requestCpu: 3}}}}
rearchitect: {{to: [AARCH64], images: [{{from: registry.example.com/, to: arm/}}]}}
"""


def test_a_plan_is_rehearsed_like_the_run(tmp_path: Path, zclone: Run) -> None:
    """`plan --simulate` needs no settings, changes no file, reads the rehearsal's manifest and checks on its node."""
    (tmp_path / "job.yaml").write_text(REHEARSED, encoding="utf-8")
    first = zclone("plan", "job.yaml", "--simulate", "--server-check")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[:1] == ["job j, run default"]
    assert first.stdout.splitlines()[1].startswith("2 targets, about 8 calls")
    assert "warning: rehearsal: the embedded node has nothing for" in first.stderr
    assert "server check: 2 ok" in first.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]
    assert zclone("run", "job.yaml", "--simulate", "--progress", "none").returncode == 0
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = zclone("plan", "job.yaml", "--simulate")
    assert again.stdout.splitlines()[1] == "2 targets: 2 cloned, 0 left, by job.simulated.manifest.jsonl"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert zclone("plan", "job.yaml", "--simulate", "loud.yaml").returncode == 2


def test_a_node_with_sources_is_found_planned_and_cloned(
    tmp_path: Path, zclone: Run, serve_node: Callable[..., str]
) -> None:
    """`simulate --sources N` serves N named services, so that discover, query, plan and run can be rehearsed."""
    env = {"ZSTACK_API_URL": serve_node("--sources", "12"), "ZSTACK_SESSION_ID": SESSION}
    found = zclone("discover", "name~=qwen-1%", "--out", "found.yaml", env=env)
    assert found.returncode == 0, found.stderr
    text = (tmp_path / "found.yaml").read_text(encoding="utf-8")
    wanted = [source for source in made_up_sources(12) if str(source.name).startswith("qwen-1")]
    rows = [line for line in text.splitlines() if '# "qwen-' in line]
    assert len(wanted) == len(rows) == 4
    assert all(any(source.uuid in row and str(source.name) in row for row in rows) for source in wanted)
    assert zclone("plan", "found.yaml", env=env).stdout.splitlines()[1].startswith("4 targets")
    done = zclone("run", "found.yaml", "--rate", "500/s", env=env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("columns", [60, 100, 150])
@pytest.mark.parametrize("flags", [[], ["--details"]])
def test_a_plan_fits_the_terminal(
    columns: int, flags: list[str], job: Path, child_env: dict[str, str], env: dict[str, str]
) -> None:
    """On a terminal the table of the summary fits its width, and with --details each target's own line does."""
    shown = run_in_terminal(["plan", "job.yaml", *flags], job, child_env | env, columns)
    lines = [line for line in shown.splitlines() if "requestCpu" in line or line.startswith("t1 ")]
    assert lines
    assert max(map(width, lines)) <= columns


def run_in_terminal(arguments: list[str], job: Path, env: dict[str, str], columns: int) -> str:
    terminal = Terminal(arguments, cwd=job.parent, env=env | {"PAGER": "", "TERM": "xterm"}, size=(columns, 24))
    try:
        assert terminal.end()[1] == 0, terminal.seen
    finally:
        terminal.close()
    return terminal.seen.decode().replace("\r\n", "\n")


def test_a_pager_shows_a_plan_on_a_terminal(
    tmp_path: Path, job: Path, zclone: Run, child_env: dict[str, str], env: dict[str, str]
) -> None:
    """On a terminal the operator's pager gets the table, and may exit early; elsewhere there is none."""
    (tmp_path / "pager").write_text('#!/bin/sh\necho "$LESS" > style; head -n 2 > paged\n', encoding="utf-8")
    (tmp_path / "pager").chmod(0o755)
    paged = {"PAGER": f"{tmp_path}/pager --all", "TERM": "xterm"}
    terminal = Terminal(["plan", "job.yaml", "--details"], cwd=tmp_path, env=child_env | env | paged, size=(80, 24))
    try:
        assert terminal.end()[1] == 0, terminal.seen
    finally:
        terminal.close()
    assert (tmp_path / "paged").read_text(encoding="utf-8").splitlines()[1].startswith("t0 ")
    assert (tmp_path / "style").read_text(encoding="utf-8") == "FRX\n"
    (tmp_path / "paged").unlink()
    assert zclone("plan", "job.yaml", env=env | paged).stdout.startswith("job j, run default")
    assert not (tmp_path / "paged").exists()
