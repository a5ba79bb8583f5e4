"""The image's run-time part without a daemon: its wheel in a bare environment, without rights, as process 1."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[1]
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")
USER: Final = 65532
MAY: Final = os.geteuid() == 0 and shutil.which("unshare") is not None
JOB: Final = """\
version: 1
name: image
limits: {rate: 20/s, concurrency: 4}
targets:
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder that others may read, with what the image holds: the wheel unpacked beside its requirements."""
    folder = tmp_path_factory.mktemp("image")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder


@pytest.fixture
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the volume: a folder of the image's user."""
    folder = tmp_path_factory.mktemp("volume")
    targets = "".join(f"  - {number:012x}4aaa8{number:015x}\n" for number in range(1, 201))
    (folder / "job.yaml").write_text(JOB + targets, encoding="utf-8")
    os.chown(folder, USER, USER)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def command(image: Path, *arguments: str) -> list[str]:
    """Start zclone as the image does: process 1, a numeric user without rights, every file system but /work read-only."""
    script = "import sys; from batch.cli import main; sys.argv[0] = 'zclone'; main()"
    rights = [
        "setpriv",
        f"--reuid={USER}",
        f"--regid={USER}",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
    ]
    return [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        *rights,
        sys.executable,
        "-P",
        "-c",
        script,
        *arguments,
    ]


def environment(image: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(image / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/nonexistent",
    }


def test_the_wheel_has_what_it_needs(image: Path) -> None:
    """Page, style and script of the report are in the wheel; no test is."""
    names = {path.relative_to(image / "site").as_posix() for path in (image / "site").rglob("*") if path.is_file()}
    assert {f"batch/report/page/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert not [name for name in names if name.startswith("tests/")]


def test_the_image_is_the_one_tested_here() -> None:
    """User, folder, signal and entry point of the Dockerfile are those of these tests."""
    assert re.search(rf"^USER {USER}:{USER}$", DOCKERFILE, re.MULTILINE)
    for line in ("STOPSIGNAL SIGTERM", 'ENTRYPOINT ["zclone"]', "VOLUME /work", "WORKDIR /work"):
        assert line in DOCKERFILE.splitlines()


@pytest.mark.skipif(not MAY, reason="needs root and unshare")
def test_sigterm_ends_process_one_in_good_order(image: Path, work: Path) -> None:
    """As process 1, without rights and with no folder to write but its own, SIGTERM ends a run with 4; it goes on to 0."""
    arguments = ("run", "--simulate", "job.yaml", "--log-format", "json")
    run = subprocess.Popen(
        command(image, *arguments), cwd=work, env=environment(image), stderr=subprocess.PIPE, text=True
    )
    assert run.stderr is not None
    seen = ""
    while '"clone.settled"' not in seen:
        line = run.stderr.readline()
        assert line, seen
        seen += line
    (child,) = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text(encoding="ascii").split()
    assert re.search(rf"^Uid:\t{USER}\t", Path(f"/proc/{child}/status").read_text(encoding="ascii"), re.MULTILINE)
    assert Path(f"/proc/{child}/status").read_text(encoding="ascii").split("NSpid:\t")[1].split("\n")[0].endswith("\t1")
    os.kill(int(child), signal.SIGTERM)
    rest = run.stderr.read()
    assert run.wait(60) == 4, rest
    assert "SIGTERM" in rest
    again = [*arguments, "--rate", "200/s", "--concurrency", "32"]
    done = subprocess.run(
        command(image, *again),
        cwd=work,
        env=environment(image),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "200 of 200 targets cloned" in done.stderr


@pytest.mark.skipif(not MAY, reason="needs root and unshare")
def test_a_folder_that_cannot_be_written_is_told(image: Path, work: Path) -> None:
    """Where the working folder is read-only nothing is sent: exit 2, with the manifest's name."""
    os.chown(work, 0, 0)
    work.chmod(0o555)
    done = subprocess.run(
        command(image, "run", "--simulate", "job.yaml"),
        cwd=work,
        env=environment(image),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "job.simulated.manifest.jsonl" in done.stderr
