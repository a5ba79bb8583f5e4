"""The command with less than it needs: a full disk, few descriptors, a bounded file size."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LIMITED: Final = """\
import os, resource, sys
resource.setrlimit(getattr(resource, sys.argv[1]), (int(sys.argv[2]),) * 2)
os.execv(sys.argv[3], sys.argv[3:])
"""


def limited(resource: str, limit: int, command: list[str]) -> list[str]:
    """Return the command with ``resource``, such as RLIMIT_NOFILE, bounded."""
    return [sys.executable, "-c", _LIMITED, resource, str(limit), *command]


def mount(*arguments: str) -> None:
    """Mount, or skip the test if that is not allowed."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is not allowed here: {done.stderr.strip()}")


@contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[Path]:
    """Mount a disk of ``size`` in ``folder``; it may be remounted."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount; test_a_file_size_limit is the same fault without root")
    mount("-t", "tmpfs", "-o", f"size={size},mode=0700", "zclone-test", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
