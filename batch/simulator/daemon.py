"""The node as a process of its own: ``zclone simulate``, and the child of ``zclone run --simulate``."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

from batch.simulator.server import serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batch.simulator.options import NodeOptions


async def run_forever(
    options: NodeOptions,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    state: Path | None = None,
    parent_pipe: bool = False,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve until told to end; says ``{"url": ..., "session": ...}`` as one JSON line on stdout when ready.

    With ``parent_pipe`` the node lives as long as its stdin is open and ignores SIGINT, so that it dies neither
    before its parent nor long after; else SIGINT and SIGTERM end it. Raises StateError and OSError as ``serve`` does.
    """
    server = await serve(options, host=host, port=port, state=state)
    try:
        line = json.dumps({"url": server.url, "session": options.session})
        (announce or _announce)(line)
        await _until_told(parent_pipe=parent_pipe)
    finally:
        await server.close()


def _announce(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _until_told(*, parent_pipe: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    if parent_pipe:
        loop.add_signal_handler(signal.SIGINT, _ignore)
        _watch_stdin(loop, stop)
    else:
        loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


def _ignore() -> None:
    """SIGINT at the terminal is the parent's: it still needs the node to settle what is in flight."""


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    def read() -> None:
        if not os.read(sys.stdin.fileno(), 65536):
            loop.remove_reader(sys.stdin)
            stop.set()

    loop.add_reader(sys.stdin, read)
