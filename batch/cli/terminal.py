"""The two streams: stdout for data, stderr for everything said to people. Neither can break a run."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Final

from batch.errors import ZcloneError
from batch.log import SECRETS, sanitised
from batch.sink import to_descriptor

if TYPE_CHECKING:
    from collections.abc import Iterable

_LAST_STANDARD: Final = 2
_PATIENCE: Final = 2.0
"""Seconds a reader of stderr may take for one text; as the log's."""


def emit(lines: Iterable[str]) -> None:
    """Write data to stdout, a line each; a reader that went away ends it quietly.

    Raises ZcloneError where it cannot be written, such as on a full disk: half of the data is no answer.
    """
    if sys.stdout is None:
        return
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout.fileno())
    except OSError as error:
        _silence(sys.stdout.fileno())
        raise ZcloneError(f"stdout: {error.strerror}") from None


def say(text: str) -> None:
    """Tell people something on stderr: secrets redacted, control characters escaped line by line.

    A reader that is gone, or does not read for two seconds, is told nothing more.
    """
    if sys.stderr is None:
        return
    shown = "\n".join(map(sanitised, SECRETS.redact(text).split("\n")))
    # One write: a log line of the other thread must not come between a text and its end.
    whole = (shown + "\n").encode(sys.stderr.encoding, "backslashreplace")
    try:
        descriptor = sys.stderr.fileno()
    except OSError:  # a stream of the embedding program
        sys.stderr.write(whole.decode(sys.stderr.encoding))
        return
    sys.stderr.flush()
    if not _written(descriptor, whole):
        _silence(descriptor)


def _written(descriptor: int, text: bytes) -> bool:
    """Whether the text was taken in time; what blocks is a thread, and the interpreter does not wait for it."""
    taken: list[bool] = []

    def write() -> None:
        try:
            to_descriptor(descriptor)(text)
        except OSError:
            return
        taken.append(True)

    thread = threading.Thread(target=write, name="say", daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return bool(taken)


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
