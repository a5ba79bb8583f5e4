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

    def receive(number: signal.Signals) -> None:
        nonlocal asked
        if asked:
            os._exit(ExitCode.INTERRUPTED if number is signal.SIGINT else ExitCode.TERMINATED)
        asked = True
        ask(number.name)

    for number in _ENDING:
        loop.add_signal_handler(number, receive, number)
    try:
        yield
    finally:
        for number in _ENDING:
            loop.remove_signal_handler(number)


def forbid_core_dumps() -> None:
    """Leave no image of the memory, and of the secrets in it, on a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
