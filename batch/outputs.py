"""Opens files for writing: regular files of this user, through links of this user or root only.

Every module that writes files calls these functions; the architecture test lists the exceptions.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PRIVATE: Final = 0o600
"""Mode, whatever the umask, of files that may contain names of targets."""
PUBLIC: Final = 0o666
"""Mode, less the umask, of files that others read: metrics, new job files."""
_MAX_LINKS: Final = 40
_APPEND: Final = os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""O_NONBLOCK: opening a pipe in the file's place must not wait for its reader."""


class NamedFile(NamedTuple):
    """A file and the option, setting or place that names it."""

    name: str
    path: Path


def beside(manifest: Path, ending: str) -> Path:
    """Return the path of a file that belongs to a manifest.

    Raises UsageError where that can only be a folder, such as ``.``.
    """
    if not manifest.name:
        raise UsageError(f"{manifest}: is a folder: name a file in it")
    return manifest.with_name(manifest.name.removesuffix(".manifest.jsonl") + ending)


def create(path: Path) -> int:
    """Create a file with mode 0600 and return its descriptor, open for reading and appending.

    Raises OSError, FileExistsError also where a link is in its place.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _APPEND, PRIVATE)
    os.fchmod(handle, PRIVATE)
    return handle


@contextlib.contextmanager
def new_file(path: Path, *, mode: int = PRIVATE) -> Iterator[IO[bytes]]:
    """Open a new file that is named ``path`` after the block, whole and durable; after an error nothing is left.

    An existing file is kept. Raises OSError, FileExistsError also where a link is in its place.
    """
    _require_absent(path)
    with _temporary(path, mode=mode) as new:
        yield new
        new.flush()
        os.fsync(new.fileno())
        _rename_new(Path(new.name), path)
        try:
            _sync_folder(path.parent)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def write_new(path: Path, text: str, *, mode: int) -> None:
    """Write ``text`` to a new file, as ``new_file`` does. Raises UsageError."""
    try:
        with new_file(path, mode=mode) as new:
            new.write(text.encode())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None


def open_existing(path: Path) -> int:
    """Open a regular file of this user for reading and appending; links are not followed.

    Raises OSError, UsageError.
    """
    return _own(os.open(path, os.O_RDWR | _APPEND), path)


def open_or_create(path: Path) -> int:
    """Open a file as ``open_existing`` does, or create it with mode 0600. Raises OSError, UsageError."""
    return _own(os.open(path, os.O_RDWR | os.O_CREAT | _APPEND, PRIVATE), path)


def append(path: Path) -> int:
    """Open a log for appending and return its descriptor; a file becomes mode 0600, a link to it is kept.

    A pipe or a device is used as it is. Raises UsageError for what cannot be used, a pipe without a reader too.
    """
    try:
        if _is_stream(path):
            # Its links may be the kernel's own, as of /dev/stdout, which have no path.
            handle = os.open(path, os.O_WRONLY | _APPEND & ~os.O_NOFOLLOW)
        else:
            handle = _own(os.open(_destination(path), os.O_WRONLY | os.O_CREAT | _APPEND, PRIVATE), path)
            os.fchmod(handle, PRIVATE)
    except OSError as error:
        why = "this pipe has no reader" if error.errno == errno.ENXIO else error.strerror
        raise UsageError(f"{path}: {why}") from None
    os.set_blocking(handle, True)
    return handle


def require_replaceable(path: Path) -> None:
    """Raise UsageError where ``replace`` could not replace ``path``; nothing is changed."""
    try:
        target = _destination(path)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}."):
            pass
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None


def replace(path: Path, texts: Iterable[str], *, mode: int) -> None:
    """Replace a regular file, or create it, with ``texts`` atomically; a link to it is kept.

    Raises UsageError where that cannot be done.
    """
    try:
        target = _destination(path)
        with _temporary(target, mode=mode) as new:
            # The texts may quote a file whose name is not UTF-8.
            new.writelines(text.encode(errors="backslashreplace") for text in texts)
            new.flush()
            os.fsync(new.fileno())
            Path(new.name).replace(target)
            _sync_folder(target.parent)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None


def require_distinct(outputs: Iterable[NamedFile], inputs: Iterable[NamedFile]) -> None:
    """Raise UsageError where an output is an input or another output, by real path or by inode."""
    taken: dict[str | tuple[int, int], NamedFile] = {}
    for file in inputs:
        taken |= dict.fromkeys(_identities(file.path), file)
    for file in outputs:
        identities = _identities(file.path)
        other = next((taken[identity] for identity in identities if identity in taken), None)
        if other is not None:
            raise UsageError(
                f"{file.name} {file.path} is the same file as {other.name} {other.path}: "
                "it would be overwritten; name another file"
            )
        taken |= dict.fromkeys(identities, file)


def _identities(path: Path) -> list[str | tuple[int, int]]:
    """Return what identifies a file: its real path, and its device and inode where it exists."""
    identities: list[str | tuple[int, int]] = []
    try:
        # The folder in which the command was started may be gone.
        identities.append(os.path.realpath(path))
        status = path.stat()
    except OSError:
        return identities
    return [*identities, (status.st_dev, status.st_ino)]


def _is_stream(path: Path) -> bool:
    """Return whether ``path`` leads to a pipe, terminal or other device.

    Raises UsageError for a pipe of another user.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    if stat.S_ISFIFO(status.st_mode) and status.st_uid != os.geteuid():
        raise UsageError(f"{path}: belongs to another user")
    return stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode)


def _own(handle: int, path: Path) -> int:
    """Return ``handle``; close it and raise UsageError where it is not a regular file of this user."""
    try:
        _require_own(os.fstat(handle), path)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _require_own(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path}: is not a regular file")
    if status.st_uid != os.geteuid():
        raise UsageError(f"{path}: belongs to another user")


def _destination(path: Path) -> Path:
    """Follow the links of ``path`` to a regular file of this user, or to a missing one. Raises OSError, UsageError."""
    for real in _links(path):
        try:
            status = real.lstat()
        except FileNotFoundError:
            return real
        if not stat.S_ISLNK(status.st_mode):
            _require_own(status, path)
            return real
        if status.st_uid not in {os.geteuid(), 0}:
            raise UsageError(f"{path}: {real} is a link of another user")
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _links(path: Path) -> Iterator[Path]:
    """Yield ``path`` and, while it is a link, its destination."""
    for _ in range(_MAX_LINKS):
        yield path
        path = path.parent / path.readlink()


@contextlib.contextmanager
def _temporary(target: Path, *, mode: int) -> Iterator[IO[bytes]]:
    """Open a file beside ``target`` during the block; it is removed unless it was renamed.

    No command looks for its name, so that none reads what a killed process left of it.
    """
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as new:
        try:
            os.fchmod(new.fileno(), mode if mode == PRIVATE else mode & ~_umask())
            yield new
        finally:
            Path(new.name).unlink(missing_ok=True)


def _rename_new(source: Path, path: Path) -> None:
    """Rename a file without replacing another one. Raises OSError."""
    try:
        os.link(source, path)
    except FileExistsError:
        raise
    except OSError:
        # The file system has no hard links.
        _require_absent(path)
        source.replace(path)
    else:
        source.unlink()


def _require_absent(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _sync_folder(folder: Path) -> None:
    """Make the new name durable: a power cut must not bring the old file back."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """Return the umask from the kernel without setting it, which other threads would see."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0o077
    return next((int(line.split()[1], 8) for line in status.splitlines() if line.startswith("Umask:")), 0o077)
