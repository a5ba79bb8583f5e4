"""Opening the files that a job file names: regular ones below its folder only.

So no pipe or device hangs the command, and no job file of somebody else shows what lies elsewhere on this machine.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

LARGEST: Final = 4 << 30
"""Bytes of a file of targets, which is streamed: some 20 million rows."""


def open_input(path: Path, folder: Path, *, largest: int = LARGEST) -> BufferedReader:
    """Open ``path``, named by a job file in ``folder``, for reading.

    Raises OSError, also where links or ``..`` lead out of the folder or to a file with another ending (``rows.csv``
    cannot stand for ``secrets.yaml``), or where it is no regular file or has more than ``largest`` bytes.
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
    """Open ``path`` for reading. Raises OSError, also where it is no regular file."""
    # O_NONBLOCK: opening a pipe that nobody writes to must not wait.
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "is no regular file")
    return stream
