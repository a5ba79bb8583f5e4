"""What is shipped: the wheel runs, the sdist can be tested, and neither has what it should not."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from batch import __version__

ROOT: Final = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")))
    return zipfile.ZipFile(path)


def test_the_wheel_has_the_whole_house(wheel: zipfile.ZipFile) -> None:
    """The wheel has every module, the typing marker, the licence and the command, and no test."""
    names = set(wheel.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "batch").rglob("*.py")}
    assert modules | {"batch/py.typed"} <= names
    info = f"zclone-{__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in names
    assert "zclone = batch.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert {name.split("/")[0] for name in names} == {"batch", info}


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    """The metadata has version, licence, Python version and the four packages the tool stands on."""
    metadata = wheel.read(f"zclone-{__version__}.dist-info/METADATA").decode()
    for line in (f"Version: {__version__}", "License-Expression: Apache-2.0", "Requires-Python: >=3.11"):
        assert line in metadata
    for package in ("aiohttp", "asyncio-throttle", "pyyaml", "structlog"):
        assert f"Requires-Dist: {package}" in metadata


def test_the_sdist_can_be_built_and_tested(tmp_path: Path) -> None:
    """The source archive has code, examples, tests and Dockerfile."""
    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path))
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"batch/py.typed", "jobs/quickstart.yaml", "tests/conftest.py", "Dockerfile", "LICENSE", "README.md"}
    assert wanted | {"pyproject.toml", ".ci/requirements.txt"} <= names
    assert not {name for name in names if "__pycache__" in name or name.endswith(".manifest.jsonl")}


def test_the_licence_is_apache_2() -> None:
    """LICENSE is the whole text of the licence the metadata names."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text.splitlines()[1]
    assert "END OF TERMS AND CONDITIONS" in text


def pins(lock: str) -> dict[str, int]:
    """Each locked version, and how many hashes of its files are there."""
    text = (ROOT / ".ci" / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    found = {
        line.split("==")[0]: line.count(" --hash=sha256:") for line in text.splitlines() if not line.startswith("#")
    }
    assert all(re.match(r"[a-z0-9.-]+==[0-9][^ ]*( ;|  )", line) for line in text.splitlines() if line[:1] != "#")
    return found


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        (
            "requirements.txt",
            "aiohttp asyncio-throttle pyyaml structlog pydantic typer rich pytest mypy ruff pip-audit",
        ),
        ("image.txt", "aiohttp asyncio-throttle pyyaml structlog pydantic typer rich orjson uvloop"),
        ("build.txt", "hatchling"),
    ],
)
def test_the_locks_are_exact_have_hashes_and_name_no_host(lock: str, wanted: str) -> None:
    """Every version is exact and has the hashes of its files; nothing says where packages come from."""
    locked = pins(lock)
    assert set(wanted.split()) <= set(locked)
    assert {name: count for name, count in locked.items() if not count} == {}
    text = (ROOT / ".ci" / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert not [line for line in text.splitlines() if line.startswith("-")]


def test_the_image_has_the_versions_that_were_tested() -> None:
    """Whatever runs in the image, or builds it, is locked to the version that CI tests with."""
    tested = (ROOT / ".ci" / "requirements.txt").read_text(encoding="utf-8")
    lines = [(ROOT / ".ci" / lock).read_text(encoding="utf-8").splitlines() for lock in ("image.txt", "build.txt")]
    versions = {line.split(" ")[0] for line in (*lines[0], *lines[1]) if "==" in line and not line.startswith(" ")}
    assert len(versions) >= 25
    assert {version for version in versions if f"\n{version} " not in f"\n{tested}"} == set()


def test_only_hashed_packages_get_into_ci_and_image() -> None:
    """CI and the image install packages by the locks' hashes, and the project without looking for anything more."""
    for name, locks in (("Dockerfile", ("build.txt", "image.txt")), (".ci/install", ("requirements.txt",))):
        text = (ROOT / name).read_text(encoding="utf-8")
        for lock in locks:
            assert re.search(rf"pip\"? install [^\n]*--require-hashes -r \.ci/{lock}", text), name
        assert re.search(r"pip\"? install [^\n]*--no-deps ", text), name


def test_the_image_runs_as_nobody_and_hears_signals() -> None:
    """The image has a numeric user, an exec-form entrypoint, a stop signal, and no secret or host."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert text.count("\nFROM ") == 2
    assert "\nUSER 65532:65532\n" in text
    assert '\nENTRYPOINT ["zclone"]\n' in text
    assert "\nSTOPSIGNAL SIGTERM\n" in text
    assert "PYTHONUNBUFFERED=1" in text
    assert "PYTHONUTF8=1" in text
    assert "ZSTACK_" not in text
