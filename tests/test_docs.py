"""The READMEs are true: commands run, tables agree with the code, links lead somewhere."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from typer.main import get_command

from batch.cli.app import app, run_command
from batch.errors import ExitCode
from batch.settings.sources import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).resolve().parents[1]
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE: Final = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
COMMANDS: Final[dict[str, Any]] = dict(get_command(app).commands)  # type: ignore[attr-defined]
NOT_OURS: Final = frozenset({"--help"})
ENDPOINT: Final = "https://zstack.example.com:8080"


def block_with(what: str) -> str:
    """Return the one block of README's commands that contains ``what``."""
    (block,) = [block for block in blocks(README, "sh") if what in block]
    return block


def documented_flags(readme: str, heading: str = "## Commands") -> dict[str, set[str]]:
    table = readme.split(heading)[1].split("##", maxsplit=1)[0]
    return {
        match[1]: set(re.findall(r"--[a-z-]+", row))
        for row in table.splitlines()
        if (match := re.match(r"\| `zclone (\w+)", row))
    }


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def flags(name: str) -> set[str]:
    found = {flag for param in COMMANDS[name].params for flag in param.opts if flag.startswith("--")}
    hidden = {flag for param in COMMANDS[name].params if getattr(param, "hidden", False) for flag in param.opts}
    return found - hidden - NOT_OURS


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a ``zclone`` that runs the code under test."""
    folder = tmp_path_factory.mktemp("bin")
    installed = Path(sys.executable).with_name("zclone")
    command = str(installed) if installed.exists() else f"env PYTHONPATH={ROOT} {sys.executable} -m batch"
    (folder / "zclone").write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    (folder / "zclone").chmod(0o755)
    return folder


@pytest.fixture
def shell(tmp_path: Path, shim: Path, child_env: dict[str, str]) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run a block of README in a folder that has only the examples."""
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")

    def run(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", "-eu", "-c", script],
            cwd=tmp_path,
            env=child_env | {"PATH": f"{shim}{os.pathsep}{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )

    return run


def test_the_first_screen_has_the_two_commands() -> None:
    """A newcomer needs two commands, which are on the first screen verbatim."""
    first_screen = "\n".join(README.splitlines()[:25])
    assert blocks(first_screen, "sh")[0].splitlines() == [
        "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/zclone run --simulate jobs/quickstart.yaml",
        ".venv/bin/pip install -q '.[test]' && .venv/bin/pytest -q",
    ]


def test_the_first_command_runs(shell: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    """The quickstart shows its progress, sums up, and exits with 0."""
    done = shell("zclone run --simulate jobs/quickstart.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "clone.settled" in done.stderr
    assert re.search(r"^(\d+) of \1 targets cloned$", done.stderr, re.MULTILINE)


@pytest.mark.timeout(300)  # a lost job of the rehearsal is abandoned after a minute
def test_killed_and_run_again(shell: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    """README's rehearsal: after kill -9 the same command resumes, while it exits with 4, until all is cloned."""
    script = block_with("kill -9")
    again = "zclone run --simulate flaky jobs/onboard-tenants.yaml"
    assert f"\n{again}\n" in script
    script = script.replace(f"\n{again}\n", f"\nuntil {again}; do test $? = 4; done\n")
    done = shell(script.replace("kill -9 $!; wait", "kill -9 $!; wait || true"))
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()[1:]
    assert rows
    assert all(" cloned " in row for row in rows)
    report = shell(block_with("zclone report"))
    assert (report.returncode, report.stderr) == (0, "wrote report.html\n")


def test_a_real_run(
    shell: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: Path, serve_node: Callable[..., str]
) -> None:
    """README's commands for a real run work as they stand, here against an embedded node."""
    script = block_with("ZSTACK_API_URL")
    (tmp_path / "session.secret").write_text("b86c9016b4f24953a9edefb53ca0678c\n", encoding="utf-8")
    (tmp_path / "session.secret").chmod(0o600)
    rows = (ROOT / "jobs" / "migrate-arm64.jsonl").read_text(encoding="utf-8").splitlines()
    sources = [{"uuid": json.loads(row)["uuid"]} for row in rows]
    (tmp_path / "node.json").write_text(json.dumps({"version": 1, "sources": sources}), encoding="utf-8")
    url = serve_node("--faults", str(tmp_path / "node.json"))
    done = shell(script.replace(ENDPOINT, url).replace("20/s", "200/s"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "migrated.csv").read_text(encoding="utf-8").startswith('"key","source_uuid","state"')


@pytest.mark.parametrize("what", ["zclone retry", "zclone verify", "jobs/nightly.yaml", "--shard 0/2"])
def test_how_to(
    what: str, shell: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: Path, serve_node: Callable[[], str]
) -> None:
    """README's how-tos work as they stand, those about an earlier run after a run."""
    (tmp_path / "session.secret").write_text("b86c9016b4f24953a9edefb53ca0678c\n", encoding="utf-8")
    (tmp_path / "session.secret").chmod(0o600)
    settings = f"export ZSTACK_API_URL={serve_node()} ZSTACK_SESSION_ID_FILE=session.secret ZCLONE_CONCURRENCY=16\n"
    before = "zclone run jobs/migrate-arm64.yaml --rate 200/s\n" if "retry" in what or "verify" in what else ""
    done = shell(settings + before + block_with(what))
    assert done.returncode == 0, done.stderr
    if what == "--shard 0/2":
        shards = [path.name for path in sorted(tmp_path.glob("*.manifest.jsonl"))]
        of_two = [f"migrate-arm64.big.shard-{number}-of-2.manifest.jsonl" for number in (0, 1)]
        assert shards == ["migrate-arm64.big.manifest.jsonl", *of_two]


def test_the_demo_proves_itself(shell: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """The tour exits with 0 and prints the node's ledger without duplicates, a report and the next command."""
    done = shell(block_with("zclone demo"))
    assert done.returncode == 0, done.stderr
    assert re.match(r"The node's ledger: 300 made, 0 twice, through \d+ faults and one SIGKILL\.\n", done.stdout)
    assert re.search(r"The proof: zclone-demo/proof.json holds: .* 300 in-sync;", done.stdout)
    assert "Next: zclone init" in done.stdout
    assert (tmp_path / "zclone-demo" / "report.html").is_file()


def test_every_block_of_commands_is_run() -> None:
    """These tests run every command in README."""
    run = ["python3 -m venv", "zclone demo", "kill -9", "zclone report", "ZSTACK_API_URL"]
    run += ["zclone retry", "zclone verify", "jobs/nightly.yaml", "--shard 0/2"]
    assert {block_with(what) for what in run} == set(blocks(README, "sh"))


def without_comments(block: str) -> str:
    return re.sub(r"\s+#.*$", "", block, flags=re.MULTILINE)


def test_both_readmes_agree() -> None:
    """The Chinese README has as many headings, and the same blocks, pictures, commands with their flags, and codes."""
    for pattern in (r"^(#+) ", r"^!\[[^]]*\](\([^)]*\))", r"^\| (`[^`|]*`|\d+)(?= )"):
        assert re.findall(pattern, CHINESE, re.MULTILINE) == re.findall(pattern, README, re.MULTILINE), pattern
    ours, theirs = (re.findall(r"^```\w+\n.*?^```$", text, re.MULTILINE | re.DOTALL) for text in (CHINESE, README))
    assert [*map(without_comments, ours)] == [*map(without_comments, theirs)]
    assert documented_flags(CHINESE, "## 命令") == documented_flags(README)


def test_the_chinese_readme_is_chinese() -> None:
    """Its headings and table headers are Chinese, and so are the comments of its commands."""
    headings = re.findall(r"^##+ (.*)$", CHINESE, re.MULTILINE)
    heads = [line for line, rule in itertools.pairwise(CHINESE.splitlines()) if rule.startswith("|---")]
    comments = [
        line for block in blocks(CHINESE, "(?:sh|yaml|text)") for line in re.findall(r"\s#.*$", block, re.MULTILINE)
    ]
    assert len(headings) >= 9
    assert len(comments) >= 12
    for text in (*headings, *heads, *comments):
        assert re.search(r"[\u4e00-\u9fff]", text), text


def test_the_library_example_clones(tmp_path: Path, child_env: dict[str, str], serve_node: Callable[[], str]) -> None:
    """README's program is shown beside the vendor's, sets what that sets, and clones as it stands."""
    section = README.split("## As a library")[1].split("\n## ")[0]
    (theirs,), (ours,) = blocks(section, "text"), blocks(section, "python")
    set_by_them = set(re.findall(r"^action\.\w+", theirs, re.MULTILINE))
    assert set_by_them <= {line.split(" = ")[0].strip() for line in ours.splitlines()}
    (tmp_path / "clone.py").write_text(ours.replace(ENDPOINT, serve_node()), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "clone.py"],
        cwd=tmp_path,
        env=child_env | {"ZSTACK_SESSION_ID": "b86c9016b4f24953a9edefb53ca0678c"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert re.fullmatch(r"cloned: [0-9a-f]{32} example\n", done.stdout), done.stderr


def test_the_jobs_in_the_readme_are_valid(zclone: Callable[..., Any], tmp_path: Path) -> None:
    """The job files README shows pass validation."""
    uuid = "432c5fdd49374bb0a2fd7877f0a877cf"
    (tmp_path / "services.csv").write_text(f"uuid,id\n{uuid},row\n", encoding="utf-8")
    tenants = f"id,tenant,account,partners\nacme,acme,{uuid},{uuid};{uuid}\nglobex,globex,{uuid},\n"
    (tmp_path / "tenants.csv").write_text(tenants, encoding="utf-8")
    names = []
    for number, text in enumerate(blocks(README, "yaml")):
        names.append(f"job-{number}.yaml")
        (tmp_path / names[-1]).write_text(text, encoding="utf-8")
    assert len(names) == 2
    done = zclone("validate", *names)
    assert done.returncode == 0, done.stdout


def test_every_example_is_valid(zclone: Callable[..., Any]) -> None:
    """Every job under jobs/ passes validation."""
    examples = sorted((ROOT / "jobs").glob("*.yaml"))
    assert len(examples) >= 4
    done = zclone("validate", *examples)
    assert done.returncode == 0, done.stdout


def test_the_exit_codes_are_the_codes() -> None:
    """README's table and the program know the same exit codes."""
    table = README.split("## Exit codes")[1].split("##")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == {int(code) for code in ExitCode}


def test_every_command_and_flag_is_documented() -> None:
    """README names every command with all its flags, and no others."""
    assert documented_flags(README) == {name: flags(name) for name in COMMANDS}


def test_every_variable_is_real() -> None:
    """Each ZSTACK_* variable in README is read."""
    named = set(re.findall(r"\bZSTACK_[A-Z_]+[A-Z]\b", README))
    assert named <= set(NAMES)
    assert {name for name in NAMES if not name.endswith("_FILE")} <= named


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command explains itself and each of its flags."""
    assert run_command([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Usage" in shown
    for param in COMMANDS[name].params if name else ():
        assert getattr(param, "hidden", False) or param.help, f"{name} {param.name} has no help"


def relative_links(path: Path) -> Iterator[Path]:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            yield path.parent / target


@pytest.mark.parametrize(
    "name", ["README.md", "README.zh-CN.md", "batch/README.md", "tests/README.md", "jobs/README.md"]
)
def test_links_lead_somewhere(name: str) -> None:
    """Every relative link of a README leads to a file."""
    for target in relative_links(ROOT / name):
        assert target.exists(), f"{name} links to {target}"


@functools.cache
def _package_map() -> set[str]:
    text = (ROOT / "batch" / "README.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([\w./]+)`", text.split("## Packages and modules")[1].split("\n## ")[0], re.MULTILINE))


def test_the_map_shows_every_package() -> None:
    """batch/README.md's map has each package and module of ``batch``, and no other."""
    packages = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "batch").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert _package_map() == packages - {"__init__.py", "__main__.py"}
