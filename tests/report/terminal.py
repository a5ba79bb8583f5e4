"""A terminal of a fixed size in which a command really runs, and whose screen can be read and photographed."""

from __future__ import annotations

import fcntl
import html
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyte

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pyte.screens import Char

    from tests.report.browser import Page

_QUIET: Final = 0.03
"""Seconds without a byte after which a frame is complete."""
_PATIENCE: Final = 200.0
COLOURS: Final = {
    "default": "#d0d4d8",
    "green": "#57c272",
    "red": "#f0716b",
    "brown": "#e0b251",
    "yellow": "#e0b251",
    "brightblack": "#6b7480",
}
_PAGE: Final = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: #171a1f }}
pre {{ margin: 0; padding: 18px 22px; font: 15px/1.35 "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace }}
</style><pre>{lines}</pre>"""


@dataclass(frozen=True, slots=True)
class Screen:
    """The contents of a terminal at one moment."""

    cells: tuple[tuple[Char, ...], ...]
    cursor_shown: bool

    @property
    def lines(self) -> list[str]:
        """Return each row's text without trailing blanks."""
        return ["".join(cell.data for cell in row).rstrip() for row in self.cells]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip()

    def colour_of(self, word: str) -> str:
        """Return the colour of the first cell that begins ``word``."""
        for row in self.cells:
            # The second half of a wide character is an empty cell: give it its own place.
            at = "".join(cell.data or "\0" for cell in row).find(word)
            if at >= 0:
                return str(row[at].fg)
        raise AssertionError(f"{word!r} is not on the screen:\n{self.text}")

    def page(self) -> str:
        """Return the non-empty rows as HTML, cell by cell."""
        shown = [row for row, line in zip(self.cells, self.lines, strict=True) if line]
        return _PAGE.format(lines="\n".join("".join(map(_span, row)) for row in shown))


def _span(cell: Char) -> str:
    colour = COLOURS.get(cell.fg, f"#{cell.fg}")
    return f'<span style="color:{colour}">{html.escape(cell.data)}</span>' if cell.data.strip() else cell.data


class Terminal:
    """A pseudo-terminal with a command in it."""

    def __init__(
        self,
        arguments: list[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        size: tuple[int, int],
        command: Sequence[str] = (sys.executable, "-m", "batch"),
        patience: float = _PATIENCE,
    ) -> None:
        """Start zclone, or another command, in ``size`` columns and rows; NO_COLOR and TERM come from ``env``.

        ``patience``: seconds that it may take.
        """
        self._patience = patience
        columns, rows = size
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        # COLUMNS and LINES would override the terminal's own size.
        kept = {name: value for name, value in env.items() if name not in {"COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            [*command, *arguments],
            cwd=cwd,
            env=kept,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = b""

    def screens(self) -> Iterator[Screen]:
        """Yield the screen whenever the command pauses its output, and once more when it ended."""
        until = time.monotonic() + self._patience
        while chunk := self._read():
            self.seen += chunk
            self._stream.feed(chunk)
            if not select.select([self._ours], [], [], _QUIET)[0]:
                yield self._look()
            assert time.monotonic() < until, self._look().text
        yield self._look()

    def until(self, is_wanted: Callable[[Screen], bool]) -> Screen:
        """Return the first screen that ``wanted`` accepts."""
        for screen in self.screens():
            if is_wanted(screen):
                return screen
        raise AssertionError(f"never shown; at the end:\n{self._look().text}")

    def end(self) -> tuple[Screen, int]:
        """Read to the end; return the last screen and the exit code."""
        *_, last = self.screens()
        return last, self.process.wait(_PATIENCE)

    def close(self) -> None:
        """Leave nothing behind, whatever the command does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(_PATIENCE)
        os.close(self._ours)

    def _read(self) -> bytes:
        try:
            return os.read(self._ours, 65536) if select.select([self._ours], [], [], _PATIENCE)[0] else b""
        except OSError:  # the other end was closed: that is how a terminal ends
            return b""

    def _look(self) -> Screen:
        rows = range(self._screen.lines)
        cells = tuple(tuple(self._screen.buffer[row][column] for column in range(self._screen.columns)) for row in rows)
        return Screen(cells, not self._screen.cursor.hidden)


async def photograph(screen: Screen, page: Page, out: Path, *, folder: Path) -> None:
    """Save the picture of a screen; the page it is taken of is left in ``folder``."""
    (folder / "screen.html").write_text(screen.page(), encoding="utf-8")
    height = 40 + 20 * sum(map(bool, screen.lines))
    await page.open((folder / "screen.html").as_uri(), width=len(screen.cells[0]) * 9 + 50, height=height)
    await page.picture(out)
