"""Workers of an endpoint, and the connection of commands and workers to Temporal according to ``TEMPORAL_*`` variables.

The address never comes from a manifest, because credentials are sent there. A worker executes the workflows of an
endpoint's runs and makes their calls with its own credentials, behind its own gate, at its share of the rate.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import socket
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from temporalio import activity
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeTaskQueueRequest
from temporalio.client import Client as TemporalClient
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from batch.engine.control import NOT_AFTER
from batch.errors import EndReason, RunStoppedError, UnreachableError, UsageError
from batch.temporal.messages import Ask, Ending, Facts, Give, Reply, Submit
from batch.temporal.page import PageWorkflow
from batch.temporal.parent import GreetingWorkflow, RunWorkflow
from batch.temporal.payloads import Encryption, data_converter
from batch.zstack.answers import ErrorClass, Refused
from batch.zstack.queries import Ownership

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from batch.engine import Stop
    from batch.zstack.client import Client

_ADDRESS: Final = "localhost:7233"
QUERY_TIMEOUT: Final = timedelta(seconds=10)
"""Timeout of one query to Temporal or a worker."""
_IDENTITY: Final = re.compile(r"(\S+) has (\d+/\d+) of ([\d.e+-]+)/s, keys: (.*)")
_BACKLOG: Final = 2.0
"""Work that a worker accepts at once, in seconds of its share of the rate; the rest is left to other workers."""
_HEARTBEAT_THROTTLE: Final = timedelta(seconds=2)
_SHUTDOWN_TIMEOUT: Final = timedelta(seconds=30)
WORKFLOWS: Final = (GreetingWorkflow, PageWorkflow, RunWorkflow)
_HEARTBEAT_INTERVAL: Final = 1.0
"""Seconds between two heartbeats of an activity."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection to a namespace of Temporal."""

    client: TemporalClient
    address: str
    namespace: str
    keys: tuple[str, ...] = ()
    """Names of this process's payload keys; the first encrypts."""

    @contextmanager
    def queries(self) -> Iterator[None]:
        """Raise UnreachableError if Temporal does not answer the queries of the block."""
        try:
            yield
        except RPCError as error:
            text = f"cannot query Temporal at {self.address}: {error.message}"
            raise UnreachableError(text, EndReason.OUTAGE) from None


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Identity of a worker on Temporal, whose text form Temporal's own tools show."""

    name: str
    """Process and host."""
    share: Fraction
    rate: float
    """Calls per second of all workers of the endpoint."""
    keys: tuple[str, ...]

    def __str__(self) -> str:
        share = f"{self.share.numerator}/{self.share.denominator}"
        return f"{self.name} has {share} of {self.rate!r}/s, keys: {' '.join(self.keys) or 'none'}"

    @classmethod
    def parse(cls, text: str) -> WorkerIdentity | None:
        """Parse the text form; None for anything else than a worker of zclone."""
        match = _IDENTITY.fullmatch(text)
        if match is None:
            return None
        keys = () if match[4] == "none" else tuple(match[4].split())
        return cls(match[1], Fraction(match[2]), float(match[3]), keys)


@dataclass(frozen=True, slots=True)
class Poller:
    """A process that polls for tasks of an endpoint."""

    identity: WorkerIdentity | None
    """None if it is not a worker of this version of zclone."""
    text: str
    """Its identity as reported."""
    seen_at: float
    """Time of its last poll, seconds since the epoch; it polls at least once a minute."""


async def open_connection(
    environ: Mapping[str, str], keys: Sequence[bytes] = (), *, hide: Callable[[str], None] = lambda _: None
) -> Connection:
    """Connect to Temporal. Raises UsageError for invalid variables, UnreachableError if nothing answers.

    ``keys``: payload keys of 32 bytes, of which the first encrypts. ``hide``: called with the API key to redact it.
    """
    try:
        config = ClientConfig.load_client_connect_config(override_env_vars=dict(environ))
    except (ValueError, RuntimeError, OSError) as error:
        # Lines after the first quote the file, which may contain an API key.
        text = re.split(r"\n|\\n", str(error), maxsplit=1)[0]
        raise UsageError(f"the TEMPORAL_* variables or their file cannot be used: {text}") from None
    hide(config.get("api_key") or "")
    config.setdefault("target_host", _ADDRESS)
    config.setdefault("namespace", "default")
    address, namespace, encryption = config["target_host"], config["namespace"], Encryption(keys)
    try:
        # The SDK's own log would go to stdout, which is for data.
        runtime = Runtime(telemetry=TelemetryConfig(logging=None))
        client = await TemporalClient.connect(**config, data_converter=data_converter(encryption), runtime=runtime)
    except ValueError as error:
        raise UsageError(f"cannot connect to Temporal at {address!r:.200} (TEMPORAL_ADDRESS): {error}") from None
    except RuntimeError as error:
        text = f"cannot reach Temporal at {address} (TEMPORAL_ADDRESS): {str(error).splitlines()[0][:200]}"
        raise UnreachableError(text, EndReason.OUTAGE) from None
    await _require_namespace(client, address)
    return Connection(client, address, namespace, encryption.keys)


async def _require_namespace(client: TemporalClient, address: str) -> None:
    """Raise UnreachableError if the namespace does not exist, as otherwise no run would be found in it."""
    request = DescribeNamespaceRequest(namespace=client.namespace)
    try:
        await client.workflow_service.describe_namespace(request, timeout=QUERY_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            text = f"Temporal at {address} has no namespace {client.namespace} (TEMPORAL_NAMESPACE)"
            raise UnreachableError(text, EndReason.OUTAGE) from None
        # An API key may be limited to runs.
        if error.status is not RPCStatusCode.PERMISSION_DENIED:
            raise UnreachableError(f"cannot use Temporal at {address}: {error.message}", EndReason.OUTAGE) from None


async def find_pollers(connection: Connection, endpoint: str) -> list[Poller]:
    """Return the processes that polled for tasks of an endpoint in the last minutes. Raises UnreachableError."""
    request = DescribeTaskQueueRequest(
        namespace=connection.namespace,
        task_queue=TaskQueue(name=task_queue(endpoint)),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    with connection.queries():
        queue = await connection.client.workflow_service.describe_task_queue(request, timeout=QUERY_TIMEOUT)
    return [
        Poller(WorkerIdentity.parse(one.identity), one.identity, one.last_access_time.ToMilliseconds() / 1000)
        for one in queue.pollers
    ]


def workflow_id(endpoint: str, job: str, run: str) -> str:
    """Return the id of a run's parent workflow, which is the same for every command."""
    return f"zclone/{endpoint}/{job}/{run}"


def task_queue(endpoint: str) -> str:
    """Return the task queue of an endpoint, shared by all its runs so that they share workers and rate."""
    return f"zclone/{endpoint}"


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
        async with _heartbeats():
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
async def _heartbeats() -> AsyncIterator[None]:
    """Send heartbeats during the block, so that a dead worker is detected within seconds."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(_HEARTBEAT_INTERVAL)

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
        max_concurrent_activities=math.ceil(rate * share * _BACKLOG) + 2,
        max_task_queue_activities_per_second=rate,
        max_heartbeat_throttle_interval=_HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=_SHUTDOWN_TIMEOUT,
        # A task that bypasses the queue would also bypass its rate limit.
        disable_eager_activity_execution=True,
    )
    async with worker:
        ready(queue)
        await stop.wait()
