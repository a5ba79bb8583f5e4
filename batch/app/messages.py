"""Messages for the operator, on stderr and in the log; a blocked reader of stderr never stops a run."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from batch.redaction import SECRETS
from batch.sink import Sink, to_descriptor
from batch.text import escape, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from batch.zstack.classify import Language

MESSAGE: Final = "operator.informed"
"""Log event of a message if stderr is a JSON log."""
_TIMEOUT: Final = 2.0
"""Write timeout of stderr in seconds, the same as the log's."""


_VIEWS: Final[list[Sink]] = []
"""Printer of messages above the live view, while there is one."""


@contextmanager
def say_above(print_lines: Callable[[bytes], object]) -> Iterator[None]:
    """Print messages with ``print_lines``, in a thread, during the block, so that the view stays below them."""
    sink = Sink(print_lines)
    _VIEWS.append(sink)
    try:
        yield
    finally:
        _VIEWS.remove(sink)
        sink.close()


Level = Literal["info", "warning", "error"]


@dataclass(slots=True)
class _Style:
    """Message format of this process."""

    is_json: bool = False
    is_quiet: bool = False
    reported: str = ""
    """An error reported when it happened, before the command ended with it."""


_STYLE: Final = _Style()


def set_style(*, is_json: bool = False, is_quiet: bool = False) -> None:
    """Set the message format: JSON log lines, or only warnings and errors."""
    _STYLE.is_json, _STYLE.is_quiet = is_json, is_quiet


def say(text: str, *, level: Level = "warning") -> None:
    """Write a message to stderr, with secrets redacted and control characters escaped line by line.

    ``level``: ``--quiet`` drops info. If the reader is gone, or does not read for two seconds, later messages are
    dropped.
    """
    if sys.stderr is None or (_STYLE.is_quiet and level == "info"):
        return
    text = SECRETS.redact(text)
    shown = _json_line(text, level) if _STYLE.is_json else "\n".join(map(escape, text.split("\n")))
    if _VIEWS:
        _VIEWS[-1].put(shown.encode("utf-8", "backslashreplace") + b"\n")
        return
    # One write, so that no log line of another thread gets between a message and its line break.
    whole = (shown + "\n").encode(sys.stderr.encoding, "backslashreplace")
    try:
        descriptor = sys.stderr.fileno()
    except OSError:  # a stream of the embedding program
        sys.stderr.write(whole.decode(sys.stderr.encoding))
        return
    sys.stderr.flush()
    if not _is_delivered(descriptor, whole):
        silence(descriptor)


def report_early(text: str) -> None:
    """Report an error when it happens, before the command ends with it; ``report_end`` does not repeat it."""
    _STYLE.reported = text
    say(text, level="error")


def report_end(text: str) -> None:
    """Report the error that a command ends with, unless ``report_early`` did."""
    is_repeated, _STYLE.reported = text == _STYLE.reported, ""
    if not is_repeated:
        say(text, level="error")


def _json_line(text: str, level: Level) -> str:
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return to_json({"at": at, "level": level, "event": MESSAGE, "text": text})


def _is_delivered(descriptor: int, text: bytes) -> bool:
    """Return whether the text was read in time; only a daemon thread blocks, which the interpreter does not await."""
    taken: list[bool] = []

    def write() -> None:
        try:
            to_descriptor(descriptor)(text)
        except OSError:
            return
        taken.append(True)

    thread = threading.Thread(target=write, name="say", daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    return bool(taken)


def warn(warnings: Iterable[str]) -> None:
    """Log each warning for the operator."""
    # Commands without a log avoid importing structlog, which imports rich.
    import structlog

    for warning in warnings:
        structlog.get_logger().warning("operator.warned", text=warning)


def is_terminal(descriptor: int) -> bool:
    """Return whether the descriptor is a terminal, regardless of FORCE_COLOR and the like."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def terminal_width(descriptor: int) -> int:
    """Return the columns of a terminal; 0 if the descriptor is none or the width is unknown."""
    try:
        return os.get_terminal_size(descriptor).columns
    except OSError:
        return 0


def silence(descriptor: int) -> None:
    """Redirect a closed stream to /dev/null, so that the final flush cannot fail and change the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def language(environ: Mapping[str, str]) -> Language:
    """Return the language of hints for the locale: Chinese or else English."""
    locale = next(filter(None, map(environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    return "zh" if locale.lower().startswith("zh") else "en"
