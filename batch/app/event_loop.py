"""The event loop of a run and its signal handling: the first signal stops gracefully, the second exits at once."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Final

from batch.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_REPEAT_WINDOW: Final = 1.0
"""Seconds within which a repeated signal counts once: GNU timeout signals both the process and its group."""


_STDERR: Final = 2


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop factory if the extra [speed] is installed, else None for asyncio's default."""
    try:
        return import_module("uvloop").new_event_loop  # type: ignore[no-any-return]
    except ImportError:
        return None


@contextmanager
def on_signal(stop: Callable[[str], None]) -> Iterator[None]:
    """Call ``stop`` with the name of the first SIGINT, SIGTERM or SIGHUP; exit at once on a second one.

    A repetition of the first signal within a second is ignored. A signal that was ignored when the block began, as
    SIGHUP is under nohup, stays ignored. The exit does no cleanup: the manifest is always valid, and a cleanup could
    hang.
    """
    loop = asyncio.get_running_loop()
    first: tuple[int, float] | None = None

    # Process-level handlers, not the loop's: a second signal must interrupt a long synchronous step too.
    def receive(number: int, _frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = (number, now)
            loop.call_soon_threadsafe(stop, signal.Signals(number).name)
        elif number != first[0] or now - first[1] >= _REPEAT_WINDOW:
            _write_exit_notice()
            os._exit(ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED)

    before = {number: signal.signal(number, receive) for number in _ENDING if not _is_ignored(number)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_exit_notice() -> None:
    """Write a notice to the terminal if that does not block: nothing may delay the exit."""
    try:
        if os.isatty(_STDERR) and select.select([], [_STDERR], [], 0)[1]:
            os.write(_STDERR, b"\nLeft.\n")
    except (OSError, ValueError):
        return


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN
