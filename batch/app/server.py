"""A command's connection to its server or embedded node: opened on first use, closed with a logout."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import structlog

from batch import log
from batch.app.embedded_node import embedded_node, node_state
from batch.app.messages import language, say, warn
from batch.clock import SystemClock
from batch.engine import Gate, hard_cap
from batch.engine.control import GRACE, DeadlineGate
from batch.manifest.kinds import ConnectedLine
from batch.redaction import SECRETS, Secrets
from batch.zstack import connect
from batch.zstack.queries import QueryApi
from batch.zstack.settings import PasswordAuth, Settings
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType

    from batch.app.prepare import Setup
    from batch.engine import Stop
    from batch.zstack.client import Client

_DRAIN_TIME: Final = 365 * 86400.0
"""Seconds that clones in flight have to settle when the run drains."""


class Server:
    """A lazily connected server, as an async context manager."""

    def __init__(
        self,
        settings: Settings | None,
        *,
        rate: float,
        environ: Mapping[str, str],
        manifest: Path = Path(),
        faults: str | None = None,
        warn_of: Callable[[Iterable[str]], None] = warn,
        paused: Callable[[float], None] | None = None,
    ) -> None:
        """Prepare without connecting.

        ``settings``: None for an embedded node with ``faults``, which keeps its state beside ``manifest``.
        ``environ``: the process environment, for the operator's language and the embedded node.
        ``warn_of``: reports warnings, in the log or, for commands without one, with ``say_warnings``.
        ``paused``: called with the seconds of a pause that the server requested; None for ``say_pause``.
        """
        self.clock = SystemClock()
        self.gate = Gate(rate, cap=hard_cap(rate), clock=self.clock, paused=paused or say_pause)
        self._passage = DeadlineGate(self.gate, self.clock)
        self.is_rehearsal = settings is None
        self._settings = settings
        self._environ = environ
        self._manifest = manifest
        self._faults = faults or ""
        self.warn_of = warn_of
        self._stack = AsyncExitStack()
        self._client: Client | None = None
        self._warned = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A login that still waits at the gate must not delay the exit.
        self.gate.stop(0.0)
        await self._stack.aclose()
        self._warn()

    async def client(self) -> Client:
        """Return the client; the first call connects it and checks the login. Raises UnreachableError."""
        if self._client is None:
            settings = self._stack.enter_context(self._endpoint())
            # An embedded node's credentials are not secret, and redacting its password "password" would garble texts.
            secrets = Secrets() if self.is_rehearsal else SECRETS
            connecting = connect(
                settings, gate=self._passage, clock=self.clock, language=language(self._environ), secrets=secrets
            )
            self._client = await self._stack.enter_async_context(await connecting)
            # Before the first byte, and so before any credentials, is sent.
            self._warn()
            await self._client.preflight()
            self._warn()
        return self._client

    def _warn(self) -> None:
        if self._client is not None:
            self.warn_of(self._client.warnings[self._warned :])
            log.flush()
            self._warned = len(self._client.warnings)

    @contextmanager
    def _endpoint(self) -> Iterator[Settings]:
        if self._settings is not None:
            yield self._settings
            return
        with embedded_node(self._environ, faults=self._faults, state=node_state(self._manifest)) as node:
            # An account rather than a session, because faults end sessions.
            yield Settings(node.url, PasswordAuth(node.account, node.password))


def say_warnings(warnings: Iterable[str]) -> None:
    """Write warnings to stderr, for commands without a log."""
    for warning in warnings:
        say(f"warning: {warning}")


def say_pause(seconds: float) -> None:
    """Report a pause that the server requested."""
    say(f"the server is busy: pausing for {seconds:.0f} s, as it requested")


async def describe_connection(client: Client, *, rate: float) -> ConnectedLine:
    """Return the line with the cloning account, if the server tells it; only that account and admin see its clones."""
    try:
        account = await QueryApi(client).own_account()
    except CallFailedError:
        account = None
    return ConnectedLine(time.time(), None if account is None else account.uuid, rate)


def make_server(setup: Setup, *, stop: Stop) -> Server:
    """Return the run's server, not yet connected; once ``stop`` is requested, only clones in flight are polled."""
    server = Server(
        setup.settings,
        rate=setup.limits.rate,
        environ=setup.options.endpoint.environ,
        manifest=setup.path,
        faults=setup.options.simulate,
        paused=lambda seconds: structlog.get_logger().info("server.busy", seconds=round(seconds, 1)),
    )
    server.gate.rate.on_change = _log_rate
    stop.on_request(lambda: server.gate.stop(GRACE))
    stop.on_drain(lambda: server.gate.suspend(_DRAIN_TIME))
    return server


def _log_rate(rate: float, limit: float) -> None:
    log = structlog.get_logger()
    if rate < limit:
        log.warning("rate.lowered", rate=round(rate, 2), limit=limit)
    else:
        log.info("rate.restored", rate=rate)
