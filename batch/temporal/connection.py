"""The connection to Temporal, as its own ``TEMPORAL_*`` variables say, and the names of a run's workflows there.

A manifest never says where to connect, as credentials go there.
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
from batch.temporal.encryption import Encryption
from batch.temporal.payloads import data_converter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_ADDRESS: Final = "localhost:7233"
PATIENCE: Final = timedelta(seconds=10)
"""For one question to Temporal or a worker."""
_IDENTITY: Final = re.compile(r"(\S+) has (\d+/\d+) of ([\d.e+-]+)/s, keys: (.*)")


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection to a namespace of Temporal."""

    client: Client
    address: str
    namespace: str
    keys: tuple[str, ...] = ()
    """Names of the keys that this process has for its payloads; the first encrypts."""

    @contextmanager
    def questions(self) -> Iterator[None]:
        """Raise UnreachableError if Temporal does not answer what the block asks."""
        try:
            yield
        except RPCError as error:
            text = f"cannot ask Temporal at {self.address}: {error.message}"
            raise UnreachableError(text, EndReason.OUTAGE) from None


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """What a worker tells Temporal of itself; as a text it is shown by Temporal's own tools."""

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
        """Read it back; None for what is not a worker of zclone."""
        found = _IDENTITY.fullmatch(text)
        if found is None:
            return None
        keys = () if found[4] == "none" else tuple(found[4].split())
        return cls(found[1], Fraction(found[2]), float(found[3]), keys)


@dataclass(frozen=True, slots=True)
class Poller:
    """A process that takes tasks of an endpoint."""

    identity: WorkerIdentity | None
    """None: it is not a worker of this version of zclone."""
    text: str
    """Its identity as it is."""
    seen_at: float
    """When it last asked for a task, seconds since the epoch; it does so at least every minute."""


async def connect(
    environ: Mapping[str, str], keys: Sequence[bytes] = (), *, hide: Callable[[str], None] = lambda _: None
) -> Connection:
    """Connect. Raises UsageError for variables that cannot be used, UnreachableError where nobody answers.

    ``keys``: of 32 bytes, for the payloads; the first encrypts. ``hide``: takes the API key, which no message may show.
    """
    try:
        config = ClientConfig.load_client_connect_config(override_env_vars=dict(environ))
    except (ValueError, RuntimeError, OSError) as error:
        # What follows the first line quotes the file, which may hold an API key.
        text = re.split(r"\n|\\n", str(error), maxsplit=1)[0]
        raise UsageError(f"the TEMPORAL_* variables or their file cannot be used: {text}") from None
    hide(config.get("api_key") or "")
    config.setdefault("target_host", _ADDRESS)
    config.setdefault("namespace", "default")
    address, namespace, encryption = config["target_host"], config["namespace"], Encryption(keys)
    try:
        # Its own log would go to stdout, which is for data.
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
    """Raise UnreachableError if the namespace is not there: there no run would be found, and none is."""
    request = DescribeNamespaceRequest(namespace=client.namespace)
    try:
        await client.workflow_service.describe_namespace(request, timeout=PATIENCE)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            text = f"Temporal at {address} has no namespace {client.namespace} (TEMPORAL_NAMESPACE)"
            raise UnreachableError(text, EndReason.OUTAGE) from None
        # An API key may be for runs alone.
        if error.status is not RPCStatusCode.PERMISSION_DENIED:
            raise UnreachableError(f"cannot use Temporal at {address}: {error.message}", EndReason.OUTAGE) from None


async def find_pollers(connection: Connection, endpoint: str) -> list[Poller]:
    """Return who takes tasks of an endpoint, or did within the last minutes. Raises UnreachableError."""
    request = DescribeTaskQueueRequest(
        namespace=connection.namespace,
        task_queue=TaskQueue(name=task_queue(endpoint)),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    with connection.questions():
        found = await connection.client.workflow_service.describe_task_queue(request, timeout=PATIENCE)
    return [
        Poller(WorkerIdentity.parse(one.identity), one.identity, one.last_access_time.ToMilliseconds() / 1000)
        for one in found.pollers
    ]


def workflow_id(endpoint: str, job: str, run: str) -> str:
    """Return the id of a run's parent workflow, the same for whoever starts the run."""
    return f"zclone/{endpoint}/{job}/{run}"


def task_queue(endpoint: str) -> str:
    """Return the one queue of an endpoint: all its runs share the workers, and so one rate."""
    return f"zclone/{endpoint}"
