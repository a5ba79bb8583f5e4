"""The node as a separate process: ``zclone simulate``, and the child of ``zclone run --simulate``."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

from batch.simulator.access import is_loopback, with_random_credentials
from batch.simulator.server import serve

if TYPE_CHECKING:
    from pathlib import Path

    from batch.simulator.options import NodeOptions
    from batch.simulator.server import NodeServer


async def run_forever(
    options: NodeOptions,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    state: Path | None = None,
    parent_pipe: bool = False,
) -> None:
    """Serve until a signal; print one JSON line on stdout when ready: url, session, account, password, token.

    Beyond loopback, where others can reach the node, session and passwords are random.

    With ``parent_pipe`` the node ends when its stdin closes and ignores SIGINT, so that it ends shortly after its
    parent; otherwise SIGINT and SIGTERM end it. Raises StateError and OSError as ``serve`` does.
    """
    stop = asyncio.Event()
    _watch_for_stop(stop, parent_pipe=parent_pipe)
    if not is_loopback(host):
        options = with_random_credentials(options)
    server = await serve(options, host=host, port=port, state=state)
    try:
        announce(_ready_line(server, options))
        await stop.wait()
    finally:
        await server.close()


def _ready_line(server: NodeServer, options: NodeOptions) -> str:
    admin = server.node.admin
    return json.dumps(
        {
            "url": server.url,
            "session": options.session,
            "account": admin.name,
            "password": admin.password,
            "token": server.token,
        }
    )


def announce(line: str) -> None:
    """Write a line to stdout and flush it, for the parent process."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _watch_for_stop(stop: asyncio.Event, *, parent_pipe: bool) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, _ignore if parent_pipe else stop.set)
    if parent_pipe:
        _watch_stdin(loop, stop)


def _ignore() -> None:
    """Ignore SIGINT from the terminal: the parent handles it and still needs the node to settle clones in flight."""


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    def read() -> None:
        if not os.read(sys.stdin.fileno(), 65536):
            loop.remove_reader(sys.stdin)
            stop.set()

    loop.add_reader(sys.stdin, read)
