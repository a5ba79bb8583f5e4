"""What is shipped: the wheel runs, the sdist can be tested, and neither has what it should not."""

from __future__ import annotations

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


def test_the_lock_is_exact_and_names_no_host() -> None:
    """CI's versions are exact, cover every requirement, and say nothing of where packages come from."""
    lines = (ROOT / ".ci" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines if not line.startswith("#"))
    assert {"aiohttp", "asyncio-throttle", "pyyaml", "structlog", "pydantic", "typer", "rich", "pytest"} <= set(pins)
    assert not [line for line in lines if "://" in line or line.startswith("-")]


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
