"""The connection to Temporal according to its ``TEMPORAL_*`` variables, and the names of a run's workflows.

The address never comes from a manifest, because credentials are sent there.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode

from batch.errors import EndReason, UnreachableError, UsageError
from batch.temporal.payloads import Encryption, data_converter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_ADDRESS: Final = "localhost:7233"
PATIENCE: Final = timedelta(seconds=10)
"""Timeout of one query to Temporal or a worker."""
_IDENTITY: Final = re.compile(r"(\S+) has (\d+/\d+) of ([\d.e+-]+)/s, keys: (.*)")


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection to a namespace of Temporal."""

    client: Client
    address: str
    namespace: str
    keys: tuple[str, ...] = ()
    """Names of this process's payload keys; the first encrypts."""

    @contextmanager
    def questions(self) -> Iterator[None]:
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
        client = await Client.connect(**config, data_converter=data_converter(encryption), runtime=runtime)
    except ValueError as error:
        raise UsageError(f"cannot connect to Temporal at {address!r:.200} (TEMPORAL_ADDRESS): {error}") from None
    except RuntimeError as error:
        text = f"cannot reach Temporal at {address} (TEMPORAL_ADDRESS): {str(error).splitlines()[0][:200]}"
        raise UnreachableError(text, EndReason.OUTAGE) from None
    await _require_namespace(client, address)
    return Connection(client, address, namespace, encryption.keys)


async def _require_namespace(client: Client, address: str) -> None:
    """Raise UnreachableError if the namespace does not exist, as otherwise no run would be found in it."""
    request = DescribeNamespaceRequest(namespace=client.namespace)
    try:
        await client.workflow_service.describe_namespace(request, timeout=PATIENCE)
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
    with connection.questions():
        queue = await connection.client.workflow_service.describe_task_queue(request, timeout=PATIENCE)
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
