"""What is shipped: the wheel runs, the sdist can be tested, and neither has anything it should not."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
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


def test_the_wheel_has_every_module(wheel: zipfile.ZipFile) -> None:
    """The wheel has every module, the typing marker, the licence and the command, and no test."""
    names = set(wheel.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "batch").rglob("*.py")}
    assert modules | {"batch/py.typed"} <= names
    info = f"zclone-{__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in names
    assert "zclone = batch.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert {name.split("/")[0] for name in names} == {"batch", info}
    jobs = {path.relative_to(ROOT / "jobs").as_posix() for path in (ROOT / "jobs").rglob("*") if path.is_file()}
    assert {f"batch/examples/{name}" for name in jobs} <= names
    assert "batch/app/starter.yaml" in names


def test_the_wheels_metadata(wheel: zipfile.ZipFile) -> None:
    """The metadata has version, licence, Python version and the four main dependencies."""
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


def built_names(folder: Path, out: Path) -> set[str]:
    """Build sdist and wheel of a checkout and return the names of all files in them."""
    (wheel,) = WheelBuilder(str(folder)).build(directory=str(out))
    (sdist,) = SdistBuilder(str(folder)).build(directory=str(out))
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    return names | set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("is_checkout", [True, False], ids=["checkout", "unpacked sdist"])
def test_untracked_files_are_not_shipped(is_checkout: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """Secrets, environments and untracked modules in the folders stay out of wheel and sdist; tracked files are in."""
    folder = tmp_path / "checkout"
    tracked = [
        "pyproject.toml",
        "README.md",
        "LICENSE",
        ".ci/tracked.py",
        ".ci/lock",
        "batch/__init__.py",
        "batch/py.typed",
    ]
    for name in tracked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    if is_checkout:
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
        subprocess.run(["git", "-C", str(folder), "add", "-A"], check=True)
    stray = ["session.secret", ".env", "batch/session.secret", "batch/.env", "jobs/.env.local"]
    stray += ["batch/stray.py", "tests/notes.txt"] if is_checkout else []
    for name in stray:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x", encoding="utf-8")
    names = built_names(folder, tmp_path / "out")
    assert set(tracked) <= names
    assert not names & set(stray)


def test_an_editable_install_follows_the_checkout(tmp_path: Path) -> None:
    """It has the path of the checkout and no copy of a module, which would hide edits."""
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["editable"])
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith(".pth")]
    assert not [name for name in names if name.endswith(".py")]


def test_the_build_context_holds_only_what_the_image_needs() -> None:
    """Only what the Dockerfile copies is in the build context, except what could be a secret."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = set(re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE))
    wanted = {name.split("/")[0] for line in copied for name in line.split()}
    assert {line[1:] for line in lines if line.startswith("!")} == wanted
    assert {"*", "**/*.secret", "**/.env*"} <= set(lines)


def test_secrets_beside_the_code_are_not_tracked() -> None:
    """README's own session.secret, and files of environments, are ignored by git."""
    patterns = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"*.secret", ".env", ".env.*"} <= set(patterns)


def imported(folder: str) -> set[str]:
    trees = (ast.parse(path.read_bytes()) for path in (ROOT / folder).rglob("*.py"))
    found = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in found if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in found if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"", "batch", "tests", "__future__"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("batch", ("speed", "otel", "temporal", "excel")), ("tests", ("speed", "otel", "temporal", "excel", "test"))],
)
def test_every_imported_distribution_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    """Every imported package is in pyproject.toml with a lowest version, and does not only come with others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    declared = {normal(line.partition(">=")[0]) for line in wanted if ">=" in line}
    owners = packages_distributions()
    names = imported(folder)
    assert len(names) >= 9
    here = names & owners.keys()
    assert {name for name in here if declared.isdisjoint(map(normal, owners[name]))} == set()
    assert names - here <= {"orjson", "uvloop", "opentelemetry", "openpyxl"}


def test_the_licence_is_apache_2() -> None:
    """LICENSE is the whole text of the licence the metadata names."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text.splitlines()[1]
    assert "END OF TERMS AND CONDITIONS" in text


def pins(lock: str) -> dict[str, int]:
    """Each locked version, and the number of hashes of its files."""
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
        (
            "image.txt",
            "aiohttp asyncio-throttle pyyaml structlog pydantic typer rich orjson uvloop temporalio cryptography",
        ),
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


def test_the_image_has_the_tested_versions() -> None:
    """Everything that runs in the image, or builds it, is locked to the version that CI tests with."""
    tested = (ROOT / ".ci" / "requirements.txt").read_text(encoding="utf-8")
    lines = [(ROOT / ".ci" / lock).read_text(encoding="utf-8").splitlines() for lock in ("image.txt", "build.txt")]
    versions = {line.split(" ")[0] for line in (*lines[0], *lines[1]) if "==" in line and not line.startswith(" ")}
    assert len(versions) >= 25
    assert {version for version in versions if f"\n{version} " not in f"\n{tested}"} == set()


def test_only_hashed_packages_are_installed_in_ci_and_image() -> None:
    """CI and the image install packages by the locks' hashes, and the project without resolving anything more."""
    for name, locks in (("Dockerfile", ("build.txt", "image.txt")), (".ci/install", ("requirements.txt",))):
        text = (ROOT / name).read_text(encoding="utf-8")
        for lock in locks:
            assert re.search(rf"pip\"? install [^\n]*--require-hashes -r \.ci/{lock}", text), name
        assert re.search(r"pip\"? install [^\n]*--no-deps ", text), name


def test_the_image_is_unprivileged_and_handles_signals() -> None:
    """The image has a numeric user, an exec-form entrypoint, a stop signal, and no secret or host."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert text.count("\nFROM ") == 2
    assert "\nUSER 65532:65532\n" in text
    assert '\nENTRYPOINT ["zclone"]\n' in text
    assert "\nSTOPSIGNAL SIGTERM\n" in text
    assert "PYTHONUNBUFFERED=1" in text
    assert "PYTHONUTF8=1" in text
    assert "ZSTACK_" not in text
