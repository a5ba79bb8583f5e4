"""``CloneModelServiceAction``: one clone with the interface of the vendor's SDK, over zclone's client.

The attributes are the API page's parameters; None leaves one out. For many clones use a job file: a single action has
no journal, so that it cannot be continued after its process was killed.
"""

from __future__ import annotations

import uuid as uuids
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final

from batch import jsoncodec
from batch.errors import UsageError
from batch.model import Clone
from batch.zstack.answers import (
    Accepted,
    ApiError,
    Done,
    Duplicate,
    ErrorClass,
    FindAnswer,
    Found,
    NoAnswer,
    NotSent,
    PollAnswer,
    Refused,
    Service,
    SubmitAnswer,
    poll_to_end,
)
from batch.zstack.client import Client, connect
from batch.zstack.params import BODY_PARAMS
from batch.zstack.settings import SessionAuth, Settings, endpoint_url

if TYPE_CHECKING:
    from batch.model import JsonValue

TIMEOUT: Final = 1860.0
"""Seconds to wait where the server reports no apiTimeout: its default, and a minute."""


@dataclass(frozen=True, slots=True)
class Result:
    """Result of the action; with neither clone nor error it is unknown: ``resource_uuid`` says what to look for."""

    resource_uuid: str
    """The uuid that the clone is to have."""
    inventory: Service | None = None
    error: ApiError | None = None
    reason: str = ""
    """Why there is neither."""


@dataclass(slots=True, kw_only=True)
class CloneModelServiceAction:
    """Set ``uuid``, the parameters that differ from the source, and the connection; then ``await action.call()``.

    ``settings`` as ``batch.zstack.settings.Settings``, or ``url`` and ``sessionId``.
    """

    uuid: str = ""
    name: str | None = None
    description: str | None = None
    readme: str | None = None
    size: int | None = None
    gpuComputeCapability: str | None = None  # noqa: N815 - the API's names
    installPath: str | None = None  # noqa: N815
    startCommand: str | None = None  # noqa: N815
    pythonVersion: str | None = None  # noqa: N815
    condaVersion: str | None = None  # noqa: N815
    system: bool | None = None
    type: str | None = None
    yaml: str | None = None
    source: str | None = None
    framework: str | None = None
    requestCpu: int | None = None  # noqa: N815
    requestMemory: int | None = None  # noqa: N815
    resourceUuid: str | None = None  # noqa: N815
    tagUuids: list[str] | None = None  # noqa: N815
    systemTags: list[str] | None = None  # noqa: N815
    userTags: list[str] | None = None  # noqa: N815
    cpuArchitectures: list[str] | None = None  # noqa: N815
    architectureImages: list[dict[str, str]] | None = None  # noqa: N815
    supportDistributed: bool | None = None  # noqa: N815
    containerCommand: str | None = None  # noqa: N815
    containerArgs: str | None = None  # noqa: N815
    vendorToSpecUuidsMap: dict[str, list[str]] | None = None  # noqa: N815
    url: str | None = None
    sessionId: str | None = field(default=None, repr=False)  # noqa: N815
    settings: Settings | None = None
    _random_uuid: str | None = field(default=None, init=False, repr=False)
    """The resourceUuid drawn for the caller; no other resource can have it."""

    async def call(self, client: Client | None = None) -> Result:
        """Clone, wait for the end and return the result.

        Uses ``client`` where one is given; it stays open. After a lost answer the job and the clone's uuid are queried.
        Raises UsageError for what cannot be sent and UnreachableError where ZStack cannot be reached or refuses the
        credentials.
        """
        clone = self._clone()
        if client is not None:
            return await _Call(client, clone, is_ours=self.resourceUuid == self._random_uuid).run()
        async with await connect(self._settings()) as own:
            await own.preflight()
            return await _Call(own, clone, is_ours=self.resourceUuid == self._random_uuid).run()

    def body(self) -> dict[str, JsonValue]:
        """Return the request's body: parameters inside ``params``, tags beside it."""
        named = {row.name: getattr(self, row.name, None) for row in fields(self)}
        body: dict[str, JsonValue] = {"params": {name: named[name] for name in BODY_PARAMS if named[name] is not None}}
        tags = {name: named[name] for name in ("systemTags", "userTags") if named[name] is not None}
        return body | tags

    def _clone(self) -> Clone:
        if not self.uuid:
            raise UsageError("the action needs the uuid of the model service to clone")
        if self.resourceUuid is None:
            # Kept, so that calling the same action again cannot make a second clone.
            self.resourceUuid = self._random_uuid = uuids.uuid4().hex
        body = jsoncodec.encode(self.body()).encode()
        return Clone(self.uuid, self.uuid, self.resourceUuid, body, "", {})

    def _settings(self) -> Settings:
        if self.settings is not None:
            return self.settings
        if self.url is None or self.sessionId is None:
            raise UsageError("the action needs settings, or url and sessionId")
        return Settings(endpoint_url(self.url), SessionAuth(self.sessionId))


class _Call:
    """One call of the action: POST, polls, and a query of the clone where the answer was lost."""

    def __init__(self, client: Client, clone: Clone, *, is_ours: bool) -> None:
        self._client = client
        self._is_ours = is_ours
        self._clone = clone
        self._job_uuid = uuids.uuid4().hex

    async def run(self) -> Result:
        answer = await self._client.submit(self._clone, self._job_uuid)
        if isinstance(answer, Accepted | Duplicate | NoAnswer) or _may_run(answer):
            timeout = answer.api_timeout if isinstance(answer, Accepted) else None
            return await self._find(await self._poll(TIMEOUT if timeout is None else timeout + 60))
        return self._result(answer)

    async def _poll(self, seconds: float) -> PollAnswer:
        return await poll_to_end(lambda: self._client.poll(self._job_uuid), self._client.clock, seconds=seconds)

    async def _find(self, answer: PollAnswer) -> Result:
        """Query the clone where its job left open whether there is one."""
        if (isinstance(answer, Done) and answer.service is not None) or (
            isinstance(answer, Refused) and not (self._is_ours and _may_run(answer))
        ):
            return self._result(answer)
        seen = await self._client.find(self._clone.resource_uuid)
        return self._result(seen if isinstance(seen, Found) or not isinstance(answer, Refused) else answer)

    def _result(self, answer: SubmitAnswer | PollAnswer | FindAnswer) -> Result:
        uuid = self._clone.resource_uuid
        if isinstance(answer, Done | Found) and answer.service is not None:
            return Result(uuid, answer.service)
        if isinstance(answer, Refused):
            return Result(uuid, error=answer.error)
        reason = (
            answer.reason if isinstance(answer, NotSent | NoAnswer) else "its job has no result and no clone is visible"
        )
        return Result(uuid, reason=reason)


def _may_run(answer: SubmitAnswer | PollAnswer) -> bool:
    return isinstance(answer, Refused) and answer.error.error_class is ErrorClass.AMBIGUOUS
