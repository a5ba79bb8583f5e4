"""Clones that another account may have made: that a query of this account does not show them proves nothing.

Source: zstack/README.md 8.
"""

from __future__ import annotations

from asyncio import to_thread
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.manifest.kinds import ConnectedLine, StartedLine
from batch.manifest.reading import reading
from batch.manifest.records import parse_line
from batch.model import Record, State
from batch.zstack.answers import Absent, ApiError, ErrorClass, Refused
from batch.zstack.queries import QueryApi
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batch.engine.ports import Api
    from batch.manifest import Manifest
    from batch.manifest.kinds import Line
    from batch.model import Clone
    from batch.zstack.answers import FindAnswer, PollAnswer, SubmitAnswer
    from batch.zstack.client import Client


_UNNAMED: Final = "of a lost line"


async def api_of_account(client: Client, manifest: Manifest) -> Api:
    """Return the Api of a run: ``client``, or one that refuses queries that would prove nothing."""
    past = manifest.past
    # A damaged line may have named another account.
    if not past.intents or (len(past.users.accounts) < 2 and not past.is_repaired):
        return client
    try:
        identity = await QueryApi(client).identity()
    except CallFailedError:
        return client
    if identity.is_admin or identity.account is None:
        return client
    await manifest.flush()
    makers = await to_thread(find_makers, manifest.path, identity.account.uuid, is_repaired=past.is_repaired)
    return _AccountApi(client, makers) if makers else client


class _Attempt(NamedTuple):
    """An attempt that another account sent, without a known end."""

    sent: Record
    account: str


def find_makers(path: Path, account: str, *, is_repaired: bool) -> dict[str, str]:
    """Return by resource uuid the account, other than ``account``, that may have made it. Raises ManifestError.

    ``is_repaired``: whether the lines that name accounts may be lost, so that an unnamed one may be any.
    """
    attempts: dict[str, _Attempt] = {}
    unnamed = _UNNAMED if is_repaired else None
    caller = unnamed
    with reading(path) as manifest:
        for body in manifest.bodies():
            line = parse_line(body)
            if isinstance(line, StartedLine | ConnectedLine):
                caller = (line.account if isinstance(line, ConnectedLine) else None) or unnamed
            else:
                _add(attempts, line, None if caller == account else caller)
    return {one.sent.resource_uuid: one.account for one in attempts.values() if one.sent.resource_uuid}


def _add(attempts: dict[str, _Attempt], line: Line, other: str | None) -> None:
    """Add a line; ``other``: the account that wrote it, None where it is our own or unknown."""
    if not isinstance(line, Record):
        return
    is_sent, known = line.state is State.SENT, attempts.get(line.key)
    if is_sent and other is not None:
        attempts[line.key] = _Attempt(line, other)
    elif known is not None and line.state not in {State.ACCEPTED, State.UNCERTAIN}:
        is_repeat = is_sent and line.job_uuid == known.sent.job_uuid
        if not (is_repeat or line.open_jobs):
            del attempts[line.key]


class _AccountApi:
    """An Api whose queries show nothing of what other accounts may have made, and say so."""

    def __init__(self, api: Api, makers: Mapping[str, str]) -> None:
        self._api = api
        self._makers = makers

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        return await self._api.submit(clone, job_uuid)

    async def poll(self, job_uuid: str) -> PollAnswer:
        return await self._api.poll(job_uuid)

    async def find(self, resource_uuid: str) -> FindAnswer:
        answer = await self._api.find(resource_uuid)
        maker = self._makers.get(resource_uuid)
        if maker is None or not isinstance(answer, Absent):
            return answer
        text = f"the account {maker} sent it, whose services this account does not see: run again as that one or admin"
        return Refused(ApiError(ErrorClass.PERMANENT, "ZCLONE.UNCERTAIN", text))

    async def renew(self) -> None:
        await self._api.renew()
