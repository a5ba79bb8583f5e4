"""The image's run-time part without a daemon: its wheel in a bare environment, unprivileged, as process 1."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[1]
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")
USER: Final = 65532
NOT_NEEDED: Final = shutil.ignore_patterns(
    "__pycache__",
    "mypy*",
    "ruff*",
    "kubernetes*",
    "*mypyc*",
    "pytest*",
    "_pytest",
    "hypothesis*",
    "batch",
    "pip",
    "setuptools",
)
JOB: Final = """\
version: 1
name: image
limits: {rate: 20/s, concurrency: 2}
targets:
"""


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """Return a folder that others may read, with the image's contents: a bare environment with the wheel in it.

    Its requirements are those of this environment, by a path file, so that nothing is fetched.
    """
    folder = Path(tempfile.mkdtemp(prefix="image-"))
    folder.chmod(0o755)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (wheel,) = folder.glob("*.whl")
    venv = folder / "venv"
    subprocess.run([PYTHON or sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=60)
    install = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "-q", "--no-index"]
    subprocess.run([*install, "--no-deps", str(wheel)], check=True, capture_output=True, timeout=60)
    shutil.copytree(sysconfig.get_path("purelib"), folder / "requirements", ignore=NOT_NEEDED)
    (site(folder) / "requirements.pth").write_text(f"{folder / 'requirements'}\n", encoding="utf-8")
    yield folder
    shutil.rmtree(folder)


def test_each_stage_begins_with_an_image_by_digest() -> None:
    """The base image cannot change without a change here."""
    (base,) = re.findall(r"^ARG PYTHON=(.+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    assert {line.split()[1] for line in DOCKERFILE.splitlines() if line.startswith("FROM ")} == {"${PYTHON}"}


def test_the_image_has_bytecode() -> None:
    """Installed code is compiled when the image is built: its user cannot write bytecode."""
    steps = (ROOT / "Dockerfile").read_text(encoding="utf-8").split("FROM ")[1].splitlines()
    installs = [line for line in steps if "/opt/zclone/bin/pip install" in line]
    assert len(installs) == 2
    assert not [line for line in installs if "--no-compile" in line]


def site(image: Path) -> Path:
    (found,) = (image / "venv" / "lib").glob("python3.*/site-packages")
    return found


@pytest.fixture
def work(image: Path) -> Iterator[Path]:
    """Return the volume: a folder of the image's user."""
    folder = image / "work"
    folder.mkdir()
    targets = "".join(f"  - {number:012x}4aaa8{number:015x}\n" for number in range(1, 31))
    (folder / "job.yaml").write_text(JOB + targets, encoding="utf-8")
    os.chown(folder, USER, USER)
    yield folder
    shutil.rmtree(folder)


def interpreter() -> str | None:
    """Return a Python of this version that an unprivileged user may start."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in filter(None, (sys.executable, shutil.which(version, path="/usr/local/bin:/usr/bin"))):
        parents = (Path(path).resolve(), *Path(path).resolve().parents, *Path(path).absolute().parents)
        if all(parent.stat().st_mode & 0o001 for parent in parents):
            return path
    return None


PYTHON: Final = interpreter()
TOOLS: Final = os.geteuid() == 0 and shutil.which("unshare") and shutil.which("setpriv") and PYTHON
needs_rights = pytest.mark.skipif(not TOOLS, reason="needs root, unshare, setpriv and a Python that others may start")


PREPARED: Final = 'mount --bind "$1" "$1" && mount -o remount,bind,ro / && cd "$1" && shift && exec "$@"'
"""Makes all of the root read-only but the volume, for this process and its children only."""


def command(image: Path, work: Path, *arguments: str) -> list[str]:
    """Return the command that starts zclone as the image does: process 1, an unprivileged user, a read-only root."""
    rights = [
        "setpriv",
        f"--reuid={USER}",
        f"--regid={USER}",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
    ]
    space = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", PREPARED, "sh", str(work)]
    return [*space, *rights, str(image / "venv" / "bin" / "zclone"), *arguments]


def environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}


def processes(parent: int) -> list[int]:
    """Return the children of a process."""
    return list(map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()))


def read_until(run: subprocess.Popen[str], event: str) -> None:
    assert run.stderr is not None
    seen = ""
    while event not in seen:
        line = run.stderr.readline()
        assert line, seen
        seen += line


def test_the_wheel_has_the_reports_files(image: Path) -> None:
    """Page, style and script of the report are in the wheel; no test is."""
    names = {path.relative_to(site(image)).as_posix() for path in site(image).rglob("*") if path.is_file()}
    assert {f"batch/report/page/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert not [name for name in names if name.startswith("tests/")]


def test_the_dockerfile_is_the_one_tested_here() -> None:
    """User, folder, signal and entry point of the Dockerfile are those of these tests."""
    assert re.search(rf"^USER {USER}:{USER}$", DOCKERFILE, re.MULTILINE)
    for line in ("STOPSIGNAL SIGTERM", 'ENTRYPOINT ["zclone"]', "VOLUME /work", "WORKDIR /work"):
        assert line in DOCKERFILE.splitlines()


@needs_rights
def test_the_root_is_read_only(image: Path, work: Path) -> None:
    """Nothing can be created outside the volume, and the volume is writable."""
    probe = command(image, work)[: -len(["zclone"])]
    for path, can in ((image / "no", False), (work / "yes", True)):
        done = subprocess.run([*probe, "touch", str(path)], env=environment(), capture_output=True, check=False)
        assert (done.returncode == 0, path.exists()) == (can, can), done.stderr


@needs_rights
def test_sigterm_shuts_process_one_down_cleanly(image: Path, work: Path) -> None:
    """As unprivileged process 1 on a read-only root, SIGTERM ends a run with 4; the same command resumes to 0."""
    begin = command(image, work, "run", "--simulate", "job.yaml", "--log-format", "json")
    with subprocess.Popen(begin, cwd=work, env=environment(), stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        try:
            read_until(run, '"clone.settled"')
            (child,) = processes(run.pid)
            status = Path(f"/proc/{child}/status").read_text(encoding="ascii")
            os.kill(child, signal.SIGTERM)
            rest = run.stderr.read()
        finally:
            run.wait(200)
    assert re.search(rf"^Uid:\t{USER}\t{USER}\t", status, re.MULTILINE)
    assert re.search(r"^NSpid:.*\t1$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
    assert (run.returncode, "SIGTERM" in rest) == (4, True), rest
    go_on = command(image, work, "run", "--simulate", "job.yaml", "--rate", "200/s", "--concurrency", "32")
    done = subprocess.run(go_on, cwd=work, env=environment(), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "30 of 30 targets cloned" in done.stderr


@needs_rights
def test_an_unwritable_folder_is_reported(image: Path, work: Path) -> None:
    """In a read-only working folder nothing is sent: exit 2, with the manifest's name."""
    os.chown(work, 0, 0)
    work.chmod(0o555)
    done = subprocess.run(
        command(image, work, "run", "--simulate", "job.yaml"),
        cwd=work,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "job.simulated.manifest.jsonl" in done.stderr
