"""Standard streams of the process, and output of data."""

from __future__ import annotations

import io
import os
import resource
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.app.messages import is_terminal, say, silence
from batch.errors import UsageError, ZcloneError
from batch.redaction import SECRETS
from batch.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

STDOUT: Final = 1
_LAST_STANDARD: Final = 2
_COLOURS: Final = {"green": 32, "red": 31, "yellow": 33}
_CLEAR: Final = "\x1b[H\x1b[2J"
"""Escape sequence that moves the cursor to the upper left corner and clears the screen."""


class Link(NamedTuple):
    """A line that ends in a file path, which is a hyperlink on a terminal."""

    text: str
    file: Path

    def line(self) -> str:
        """Return the escaped line; on a terminal the path is a hyperlink."""
        text, path = _safe(self.text), _safe(str(self.file))
        return f"{text}\x1b]8;;{self.file.as_uri()}\x1b\\{path}\x1b]8;;\x1b\\" if is_terminal(STDOUT) else text + path


class ColouredLine(NamedTuple):
    """A line with one coloured word on a terminal, unless NO_COLOR or a dumb TERM forbids colours."""

    text: str
    word: str
    at: int
    """Offset of the word in the text."""
    colour: str
    """``green``, ``red`` or ``yellow``."""

    def line(self) -> str:
        """Return the escaped line."""
        end = self.at + len(self.word)
        if not self.word or self.text[self.at : end] != self.word or not has_colours():
            return _safe(self.text)
        before, word, after = _safe(self.text[: self.at]), _safe(self.word), _safe(self.text[end:])
        return f"{before}\x1b[{_COLOURS[self.colour]}m{word}\x1b[0m{after}"


def has_colours() -> bool:
    """Return whether stdout is a terminal that shows colours, and nobody forbids them."""
    return is_terminal(STDOUT) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _safe(text: str) -> str:
    return escape(SECRETS.redact(text))


def agree(question: str, *, is_said: bool, unasked: str) -> bool:
    """Ask for confirmation, unless given before. Raises UsageError with ``unasked`` without a terminal."""
    if is_said:
        return True
    if not sys.stdin.isatty():
        raise UsageError(f"{unasked}: add --yes")
    say(f"{question} [y/N]")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def emit(lines: Iterable[str | Link | ColouredLine], *, clear: bool = False) -> None:
    """Write lines of data to stdout with secrets redacted; end silently if the reader is gone.

    With ``clear``, a terminal is cleared first. JSON must come from ``batch.text.to_json``, because the escapes added
    here are not those of JSON.

    Raises ZcloneError if writing fails, such as on a full disk, because partial data must not look complete.
    """
    if sys.stdout is None:
        return
    try:
        if clear and is_terminal(STDOUT):
            print(end=_CLEAR)
        for line in lines:
            print(line.line() if isinstance(line, Link | ColouredLine) else _safe(line))
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout.fileno())
    except OSError as error:
        silence(sys.stdout.fileno())
        raise ZcloneError(f"stdout: {error.strerror}") from None


def emit_paged(lines: Iterable[str]) -> None:
    """Write lines to stdout, on a terminal through the operator's pager, which exits at once if one screen suffices.

    ``PAGER`` overrides ``less``; empty or ``cat`` means none. Raises ZcloneError as ``emit`` does.
    """
    words = shlex.split(os.environ.get("PAGER", "less"))
    if not is_terminal(STDOUT) or words in ([], ["cat"]) or (program := shutil.which(words[0])) is None:
        emit(lines)
        return
    style = {"LESS": "FRX", "LESSCHARSET": "utf-8"}
    with subprocess.Popen([program, *words[1:]], stdin=subprocess.PIPE, env={**style, **os.environ}) as pager:  # noqa: S603 - the operator's own # nosec B603
        assert pager.stdin is not None
        try:
            for line in lines:
                pager.stdin.write(_safe(line).encode("utf-8", "backslashreplace") + b"\n")
            pager.stdin.close()
        except BrokenPipeError:
            # The operator quit the pager.
            pass
        while pager.poll() is None:
            with suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
                pager.wait(1)


def emit_data(lines: Iterable[str]) -> None:
    """Write data for programs to stdout like ``emit``, but in UTF-8 in every locale, since escapes alter data."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="strict")
    try:
        emit(lines)
    except UnicodeEncodeError as error:
        raise ZcloneError(f"stdout: {error.object[error.start : error.end]!r} cannot be encoded as UTF-8") from None


def occupy_standard_streams() -> None:
    """Open closed descriptors 0 to 2 on /dev/null; otherwise the manifest could get one and receive log output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def forbid_core_dumps() -> None:
    """Disable core dumps, which would contain secrets."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
