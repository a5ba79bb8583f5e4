"""What may be opened for writing: regular files of this user, through links of this user or root only."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from batch import outputs
from batch.errors import UsageError
from batch.manifest.files import Disk, write_manifest
from batch.simulator.state import StateFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Write = Callable[[Path], object]

NOBODY: Final = 65534
AS_ROOT: Final = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make files of another user")


def log(path: Path) -> None:
    """Write as a log does."""
    handle = outputs.append(path)
    os.write(handle, b"new\n")
    os.close(handle)


def report(path: Path) -> None:
    """Write as a report does."""
    outputs.replace(path, ["new\n"], mode=outputs.PRIVATE)


def metrics(path: Path) -> None:
    """Write as metrics do."""
    outputs.replace(path, ["new\n"], mode=outputs.PUBLIC)


def new_file(path: Path) -> None:
    """Write as ``plan --out`` and ``discover`` do."""
    outputs.write_new(path, "new\n", mode=outputs.PRIVATE)


def state(path: Path) -> None:
    """Open as an embedded node does."""
    StateFile.open(path).close()


def manifest(path: Path) -> None:
    """Open as a run does."""
    disk = Disk()
    disk.close(disk.open(path) if path.exists() else disk.create(path))


def new_manifest(path: Path) -> None:
    """Write as ``merge`` and ``repair`` do."""
    write_manifest(path, iter([b'{"format":"zclone-manifest"']), Disk())


def raising(error: Exception) -> Callable[..., None]:
    """Return a function that raises ``error``."""

    def fail(*_arguments: object) -> None:
        raise error

    return fail


REPLACING: Final = [report, metrics, outputs.require_replaceable]
WRITERS: Final = [log, report, metrics, new_file, new_manifest, state, manifest]
FIFO, FOLDER, DEVICE = "fifo", "folder", "device"


def put(kind: str, path: Path) -> None:
    """Put something other than a regular file at ``path``."""
    if kind == FIFO:
        os.mkfifo(path)
    elif kind == DEVICE:
        path.symlink_to("/dev/null")
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", [FIFO, DEVICE, FOLDER])
@pytest.mark.parametrize("write", [*REPLACING, new_file, new_manifest, state, manifest])
def test_an_irregular_output_is_not_written(kind: str, write: Write, tmp_path: Path) -> None:
    """A pipe, a device or a folder in the place of an output is refused and unchanged."""
    path = tmp_path / "out"
    put(kind, path)
    before = path.lstat()
    with pytest.raises((OSError, UsageError)):
        write(path)
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("write", [log, report, metrics])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_is_kept(write: Write, is_there: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """An output that is a link of the same user stays a link, and its target is written."""
    (tmp_path / "far").mkdir()
    real = tmp_path / "far" / "real"
    if is_there:
        real.write_text("old\n", encoding="utf-8")
    (tmp_path / "next").symlink_to("far/real")
    (tmp_path / "out").symlink_to(tmp_path / "next")
    write(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "next").is_symlink()
    assert real.read_text(encoding="utf-8").endswith("new\n")
    assert not real.is_symlink()


@pytest.mark.parametrize("write", [state, manifest, new_file, new_manifest])
@pytest.mark.parametrize("is_there", [True, False])
def test_outputs_that_may_not_be_links(write: Write, is_there: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """A manifest, a node's state and a new file are not opened through a link, nor through a dangling one."""
    real = tmp_path / "real"
    if is_there:
        real.touch(mode=0o600)
    (tmp_path / "out").symlink_to("real")
    with pytest.raises((OSError, UsageError)):
        write(tmp_path / "out")
    assert real.exists() == is_there
    assert not is_there or real.read_bytes() == b""


@pytest.mark.parametrize("write", [log, report, metrics])
def test_a_circle_of_links_is_refused(write: Write, tmp_path: Path) -> None:
    """An output whose links lead to each other is refused."""
    (tmp_path / "out").symlink_to("other")
    (tmp_path / "other").symlink_to("out")
    with pytest.raises(UsageError):
        write(tmp_path / "out")


