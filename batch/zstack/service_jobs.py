"""``DeleteModelService`` and ``UpdateModelService``: one call under the caller's job uuid, and the end of its job.

Source: zstack/README.md 11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch import jsoncodec
from batch.errors import CallCutError
from batch.model import CallKind
from batch.zstack.answers import is_cut
from batch.zstack.client import JOBS_PATH, SERVICES_PATH
from batch.zstack.polling import poll_to_end
from batch.zstack.replies import read_job_end, read_submit
from batch.zstack.wire import NOT_ADMITTED, Reply, segment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.model import JsonValue
    from batch.zstack.answers import PollAnswer, SubmitAnswer
    from batch.zstack.client import Client

GRACE: Final = 60.0
"""Seconds after a job's apiTimeout in which the server may still be executing it."""
LONGEST_JOB: Final = 1800.0 + GRACE
"""Seconds after which the server no longer executes a job, by its default apiTimeout."""
SETTABLE: Final = frozenset(
    {
        "name",
        "description",
        "yaml",
        "requestCpu",
        "requestMemory",
        "gpuComputeCapability",
        "startCommand",
        "containerCommand",
        "containerArgs",
        "pythonVersion",
        "type",
        "source",
        "framework",
        "architectureImages",
        "supportDistributed",
        "vendorToSpecUuidsMap",
    }
)
"""Parameters of the clone that UpdateModelService sets."""


class ServiceJobs:
    """Deletes and updates model services over one client; a call repeated under one job uuid is executed once."""

    def __init__(self, client: Client) -> None:
        """Share the client's gate, credentials and connections."""
        self._client = client

    async def delete(self, uuid: str, job_uuid: str) -> SubmitAnswer:
        """DELETE /v1/ai/model-services/{uuid}, with ``job_uuid`` as X-Job-UUID."""
        return await self._send("DELETE", f"{SERVICES_PATH}/{segment(uuid)}?deleteMode=Permissive", job_uuid)

    async def update(self, uuid: str, fields: Mapping[str, JsonValue], job_uuid: str) -> SubmitAnswer:
        """PUT /v1/ai/model-services/{uuid} with new values of ``fields``, and ``job_uuid`` as X-Job-UUID."""
        body = jsoncodec.encode({"updateModelService": dict(fields)}).encode()
        return await self._send("PUT", f"{SERVICES_PATH}/{segment(uuid)}", job_uuid, body)

    async def _send(self, method: str, path: str, job_uuid: str, body: bytes | None = None) -> SubmitAnswer:
        headers = {"X-Job-UUID": job_uuid}
        reply = await self._client.call_authorised(method, path, body=body, headers=headers, kind=CallKind.CLONE)
        return read_submit(reply, job_uuid, self._client.language) if isinstance(reply, Reply) else reply

    async def end(self, job_uuid: str, *, seconds: float, first: float = 1.0) -> PollAnswer:
        """Poll until the job ended or ``seconds`` have passed, the first time after ``first`` seconds.

        Raises CallCutError after a stop.
        """
        return await poll_to_end(lambda: self._poll(job_uuid), self._client.clock, seconds=seconds, first=first)

    async def _poll(self, job_uuid: str) -> PollAnswer:
        reply = await self._client.call("GET", f"{JOBS_PATH}/{segment(job_uuid)}")
        if is_cut(reply):
            raise CallCutError(NOT_ADMITTED.reason)
        return read_job_end(reply, self._client.language) if isinstance(reply, Reply) else reply

    @property
    def generation(self) -> int:
        """Number of the session in use; ``renew`` takes the one of the refused call."""
        return self._client.generation

    async def renew(self, generation: int) -> None:
        """Log in again after a refusal for a dead session. Raises RunStoppedError where that fails."""
        await self._client.replace_session(generation)
