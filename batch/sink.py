"""Destination of log lines: a bounded queue and a writer thread.

A log never stops a run: lines lost to a dead, full or stalled reader are counted and reported at the end.
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
"""Seconds for which a line may wait so that several are written together."""


class Sink:
    """A queue of lines and the thread that writes them; never blocks the run and never raises into it."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """Start the writer thread, which calls ``write`` with whole lines; it may block or raise."""
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
        """Queue one line, including its newline; with a full queue it is lost and counted.

        No lock is taken while the writer is awake: a deque can be appended to from any thread, and where several
        threads race for the last place, each line is queued.
        """
        if len(self._lines) >= _QUEUE_LINES:
            with self._ready:
                self._lose(1, "the reader of the log does not keep up")
            return
        self._lines.append(line)
        # Read after the append, and set by the writer before it checks for lines: one of the two sees the other.
        if self._asleep:
            with self._ready:
                self._asleep = False
                self._ready.notify()

    def flush(self) -> None:
        """Wait until the queue is written, for at most two seconds."""
        with self._ready:
            self._hurried = True
            self._ready.notify()
            self._ready.wait_for(lambda: not self._lines and not self._writing, _CLOSE_SECONDS)
            self._hurried = False

    def close(self) -> int:
        """Write what is queued, for at most two seconds; return the number of lines lost in total."""
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
            # Wait for more lines: a thread that wakes for every line costs the run more than the lines do.
            self._ready.wait_for(lambda: self._closing or self._hurried, _LINGER)
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            self._writing = len(lines)
            return lines

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
    """Return a function that writes whole lines to a file descriptor."""

    def write(lines: bytes) -> None:
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    return write