@AS_ROOT
@pytest.mark.parametrize("write", [log, report, metrics, outputs.require_replaceable])
def test_a_link_of_another_user_is_refused(write: Write, tmp_path: Path) -> None:
    """An output that leads through a link of another user is refused, and its target is not written."""
    (tmp_path / "real").write_text("old\n", encoding="utf-8")
    (tmp_path / "out").symlink_to("real")
    os.chown(tmp_path / "out", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(UsageError, match="link of another user"):
        write(tmp_path / "out")
    assert (tmp_path / "real").read_text(encoding="utf-8") == "old\n"


@AS_ROOT
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("kind", ["file", FIFO])
def test_a_file_of_another_user_is_refused(kind: str, write: Write, tmp_path: Path) -> None:
    """A file or pipe of another user is neither written nor replaced, whatever its mode."""
    path = tmp_path / "out"
    if kind == FIFO:
        os.mkfifo(path)
    else:
        path.write_text("old\n", encoding="utf-8")
    path.chmod(0o666)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises((OSError, UsageError)):
        write(path)
    assert path.stat().st_uid == NOBODY
    assert kind == FIFO or path.read_text(encoding="utf-8") == "old\n"


@pytest.mark.parametrize("write", [log, report, new_file, new_manifest, state, manifest])
def test_a_file_with_names_is_private(write: Write, tmp_path: Path) -> None:
    """A new file that may hold names of targets has mode 0600 whatever the umask."""
    old = os.umask(0)
    try:
        write(tmp_path / "out")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


@pytest.mark.parametrize("write", [log, report])
def test_a_file_open_to_others_becomes_private(write: Write, tmp_path: Path) -> None:
    """A log or report that others could read is closed to them when it is written again."""
    (tmp_path / "out").touch()
    (tmp_path / "out").chmod(0o644)
    write(tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


def test_metrics_are_readable_by_others(tmp_path: Path) -> None:
    """Metrics hold no names, and their mode is what the umask leaves: node_exporter is another user."""
    old = os.umask(0o022)
    try:
        metrics(tmp_path / "out")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o644


def test_a_log_may_be_a_device_or_a_pipe(tmp_path: Path) -> None:
    """A log may go to a device, and to a pipe with a reader; one without a reader is an error at once."""
    log(Path("/dev/null"))
    os.mkfifo(tmp_path / "out")
    with pytest.raises(UsageError, match="this pipe has no reader"):
        log(tmp_path / "out")
    reader = os.open(tmp_path / "out", os.O_RDONLY | os.O_NONBLOCK)
    log(tmp_path / "out")
    assert os.read(reader, 100) == b"new\n"
    os.close(reader)


@pytest.mark.parametrize("write", [log, report, metrics, new_file, new_manifest, outputs.require_replaceable])
def test_a_place_that_cannot_be_written_is_refused(write: Write, tmp_path: Path) -> None:
    """An output in a missing folder, or below a file, is refused with its path."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "out", tmp_path / "absent" / "out", tmp_path / ("x" * 300)):
        with pytest.raises(UsageError, match=path.name):
            write(path)


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path) -> None:
    """If the texts of a file end in an error the old one stays, and nothing is left beside it."""
    path = tmp_path / "out"
    path.write_text("old\n", encoding="utf-8")

    def texts() -> Iterator[str]:
        yield "half"
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match="No space left"):
        outputs.replace(path, texts(), mode=outputs.PRIVATE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert path.read_text(encoding="utf-8") == "old\n"


@pytest.mark.parametrize("has_links", [True, False])
def test_a_new_file_replaces_nothing(has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - a parameter
    """A new file has its name once it is whole; a file that took the name meanwhile stays, with or without links."""
    if not has_links:
        monkeypatch.setattr(os, "link", raising(PermissionError(1, "Operation not permitted")))
    path = tmp_path / "out"
    with outputs.new_file(path) as new:
        new.write(b"new\n")
        assert not path.exists()
    assert (path.read_bytes(), path.stat().st_nlink) == (b"new\n", 1)
    path.unlink()
    with pytest.raises(FileExistsError, match="File exists"), outputs.new_file(path):
        path.write_bytes(b"other\n")
    assert path.read_bytes() == b"other\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_new_file_that_is_not_durable_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the folder cannot be synced, nothing is left of a new file."""
    monkeypatch.setattr(outputs, "_sync_folder", raising(OSError(5, "Input/output error")))
    with pytest.raises(UsageError, match="Input/output error"):
        new_file(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
