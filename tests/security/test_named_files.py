"""Rules 1 and 15: which files may hold a secret, and which files a job file may name."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batch.cli.app import run_command
from batch.errors import UsageError
from batch.jobfile.input_files import LARGEST, open_input
from batch.settings import files
from batch.settings.files import check_certificates, read_secret
from tests.security.hostile import hostile

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping

    from tests.conftest import Planted

    Run = Callable[..., subprocess.CompletedProcess[str]]

NAME = "ZSTACK_SESSION_ID_FILE"
ROWS = "uuid\n000000000001" + "4aaa8" + "000000000000001\n"
JOB = "version: 1\nname: named\ntargets:\n"


def secret(path: Path, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("s3cr3t\n", encoding="utf-8")
    path.chmod(mode)
    return path


def read(path: Path, **environ: str) -> str:
    return read_secret(NAME, path, environ)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_private_file_may_hold_a_secret(mode: int, tmp_path: Path) -> None:
    """A file that only the user can reach is read, also through a link of the same user."""
    path = secret(tmp_path / "s", mode)
    (tmp_path / "link").symlink_to(path)
    assert read(path) == read(tmp_path / "link") == "s3cr3t"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o660, 0o601, 0o777])
def test_a_file_open_to_others_holds_no_secret(mode: int, tmp_path: Path) -> None:
    """Any bit of group or world is refused, with setting, file, mode and the command to fix it."""
    path = secret(tmp_path / "my s", mode)
    with pytest.raises(UsageError) as caught:
        read(path)
    output = f"{NAME}: {path} is open to others on this machine (mode {mode:04o}): chmod 600 '{path}'"
    assert str(caught.value) == output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_holds_no_secret(tmp_path: Path) -> None:
    """A file of another user is refused, as that user may change it; the message names the required owner."""
    path = secret(tmp_path / "s")
    os.chown(path, 12345, -1)
    with pytest.raises(UsageError, match=rf"belongs to another user \(12345\): chown 0 {path} && chmod 600 {path}"):
        read(path)


def test_a_file_of_root_may_hold_a_users_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's own file is accepted from every user that may read it."""
    path = secret(tmp_path / "s")
    if os.geteuid() != 0:
        pytest.skip("only root has a file of root")
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    assert read(path) == "s3cr3t"


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "socket"])
def test_only_a_regular_file_holds_a_secret(kind: str, tmp_path: Path) -> None:
    """Pipes, folders, devices and sockets are refused at once; none of them hangs the command."""
    path = tmp_path / "s"
    match kind:
        case "fifo":
            os.mkfifo(path, 0o600)
        case "folder":
            path.mkdir(0o700)
        case "device":
            path = Path("/dev/zero")
        case "socket":
            os.mknod(path, 0o140600)
    with pytest.raises(UsageError, match=f"{NAME}: {path} (is not a regular file|cannot be read)"):
        read(path)


@pytest.mark.parametrize("mode", [0o440, 0o444, 0o400])
def test_credentials_of_systemd(mode: int, tmp_path: Path) -> None:
    """Files that LoadCredential= puts into $CREDENTIALS_DIRECTORY are read with the mode that systemd gave them."""
    path = secret(tmp_path / "run" / "session", mode)
    assert read(path, CREDENTIALS_DIRECTORY=str(tmp_path / "run")) == "s3cr3t"
    if mode != 0o400:
        with pytest.raises(UsageError, match="open to others"):
            read(path, CREDENTIALS_DIRECTORY=str(tmp_path / "other"))


def test_secrets_of_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that Docker mounts below /run/secrets is read with Docker's own 0444."""
    monkeypatch.setattr(files, "_DOCKER", tmp_path / "secrets")
    assert read(secret(tmp_path / "secrets" / "zstack", 0o444)) == "s3cr3t"
    with pytest.raises(UsageError, match="open to others"):
        read(secret(tmp_path / "secrets-not" / "zstack", 0o444))


def is_tmpfs(path: str) -> bool:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return any(line.split()[4] == path and line.partition(" - ")[2].startswith("tmpfs ") for line in lines)


