"""Signals: the first one asks the run to end in good order, the second one ends the process."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from batch.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def obeyed(ask: Callable[[str], None]) -> Iterator[None]:
    """Call ``ask`` with the name of the first SIGINT, SIGTERM or SIGHUP; a second one leaves at once.

    At once means that nothing else is done: the manifest is valid at every moment, a cleanup could only hang.
    """
    loop = asyncio.get_running_loop()
    asked = False

    # Handlers of the process and not of the loop: a second signal must end a long synchronous step too.
    def receive(number: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            os._exit(ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED)
        asked = True
        loop.call_soon_threadsafe(ask, signal.Signals(number).name)

    before = {number: signal.signal(number, receive) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def forbid_core_dumps() -> None:
    """Leave no image of the memory, and of the secrets in it, on a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
