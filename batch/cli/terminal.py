"""The two streams: stdout for data, stderr for everything said to people. Neither can break a run."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from batch.log import SECRETS, sanitised

if TYPE_CHECKING:
    from collections.abc import Iterable

_LAST_STANDARD: Final = 2


def emit(lines: Iterable[str]) -> None:
    """Write data to stdout, a line each; a reader that went away ends it quietly."""
    if sys.stdout is None:
        return
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout.fileno())


def say(text: str) -> None:
    """Tell people something on stderr: secrets redacted, control characters escaped line by line."""
    if sys.stderr is None:
        return
    shown = "\n".join(map(sanitised, SECRETS.redact(text).split("\n")))
    try:
        # One write: a log line of the other thread must not come between a text and its end.
        print(shown + "\n", end="", file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr.fileno())


def occupy_standard_streams() -> None:
    """Open closed descriptors 0 to 2 to nowhere, or the manifest could get one and the log be written into it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def is_terminal(descriptor: int) -> bool:
    """Ask the descriptor itself: FORCE_COLOR and the like do not make a terminal."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _silence(descriptor: int) -> None:
    """Point a dead stream nowhere, so that the interpreter's last flush does not fail and change the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