needs_tmpfs = pytest.mark.skipif(
    os.geteuid() != 0 or not is_tmpfs("/dev/shm"), reason="needs to be root, and a tmpfs at /dev/shm"
)


@pytest.fixture
def volume() -> Iterator[Path]:
    """Return a secret volume as Kubernetes lays it out: root's tmpfs, links through ``..data``, a 0644 file."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    folder.chmod(0o1777)
    secret(folder / "..2026_11_23_14_00_00.1" / "session", 0o644)
    (folder / "..data").symlink_to("..2026_11_23_14_00_00.1")
    (folder / "session").symlink_to("..data/session")
    yield folder
    shutil.rmtree(folder)


@needs_tmpfs
@pytest.mark.parametrize("mode", [0o644, 0o440, 0o400])
def test_secrets_of_kubernetes(mode: int, volume: Path) -> None:
    """A secret volume is read as Kubernetes lays it out: links through ..data to 0644 files by default."""
    (volume / "..data" / "session").chmod(mode)
    assert read(volume / "session") == "s3cr3t"


@needs_tmpfs
@pytest.mark.parametrize(
    "what", ["no ..data", "..data elsewhere", "no link", "the file", "the folder", "the link", "0775"]
)
def test_an_imitation_of_kubernetes_is_refused(what: str, volume: Path) -> None:
    """Without the link ``..data`` to the very folder, or if any part is not root's, 0644 is open to others."""
    real = (volume / "..data").resolve()
    match what:
        case "no ..data":
            (volume / "..data").unlink()
        case "..data elsewhere":
            (volume / "..data").unlink()
            (volume / "..data").symlink_to("..")
        case "no link":
            (volume / "..data").unlink()
            (volume / "..data").mkdir()
        case "the file":
            os.chown(real / "session", 12345, -1)
        case "the folder":
            os.chown(real, 12345, -1)
        case "the link":
            os.chown(volume / "..data", 12345, -1, follow_symlinks=False)
        case "0775":
            real.chmod(0o775)
    with pytest.raises(UsageError, match=r"open to others|belongs to another user"):
        read(real / "session")


@pytest.mark.parametrize("name", ["..x", "...", "..2026_11_23"])
def test_a_folder_with_two_dots_is_no_mount(name: str, tmp_path: Path) -> None:
    """A folder that only has the names of Kubernetes' ones, on a disk, with a link and all, is no exception."""
    path = secret(tmp_path / name / "session", 0o644)
    (tmp_path / "..data").symlink_to(name)
    with pytest.raises(UsageError, match="open to others"):
        read(path)
    with pytest.raises(UsageError, match="open to others"):
        read(tmp_path / "..data" / "session")


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_mounted_secrets_that_others_may_change(mode: int, tmp_path: Path) -> None:
    """A secret that others may write is refused everywhere."""
    path = secret(tmp_path / "session", mode)
    with pytest.raises(UsageError, match=r"can be changed by others \(mode 06[46][46]\): chmod 600"):
        read(path, CREDENTIALS_DIRECTORY=str(tmp_path))


def test_an_open_secret_ends_before_any_call(zclone: Run, tmp_path: Path, planted: Planted) -> None:
    """Exit 2 with the place and the chmod to run, nothing sent; after the chmod the same command works."""
    path = tmp_path / "session.secret"
    path.write_text(planted.session, encoding="utf-8")
    path.chmod(0o644)
    (tmp_path / "job.yaml").write_text(JOB + f"  - {ROWS.splitlines()[1]}\n", encoding="utf-8")
    with hostile() as server:
        env = {"ZSTACK_API_URL": server.url, NAME: str(path)}
        done = zclone("run", "job.yaml", env=env)
        assert done.returncode == 2, done.stderr
        assert f"{NAME}: {path} is open to others" in done.stderr
        assert f"chmod 600 {path}" in done.stderr
        assert server.lines == []
        path.chmod(0o600)
        assert zclone("run", "job.yaml", env=env).returncode != 2
        assert server.lines != []


