"""Changes of resources other than the clone call: DELETE and PUT of a service, its owner and shares.

Source: zstack/README.md 9 and 11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch import jsoncodec
from batch.errors import CallCutError
from batch.model import CallKind
from batch.zstack.answers import is_cut, poll_to_end
from batch.zstack.client import JOBS_PATH, SERVICES_PATH
from batch.zstack.queries import QueryApi
from batch.zstack.replies import read_job_end, read_submit
from batch.zstack.retry_client import RetryClient
from batch.zstack.wire import NOT_ADMITTED, CallFailedError, HttpReply, segment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batch.model import JsonValue
    from batch.zstack.answers import NoAnswer, NotSent, PollAnswer, Refused, SubmitAnswer
    from batch.zstack.client import Client

GRACE: Final = 60.0
"""Seconds after a job's apiTimeout in which the server may still be executing it."""
LONGEST_JOB: Final = 1800.0 + GRACE
"""Seconds after which the server no longer executes a job, by its default apiTimeout."""


class ServiceChanges:
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
        return read_submit(reply, job_uuid, self._client.language) if isinstance(reply, HttpReply) else reply

    async def end(self, job_uuid: str, *, seconds: float, first: float = 1.0) -> PollAnswer:
        """Poll until the job ended or ``seconds`` have passed, the first time after ``first`` seconds.

        Raises CallCutError after a stop.
        """
        return await poll_to_end(lambda: self._poll(job_uuid), self._client.clock, seconds=seconds, first=first)

    async def _poll(self, job_uuid: str) -> PollAnswer:
        reply = await self._client.call("GET", f"{JOBS_PATH}/{segment(job_uuid)}")
        if is_cut(reply):
            raise CallCutError(NOT_ADMITTED.reason)
        return read_job_end(reply, self._client.language) if isinstance(reply, HttpReply) else reply

    @property
    def generation(self) -> int:
        """Number of the session in use; ``renew`` takes the one of the refused call."""
        return self._client.generation

    async def renew(self, generation: int) -> None:
        """Log in again after a refusal for a dead session. Raises RunStoppedError where that fails."""
        await self._client.replace_session(generation)


class Ownership:
    """Shares resources and changes their owners over one client; every call passes its gate.

    ShareResource of what is already shared changes nothing. ChangeResourceOwner to the present owner fails as ID.1004;
    the owner is queried then, to distinguish a lost answer from a failure.
    """

    def __init__(self, client: Client) -> None:
        """Share the client's gate, credentials and connections."""
        self._client = RetryClient(client)
        self._queries = QueryApi(client)

    async def share(self, uuid: str, accounts: Sequence[str]) -> Refused | NotSent | NoAnswer | None:
        """Share a resource with accounts; None: done."""
        try:
            await self.share_resource([uuid], accounts)
        except CallFailedError as failed:
            return failed.answer
        return None

    async def give(self, uuid: str, account: str) -> Refused | NotSent | NoAnswer | None:
        """Make an account the owner of a resource; None: it is."""
        try:
            await self.change_owner(uuid, account)
        except CallFailedError as failed:
            return None if await self._is_owner(uuid, account) else failed.answer
        return None

    async def change_owner(self, uuid: str, account_uuid: str) -> None:
        """Make another account the owner of a resource. Raises CallFailedError."""
        path = f"/v1/account/{segment(account_uuid)}/resources"
        await self._client.finish("ChangeResourceOwner", "POST", path, {"params": {"resourceUuid": uuid}})

    async def share_resource(self, uuids: Sequence[str], account_uuids: Sequence[str]) -> None:
        """Share resources with accounts. Raises CallFailedError."""
        share: JsonValue = {"resourceUuids": list(uuids), "accountUuids": list(account_uuids), "toPublic": False}
        await self._client.finish("ShareResource", "PUT", "/v1/accounts/resources/actions", {"shareResource": share})

    async def _is_owner(self, uuid: str, account: str) -> bool:
        try:
            owner = (await self._queries.owners([uuid])).get(uuid)
        except CallFailedError:
            return False
        return owner is not None and owner.uuid == account
