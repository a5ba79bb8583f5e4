"""The node as a separate process: ``zclone simulate``, and the child of ``zclone run --simulate``.

The child is ``python -m batch.simulator FAULTS STATE``, which is no command of ``zclone`` and imports none of their
dependencies. It writes one line to stdout: that of ``run_forever``, or ``{"error": TEXT}`` if it cannot start.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from batch.errors import UsageError
from batch.outputs import NamedFile, require_distinct
from batch.simulator.options import ADMIN_UUID, PRESETS, NodeAccount
from batch.simulator.script import ScriptError, load_faults
from batch.simulator.server import serve
from batch.simulator.state import StateError
from batch.simulator.wire import is_loopback

if TYPE_CHECKING:
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
        _announce(_ready_line(server, options))
        await stop.wait()
    finally:
        await server.close()


def with_random_credentials(options: NodeOptions) -> NodeOptions:
    """Return the options with a random session and a random password of admin.

    An account of a fault script without its own password gets an undisclosed random one.
    """
    default = NodeAccount("", "").password
    accounts = tuple(
        replace(account, password=secrets.token_hex(16)) if account.password == default else account
        for account in options.accounts
    )
    if not any(account.uuid == ADMIN_UUID for account in accounts):
        accounts = (NodeAccount(ADMIN_UUID, "admin", password=secrets.token_hex(16), is_admin=True), *accounts)
    session = None if options.session is None else secrets.token_hex(16)
    return replace(options, session=session, accounts=accounts)


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


def _announce(line: str) -> None:
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


def main(faults: str, state: str) -> int:
    """Serve the node of a preset or fault script; return the exit code."""
    try:
        if faults not in PRESETS:
            require_distinct([NamedFile("--state", Path(state))], [NamedFile("--faults", Path(faults))])
        asyncio.run(run_forever(load_faults(faults), state=Path(state), parent_pipe=True))
    except (ScriptError, StateError, UsageError, OSError) as error:
        _announce(json.dumps({"error": str(error)}))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
