"""The event loop of a run, and the signals that stop it: the first one in good order, the second one at once."""

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
_SAME: Final = 1.0
"""Seconds: GNU timeout and process groups deliver one stop twice, to the process and to its group."""


_STDERR: Final = 2


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of uvloop's loop where the extra [speed] is installed; None: asyncio's own."""
    try:
        return import_module("uvloop").new_event_loop  # type: ignore[no-any-return]
    except ImportError:
        return None


@contextmanager
def on_signal(stop: Callable[[str], None]) -> Iterator[None]:
    """Call ``stop`` with the name of the first SIGINT, SIGTERM or SIGHUP; a second one leaves at once.

    The same signal within a second of the first counts as one. A signal that was ignored when the block began, as
    SIGHUP is under nohup, stays ignored. No cleanup is done: the manifest is valid at every moment,
    and a cleanup could hang.
    """
    loop = asyncio.get_running_loop()
    first: tuple[int, float] | None = None

    # Handlers of the process and not of the loop: a second signal must end a long synchronous step too.
    def receive(number: int, _frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = (number, now)
            loop.call_soon_threadsafe(stop, signal.Signals(number).name)
        elif number != first[0] or now - first[1] >= _SAME:
            _say_left()
            os._exit(ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED)

    before = {number: signal.signal(number, receive) for number in _ENDING if not _is_ignored(number)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_left() -> None:
    """Say on a terminal that the process leaves, if it takes that at once: nothing may hold up a second signal."""
    try:
        if os.isatty(_STDERR) and select.select([], [_STDERR], [], 0)[1]:
            os.write(_STDERR, b"\nLeft.\n")
    except (OSError, ValueError):
        return


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN
