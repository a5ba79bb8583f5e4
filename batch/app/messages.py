"""Messages for the operator: on stderr, where no reader can stop a run, and in the log."""

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
"""The event of a message where stderr is a JSON log."""
_TIMEOUT: Final = 2.0
"""Seconds a reader of stderr may take for one text; as the log's."""


_VIEWS: Final[list[Sink]] = []
"""What shows messages above the live view, while there is one."""


@contextmanager
def say_above(print_lines: Callable[[bytes], object]) -> Iterator[None]:
    """Give messages to ``print_lines``, in a thread, as long as the block goes on: the view's own lines stay below."""
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
    """How messages of this process are written."""

    is_json: bool = False
    is_quiet: bool = False


_STYLE: Final = _Style()


def set_style(*, is_json: bool = False, is_quiet: bool = False) -> None:
    """Decide how later messages are written: as lines of a JSON log, and only warnings and errors."""
    _STYLE.is_json, _STYLE.is_quiet = is_json, is_quiet


def say(text: str, *, level: Level = "warning") -> None:
    """Write a message for people to stderr: secrets redacted, control characters escaped line by line.

    ``level``: what --quiet leaves out is info. Where the reader is gone, or does not read for two seconds, later
    messages are dropped.
    """
    if sys.stderr is None or (_STYLE.is_quiet and level == "info"):
        return
    text = SECRETS.redact(text)
    shown = _json_line(text, level) if _STYLE.is_json else "\n".join(map(escape, text.split("\n")))
    if _VIEWS:
        _VIEWS[-1].put(shown.encode("utf-8", "backslashreplace") + b"\n")
        return
    # One write: a log line of the other thread must not come between a text and its end.
    whole = (shown + "\n").encode(sys.stderr.encoding, "backslashreplace")
    try:
        descriptor = sys.stderr.fileno()
    except OSError:  # a stream of the embedding program
        sys.stderr.write(whole.decode(sys.stderr.encoding))
        return
    sys.stderr.flush()
    if not _is_delivered(descriptor, whole):
        silence(descriptor)


def _json_line(text: str, level: Level) -> str:
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return to_json({"at": at, "level": level, "event": MESSAGE, "text": text})


def _is_delivered(descriptor: int, text: bytes) -> bool:
    """Whether the text was read in time; only a daemon thread can block, and the interpreter does not wait for it."""
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
    """Log a warning for the operator."""
    # Commands that log nothing do without structlog, which imports rich.
    import structlog

    for warning in warnings:
        structlog.get_logger().warning("operator.warned", text=warning)


def is_terminal(descriptor: int) -> bool:
    """Ask the descriptor itself: FORCE_COLOR and the like do not make a terminal."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def silence(descriptor: int) -> None:
    """Point a dead stream nowhere, so that the interpreter's last flush does not fail and change the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def language(environ: Mapping[str, str]) -> Language:
    """Return the language of hints by the locale: Chinese, else English."""
    locale = next(filter(None, map(environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    return "zh" if locale.lower().startswith("zh") else "en"
