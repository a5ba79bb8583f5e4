"""A worker, which executes the workflows of an endpoint's runs and makes their calls at its share of the rate.

The calls are made with the worker's own credentials, behind its own gate.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from temporalio import activity
from temporalio.worker import Worker

from batch.engine.deadline_gate import NOT_AFTER
from batch.errors import RunStoppedError
from batch.temporal.connection import WorkerIdentity, task_queue
from batch.temporal.messages import Ask, Ending, Facts, Give, Reply, Submit
from batch.temporal.page import PageWorkflow
from batch.temporal.parent import GreetingWorkflow, RunWorkflow
from batch.zstack.answers import ErrorClass, Refused
from batch.zstack.queries import Ownership

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from fractions import Fraction

    from batch.engine import Stop
    from batch.temporal.connection import Connection
    from batch.zstack.client import Client

_WAITING: Final = 2.0
"""Work that a worker accepts at once, in seconds of its share of the rate; the rest is left to other workers."""
_BEAT: Final = timedelta(seconds=2)
_DRAIN: Final = timedelta(seconds=30)
WORKFLOWS: Final = (GreetingWorkflow, PageWorkflow, RunWorkflow)
_ALIVE: Final = 1.0
"""Seconds between two heartbeats of an activity."""


class Activities:
    """The activities of one worker."""

    def __init__(self, client: Client, facts: Facts, *, name: str) -> None:
        """``client``: connected, with a verified login; ``name``: unique to this worker."""
        self._client = client
        self._facts = facts
        self._name = name
        self._ownership = Ownership(client)

    @property
    def all(self) -> list[Callable[..., Awaitable[object]]]:
        """Return the activities to register."""
        return [self.submit, self.poll, self.find, self.share, self.give, self.facts]

    @activity.defn(name="submit")
    async def submit(self, call: Submit) -> Reply:
        """POST a clone, unless it waited too long at the gate."""
        NOT_AFTER.set(time.monotonic() + call.not_after)
        return await self._reply(lambda: self._client.submit(call.clone, call.job_uuid), call.dead)

    @activity.defn(name="poll")
    async def poll(self, call: Ask) -> Reply:
        """Poll a job."""
        return await self._reply(lambda: self._client.poll(call.uuid), call.dead)

    @activity.defn(name="find")
    async def find(self, call: Ask) -> Reply:
        """Query a resource."""
        return await self._reply(lambda: self._client.find(call.uuid), call.dead)

    @activity.defn(name="share")
    async def share(self, call: Give) -> Reply:
        """Let accounts use a resource."""
        return await self._reply(lambda: self._ownership.share(call.uuid, call.accounts), call.dead)

    @activity.defn(name="give")
    async def give(self, call: Give) -> Reply:
        """Make an account the owner of a resource."""
        return await self._reply(lambda: self._ownership.give(call.uuid, call.accounts[0]), call.dead)

    @activity.defn(name="facts")
    async def facts(self) -> Facts:
        """Return the facts that a command needs before it starts a run."""
        return self._facts

    async def _reply(self, call: Callable[[], Awaitable[object]], dead: tuple[str, ...]) -> Reply:
        async with _beating():
            try:
                await self._replace(dead)
                session = self._session
                answer = await call()
                if isinstance(answer, Refused) and answer.error.error_class is ErrorClass.RENEW:
                    await self._client.renew()
            except RunStoppedError as stopped:
                return Reply(ending=Ending(str(stopped), stopped.reason))
        return Reply(answer, session)

    @property
    def _session(self) -> str:
        return f"{self._name}:{self._client.generation}"

    async def _replace(self, dead: tuple[str, ...]) -> None:
        """Log in again if this worker's session is among the ended ones."""
        if self._session in dead:
            await self._client.replace_session(self._client.generation)


@asynccontextmanager
async def _beating() -> AsyncIterator[None]:
    """Send heartbeats during the block, so that a dead worker is detected within seconds."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(_ALIVE)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()


async def work(
    temporal: Connection, client: Client, *, rate: float, share: Fraction, stop: Stop, ready: Callable[[str], None]
) -> None:
    """Execute tasks until a stop, then finish those in progress; ``client`` must use a ``DeadlineGate``.

    ``rate``: calls per second of all workers of the endpoint; ``share``: this worker's fraction of it, up to 1.
    ``ready`` is called with the name of the task queue once the worker polls for tasks.
    """
    name = f"{os.getpid()}@{socket.gethostname()}"
    facts = Facts(rate, client.version, temporal.keys)
    queue = task_queue(client.url)
    worker = Worker(
        temporal.client,
        task_queue=queue,
        workflows=WORKFLOWS,
        activities=Activities(client, facts, name=name).all,
        identity=str(WorkerIdentity(name, share, rate, temporal.keys)),
        max_concurrent_activities=math.ceil(rate * share * _WAITING) + 2,
        max_task_queue_activities_per_second=rate,
        max_heartbeat_throttle_interval=_BEAT,
        graceful_shutdown_timeout=_DRAIN,
        # A task that bypasses the queue would also bypass its rate limit.
        disable_eager_activity_execution=True,
    )
    async with worker:
        ready(queue)
        await stop.wait()
