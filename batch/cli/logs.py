"""Where the log of a command goes: a file, the terminal, or above the live view."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from batch import log
from batch.cli.options import LogFormat, Progress
from batch.cli.terminal import is_terminal, say
from batch.errors import UsageError
from batch.sink import Sink, to_descriptor
from batch.zstack.settings import AccessKeyAuth, PasswordAuth, SessionAuth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batch.zstack.settings import Auth

STDERR = 2


class _Console(Console):
    """A console that never hides the cursor: a killed process must leave a usable terminal."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002 - rich's own signature
        """Leave the cursor as it is."""
        return False


def live_console(wanted: Progress) -> Console | None:
    """Return the console of the live view; None where progress is to be shown otherwise."""
    if sys.stderr is None or wanted in (Progress.PLAIN, Progress.NONE):
        return None
    if wanted is Progress.AUTO and (not is_terminal(STDERR) or os.environ.get("TERM") == "dumb"):
        return None
    # Without a buffer of its own: a thread that hangs in one keeps the interpreter from ending.
    stream = io.TextIOWrapper(
        io.FileIO(STDERR, "w", closefd=False), sys.stderr.encoding, "backslashreplace", write_through=True
    )
    return _Console(file=stream, force_terminal=True)


@contextmanager
def logging_to(file: Path | None, *, style: LogFormat, above: Console | None = None) -> Iterator[None]:
    """Send the log to ``file``, else above the live view, else to stderr; say at the end what was lost of it.

    A file gets every detail, a terminal with a live view only warnings. Raises UsageError for a file that cannot be
    opened.
    """
    descriptor = STDERR if file is None else _open(file)
    if file is None and above is not None:
        sink, level = Sink(_above(above)), log.WARNING
    else:
        sink, level = Sink(to_descriptor(descriptor)), log.INFO if file is None else log.DEBUG
    log.configure(sink, style=_format(style, descriptor), level=level)
    try:
        yield
    finally:
        lost = sink.close()
        if lost:
            say(f"{lost} log lines were lost: {sink.reason}")


def _open(file: Path) -> int:
    # To open a pipe that nobody reads would wait for a reader, perhaps for ever.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(file, flags, 0o600)
    except OSError as error:
        why = "nobody reads this pipe" if error.errno == errno.ENXIO else error.strerror
        raise UsageError(f"{file}: {why}") from None
    os.set_blocking(descriptor, True)
    return descriptor


def _format(wanted: LogFormat, descriptor: int) -> log.Format:
    if wanted is LogFormat.AUTO:
        return log.Format.CONSOLE if is_terminal(descriptor) else log.Format.JSON
    return log.Format(wanted.value)


def _above(console: Console) -> Callable[[bytes], None]:
    def write(lines: bytes) -> None:
        for line in lines.decode("utf-8", "replace").splitlines():
            console.print(Text(line), soft_wrap=True)

    return write


def keep_secret(auth: Auth) -> None:
    """Redact these credentials from now on, in the log and in whatever is said."""
    match auth:
        case SessionAuth(secret) | PasswordAuth(_, secret) | AccessKeyAuth(_, secret):
            log.SECRETS.add(secret)
