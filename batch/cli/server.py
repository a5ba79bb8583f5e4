"""The server of a run: reached when it is first needed, left in good order at the end."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from batch.cli.clock import SystemClock
from batch.cli.node import embedded_node
from batch.cli.preparation import warn
from batch.cli.terminal import say
from batch.engine import Gate
from batch.zstack import connect
from batch.zstack.settings import PasswordAuth, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from batch.zstack.classify import Language
    from batch.zstack.client import Client


class Server:
    """An async context; ``client`` may be asked for as often as needed."""

    def __init__(
        self,
        settings: Settings | None,
        *,
        rate: float,
        manifest: Path = Path(),
        faults: str | None = None,
        tell: Callable[[Iterable[str]], None] = warn,
    ) -> None:
        """Wait; ``settings`` None: an embedded node with ``faults``, which keeps its state beside ``manifest``.

        ``tell``: what the operator is warned through, the log or, for commands that have none, ``say_warnings``.
        """
        self.clock = SystemClock()
        self.gate = Gate(rate, clock=self.clock)
        self.is_rehearsal = settings is None
        self._settings = settings
        self._manifest = manifest
        self._faults = faults or ""
        self._tell = tell
        self._stack = AsyncExitStack()
        self._client: Client | None = None
        self._told = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        self._warn()

    async def client(self) -> Client:
        """Return the client, connected and proven the first time. Raises UnreachableError."""
        if self._client is None:
            settings = self._stack.enter_context(self._endpoint())
            client = await connect(settings, gate=self.gate, clock=self.clock, language=language())
            self._client = await self._stack.enter_async_context(client)
            await client.preflight()
            self._warn()
        return self._client

    def _warn(self) -> None:
        if self._client is not None:
            self._tell(self._client.warnings[self._told :])
            self._told = len(self._client.warnings)

    @contextmanager
    def _endpoint(self) -> Iterator[Settings]:
        if self._settings is not None:
            yield self._settings
            return
        state = self._manifest.with_name(self._manifest.name.removesuffix(".manifest.jsonl") + ".node.jsonl")
        with embedded_node(faults=self._faults, state=state) as node:
            # An account, because faults end sessions.
            yield Settings(node.url, PasswordAuth(node.account, node.password))


def say_warnings(warnings: Iterable[str]) -> None:
    """Warn on stderr: stdout is for data."""
    for warning in warnings:
        say(f"warning: {warning}")


def language() -> Language:
    """Tell the operator's language, for hints; whatever is not Chinese gets English."""
    locale = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    return "zh" if locale.lower().startswith("zh") else "en"