def refuse_certificates(path: Path, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        check_certificates(path)


def test_certificates_are_a_file_of_limited_size(tmp_path: Path) -> None:
    """A ca_file that is missing, a pipe, a device or huge is refused before it is read."""
    refuse_certificates(tmp_path / "none", "CA file .*none cannot be used: No such file")
    refuse_certificates(Path("/dev/zero"), "not a regular file")
    os.mkfifo(tmp_path / "fifo")
    refuse_certificates(tmp_path / "fifo", "not a regular file")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", (16 << 20) + 1)
    refuse_certificates(tmp_path / "huge", "larger than 16 MiB")
    os.truncate(tmp_path / "huge", 16 << 20)
    check_certificates(tmp_path / "huge")


def outside(kind: str, folder: Path) -> str:
    """Create a job folder and a file outside it that a job file must not reach; return what it names."""
    beside = folder.parent / "beside"
    beside.mkdir()
    (beside / "rows.csv").write_text(ROWS, encoding="utf-8")
    match kind:
        case "parent":
            return "../beside/rows.csv"
        case "absolute":
            return str(beside / "rows.csv")
        case "link to a file":
            (folder / "rows.csv").symlink_to(beside / "rows.csv")
            return "rows.csv"
        case "link to a folder":
            (folder / "sub").symlink_to(beside)
            return "sub/rows.csv"
    return "sub/../../beside/rows.csv"


@pytest.mark.parametrize("kind", ["parent", "absolute", "link to a file", "link to a folder", "through a folder"])
@pytest.mark.parametrize("key", ["from", "rearchitect"])
def test_a_job_file_reaches_nothing_outside_its_folder(
    kind: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither ``..`` nor an absolute path nor a link leads out of the job file's folder: exit 2 at its place."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "sub").mkdir() if kind == "through a folder" else None
    name = outside(kind, folder)
    rest = f"  - from: {name}\n"
    if key == "rearchitect":
        rest = f"  - {ROWS.splitlines()[1]}\nrearchitect: {{to: [AARCH64], file: {name}}}\n"
    (folder / "job.yaml").write_text(JOB + rest, encoding="utf-8")
    assert run_command(["validate", str(folder / "job.yaml")]) == 2
    output = "".join(capsys.readouterr())
    assert "is not below the job file's folder" in output
    assert f"{folder}/job.yaml:" in output


def test_files_below_the_job_files_folder_are_read(tmp_path: Path) -> None:
    """Files in sub-folders, links within the folder and a folder that is a link itself work, as in a ConfigMap."""
    data = tmp_path / "volume" / "..2026_11_23"
    data.mkdir(parents=True)
    (data / "rows.csv").write_text(ROWS, encoding="utf-8")
    (data / "job.yaml").write_text(f"{JOB}  - from: rows.csv\n", encoding="utf-8")
    (tmp_path / "volume" / "..data").symlink_to("..2026_11_23")
    for name in ("rows.csv", "job.yaml"):
        (tmp_path / "volume" / name).symlink_to(f"..data/{name}")
    (tmp_path / "jobs").symlink_to("volume")
    assert run_command(["validate", str(tmp_path / "jobs" / "job.yaml")]) == 0
    assert run_command(["plan", str(tmp_path / "jobs" / "job.yaml")]) == 0


def test_an_endless_file_is_not_read(tmp_path: Path) -> None:
    """A file larger than any list of targets is refused by its size."""
    path = tmp_path / "rows.csv"
    path.touch()
    os.truncate(path, LARGEST + 1)
    with pytest.raises(OSError, match="has more than 4,096 MiB"):
        open_input(path, tmp_path)
    with pytest.raises(OSError, match="has more than 16 MiB"):
        open_input(path, tmp_path, largest=16 << 20)


def test_a_secret_may_be_anywhere(tmp_path: Path) -> None:
    """The file that a ZSTACK_* setting names may be anywhere: the operator decides."""
    environ: Mapping[str, str] = {}
    path = secret(tmp_path / "elsewhere" / "s")
    assert read_secret(NAME, path, environ) == "s3cr3t"
