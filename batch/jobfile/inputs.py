"""Opening the files that a job file names: regular ones only, so that no pipe or device can hang the command."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path


def open_input(path: Path) -> BufferedReader:
    """Open ``path`` for reading. Raises OSError, also where it is no regular file or a link to one of another kind.

    A link must lead to a file with its own ending: ``rows.csv`` cannot stand for ``/etc/shadow``.
    """
    if path.resolve().suffix.lower() != path.suffix.lower():
        raise OSError(errno.EINVAL, "is a link to another kind of file")
    # O_NONBLOCK: opening a pipe that nobody writes to must not wait.
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "is no regular file")
    return stream
