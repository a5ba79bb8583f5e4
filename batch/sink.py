"""Where lines of log go: through a bounded queue to a writer thread.

A log never stops a run: what a dead, full or stalled reader loses is counted and reported at the end.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_QUEUE_LINES: Final = 20_000
_CLOSE_SECONDS: Final = 2.0
_LINGER: Final = 0.05
"""Seconds a line may wait for others to be written with."""


class Sink:
    """A queue of lines and the thread that writes them; never blocks and never raises into the run."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """``write`` gets whole lines and may block or raise; it runs in the sink's own thread."""
        self._write = write
        self._lines: deque[bytes] = deque()
        self._ready = threading.Condition()
        self._closing = False
        self._hurried = False
        self._asleep = False
        self._writing = 0
        self.lost = 0
        self.reason = ""
        self._thread = threading.Thread(target=self._drain, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Queue one line, its newline included; a full queue loses it and counts it.

        Without a lock as long as the writer is awake: a deque takes lines from any thread, and of several that come to
        the last place at the same moment each is queued.
        """
        if len(self._lines) >= _QUEUE_LINES:
            with self._ready:
                self._lose(1, "the reader of the log does not keep up")
            return
        self._lines.append(line)
        # Read after the append, and written by the writer before it looks for lines: one of the two sees the other.
        if self._asleep:
            with self._ready:
                self._asleep = False
                self._ready.notify()

    def flush(self) -> None:
        """Return when what is queued is written, after two seconds at the latest."""
        with self._ready:
            self._hurried = True
            self._ready.notify()
            self._ready.wait_for(lambda: not self._lines and not self._writing, _CLOSE_SECONDS)
            self._hurried = False

    def close(self) -> int:
        """Write what is queued, for at most two seconds; the number of lines lost in all."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join(_CLOSE_SECONDS)
        with self._ready:
            left = len(self._lines) + self._writing
            if left:
                self._lose(left, "the reader of the log does not keep up")
            return self.lost

    def _lose(self, lines: int, reason: str) -> None:
        self.lost += lines
        self.reason = self.reason or reason

    def _take(self) -> list[bytes]:
        with self._ready:
            self._asleep = True
            self._ready.wait_for(lambda: self._lines or self._closing)
            self._asleep = False
            # Gather what comes next: a thread that wakes for every line costs the run more than the lines do.
            self._ready.wait_for(lambda: self._closing or self._hurried, _LINGER)
            taken = [self._lines.popleft() for _ in range(len(self._lines))]
            self._writing = len(taken)
            return taken

    def _drain(self) -> None:
        while lines := self._take():
            try:
                self._write(b"".join(lines))
            except (OSError, ValueError) as failure:
                with self._ready:
                    self._lose(len(lines), str(failure))
            finally:
                with self._ready:
                    self._writing = 0
                    self._ready.notify_all()


def to_descriptor(descriptor: int) -> Callable[[bytes], None]:
    """Make a writer of whole lines to a file descriptor."""

    def write(lines: bytes) -> None:
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    return write
