"""Opens the files that a job file names: regular ones below its folder only.

So no pipe or device blocks the command, and a foreign job file cannot show other files of this machine.

A ``ca_file`` may be anywhere. A secret's file is read only where no other user can access it, or where a service
manager mounted it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from batch.jobfile.problems import fail

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path
    from typing import BinaryIO

LARGEST: Final = 4 << 30
"""Maximum bytes of a file of targets, which is streamed: some 20 million rows."""

CHANGED: Final = "was changed while the run was reading it: run the same command again"


class InputFiles:
    """The files of one job, each opened for every pass over the targets; a changed one is rejected."""

    def __init__(self) -> None:
        """Start with no file opened."""
        self._seen: dict[Path, tuple[int, int]] = {}

    def open(self, path: Path, folder: Path) -> BufferedReader:
        """Open as ``open_input`` does. Raises JobFileError where the file changed since it was first opened."""
        stream = open_input(path, folder)
        try:
            self.check(stream, path)
        except BaseException:
            stream.close()
            raise
        return stream

    def check(self, stream: BinaryIO, path: Path) -> None:
        """Raise JobFileError where ``path``, opened as ``stream``, has a new size or modification time."""
        found = os.fstat(stream.fileno())
        state = (found.st_size, found.st_mtime_ns)
        if self._seen.setdefault(path, state) != state:
            raise fail(str(path), CHANGED)


def open_input(path: Path, folder: Path, *, largest: int = LARGEST) -> BufferedReader:
    """Open ``path``, named by a job file in ``folder``, for reading.

    Raises OSError, also where links or ``..`` lead out of the folder or to a file with another extension (``rows.csv``
    cannot stand for ``secrets.yaml``), or where it is not a regular file or has more than ``largest`` bytes.
    """
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise OSError(errno.EINVAL, "is not below the job file's folder: put it there")
    if real.suffix.lower() != path.suffix.lower():
        raise OSError(errno.EINVAL, "is a link to another kind of file")
    stream = open_regular(real)
    if os.fstat(stream.fileno()).st_size > largest:
        stream.close()
        raise OSError(errno.EFBIG, f"has more than {largest >> 20:,} MiB")
    return stream


def open_regular(path: Path) -> BufferedReader:
    """Open ``path`` for reading. Raises OSError, also where it is not a regular file."""
    # O_NONBLOCK: opening a pipe without a writer must not wait.
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "is not a regular file")
    return stream
