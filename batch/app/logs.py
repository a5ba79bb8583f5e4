"""The destination of a command's log: a file, stderr, or the area above the live view."""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from batch import log, outputs
from batch.app.messages import is_terminal, say
from batch.app.options import LogFormat, ProgressMode
from batch.sink import Sink, to_descriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

STDERR = 2


class LiveConsole(Console):
    """A console that never hides the cursor, so that a killed process leaves a usable terminal."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002 - rich's own signature
        """Do nothing."""
        return False


def live_console(wanted: ProgressMode, environ: Mapping[str, str]) -> LiveConsole | None:
    """Return the console of the live view; None for other kinds of progress."""
    if sys.stderr is None or wanted in (ProgressMode.PLAIN, ProgressMode.NONE):
        return None
    if wanted is ProgressMode.AUTO and (not is_terminal(STDERR) or environ.get("TERM") == "dumb"):
        return None
    # Unbuffered: a thread that hangs in a buffer's lock would keep the interpreter from exiting.
    stream = io.TextIOWrapper(
        io.FileIO(STDERR, "w", closefd=False), sys.stderr.encoding, "backslashreplace", write_through=True
    )
    return LiveConsole(file=stream, force_terminal=True)


def watch_console(environ: Mapping[str, str]) -> LiveConsole | None:
    """Return the console of ``status --watch``; None if stdout shows no live view."""
    if sys.stdout is None or not sys.stdout.isatty() or environ.get("TERM") == "dumb":
        return None
    return LiveConsole(force_terminal=True)


def has_blocks(console: Console, environ: Mapping[str, str]) -> bool:
    """Return whether the terminal uses UTF-8 and shows East Asian ambiguous characters in one column."""
    locale = next(filter(None, map(environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    return console.encoding.startswith("utf") and not locale.lower().startswith(("zh", "ja", "ko"))


@contextmanager
def log_to(
    file: Path | None, *, style: LogFormat, above: Console | None = None, is_quiet: bool = False
) -> Iterator[None]:
    """Write the log to ``file``, else above the live view, else to stderr; report lost lines at the end.

    A file gets all lines; a terminal with a live view, and stderr with ``is_quiet``, only warnings and errors. Raises
    UsageError for a file that cannot be opened.
    """
    descriptor = STDERR if file is None else outputs.append(file)
    if file is None and above is not None:
        sink, level = Sink(printer_above(above)), log.WARNING
    else:
        sink, level = Sink(to_descriptor(descriptor)), log.DEBUG
        if file is None:
            level = log.WARNING if is_quiet else log.INFO
    columns = partial(_columns, descriptor) if is_terminal(descriptor) else None
    log.configure(sink, style=_format(style, descriptor), level=level, columns=columns)
    try:
        yield
    finally:
        lost = sink.close()
        if lost:
            say(f"{lost} log lines were lost: {sink.reason}")


def _format(wanted: LogFormat, descriptor: int) -> log.Format:
    if wanted is LogFormat.AUTO:
        return log.Format.CONSOLE if is_terminal(descriptor) else log.Format.JSON
    return log.Format(wanted.value)


def _columns(descriptor: int) -> int:
    """Return the width of a terminal; 0 if unknown."""
    try:
        return os.get_terminal_size(descriptor).columns
    except OSError:
        return 0


def printer_above(console: Console) -> Callable[[bytes], None]:
    """Return a function that prints lines above the live view of ``console``."""

    def write(lines: bytes) -> None:
        for line in lines.decode("utf-8", "replace").splitlines():
            console.print(Text(line), soft_wrap=True)

    return write
