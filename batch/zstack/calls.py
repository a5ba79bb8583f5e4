"""Calls around a run: a client that repeats them until there is an answer, changes of services, clones read back.

The clone itself has its own protocol in the engine. Source: zstack/README.md 8, 9 and 11.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlencode

from batch import jsoncodec
from batch.errors import CallCutError
from batch.jsoncodec import as_number, as_object, as_text
from batch.model import CallKind
from batch.zstack.answers import (
    NOT_ADMITTED,
    Accepted,
    Done,
    Duplicate,
    ErrorClass,
    NoAnswer,
    NotSent,
    Refused,
    Unknown,
    is_cut,
    may_go_on,
    poll_to_end,
)
from batch.zstack.client import JOBS_PATH, SERVICES_PATH
from batch.zstack.replies import read_job_end, read_refusal, read_submit
from batch.zstack.wire import BadReplyError, CallFailedError, HttpReply, json_object, segment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from batch.model import JsonValue
    from batch.zstack.answers import PollAnswer, SubmitAnswer
    from batch.zstack.client import Client
    from batch.zstack.wire import Outcome

_TRIES: Final = 5
_WORTH_A_RETRY: Final = frozenset({ErrorClass.TRANSIENT, ErrorClass.NODE, ErrorClass.AMBIGUOUS})

JOB_GRACE: Final = 60.0
"""Seconds after a job's apiTimeout in which the server may still be executing it."""
LONGEST_JOB: Final = 1800.0 + JOB_GRACE
"""Seconds after which the server no longer executes a job, by its default apiTimeout."""

UUIDS_A_QUERY: Final = 200
"""Number of uuids of 32 digits that fit into a request's head, with room for everything else (zstack/README.md 8)."""
_TAGS_PATH: Final = "/v1/user-tags"
_SHARES_PATH: Final = "/v1/accounts/resources"
_GROUPS_PATH: Final = "/v1/ai/model-services/instances/groups/"
_SMALL_ROWS: Final = 1000
"""Rows of a page of tags or shares: the server's maximum without a limit."""


class RetryClient:
    """Repeats calls with credentials until there is an answer; each method raises CallCutError after a stop."""

    def __init__(self, client: Client) -> None:
        """Share the client's gate, credentials and connections."""
        self._client = client

    async def ask(self, what: str, method: str, path: str, body: JsonValue = None) -> dict[str, JsonValue]:
        """Make one synchronous call that may be repeated; ``what`` names it in errors. Raises CallFailedError."""
        data = None if body is None else jsoncodec.encode(body).encode()
        failed: Refused | NotSent | NoAnswer = NotSent("not tried")
        for number in range(_TRIES):
            await self._back_off(number)
            generation = self._client.generation
            answer = self._read(_require_uncut(await self._client.call_authorised(method, path, body=data)))
            if isinstance(answer, dict):
                return answer
            failed = answer
            if isinstance(answer, Refused) and not await self._may_repeat(answer, generation):
                break
        raise CallFailedError(what, failed)

    async def finish(self, what: str, method: str, path: str, body: JsonValue = None) -> bool:
        """Start one asynchronous job that may be repeated and wait for its end.

        Return whether the server may still execute a repeated one. Raises CallFailedError, whose answer says so too.
        """
        data = None if body is None else jsoncodec.encode(body).encode()
        failed: Refused | NotSent | NoAnswer = NotSent("not tried")
        is_left = False
        for number in range(_TRIES):
            await self._back_off(number)
            generation = self._client.generation
            ended = await self._run(method, path, data)
            if isinstance(ended, Done):
                return is_left
            failed, is_left = ended, is_left or may_go_on(ended)
            if isinstance(ended, Refused) and not await self._may_repeat(ended, generation):
                break
        raise CallFailedError(what, _with_left(failed) if is_left else failed)

    async def _run(self, method: str, path: str, data: bytes | None) -> Done | Refused | NotSent | NoAnswer:
        job_uuid = self._client.clock.uuid()
        reply = _require_uncut(
            await self._client.call_authorised(method, path, body=data, headers={"X-Job-UUID": job_uuid})
        )
        started = read_submit(reply, job_uuid, self._client.language) if isinstance(reply, HttpReply) else reply
        if isinstance(started, Accepted | Duplicate | NoAnswer):
            return await self._await_job(job_uuid)
        return started

    async def _await_job(self, job_uuid: str) -> Done | Refused | NoAnswer:
        answer = await poll_to_end(partial(_poll, self._client, job_uuid), self._client.clock, seconds=LONGEST_JOB)
        if isinstance(answer, Done | Refused):
            return answer
        is_known = not isinstance(answer, Unknown)
        return NoAnswer("its job did not end in time" if is_known else "its job is unknown to the server")

    async def _may_repeat(self, refused: Refused, generation: int) -> bool:
        if refused.error.error_class is ErrorClass.RENEW:
            await self._client.replace_session(generation)
            return True
        return refused.error.error_class in _WORTH_A_RETRY and refused.error.retries != 0

    def _read(self, reply: Outcome) -> dict[str, JsonValue] | Refused | NotSent | NoAnswer:
        if not isinstance(reply, HttpReply):
            return reply
        refused = read_refusal(reply, self._client.language)
        if refused is not None:
            return refused
        try:
            return json_object(reply.body)
        except BadReplyError as error:
            return NoAnswer(f"HTTP {reply.status}: {error}")

    async def _back_off(self, number: int) -> None:
        if number:
            await self._client.clock.sleep((0.25 + 0.75 * self._client.clock.random()) * 2.0 ** (number - 1))


def _with_left(failed: Refused | NotSent | NoAnswer) -> Refused | NoAnswer:
    """Return the last answer to a repeated request, of which the server may still execute an earlier one."""
    if isinstance(failed, Refused):
        return Refused(replace(failed.error, may_go_on=True))
    return NoAnswer(failed.reason) if isinstance(failed, NotSent) else failed


async def _poll(client: Client, job_uuid: str) -> PollAnswer:
    reply = _require_uncut(await client.call("GET", f"{JOBS_PATH}/{segment(job_uuid)}"))
    return read_job_end(reply, client.language) if isinstance(reply, HttpReply) else reply


def _require_uncut(reply: Outcome) -> Outcome:
    """Return the result of a call. Raises CallCutError where it was not made."""
    if is_cut(reply):
        raise CallCutError(NOT_ADMITTED.reason)
    return reply


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
        poll = partial(_poll, self._client, job_uuid)
        return await poll_to_end(poll, self._client.clock, seconds=seconds, first=first)

    @property
    def generation(self) -> int:
        """Number of the session in use; ``renew`` takes the one of the refused call."""
        return self._client.generation

    async def renew(self, generation: int) -> None:
        """Log in again after a refusal for a dead session. Raises RunStoppedError where that fails."""
        await self._client.replace_session(generation)


class Services(NamedTuple):
    """Those of the queried model services that this account sees."""

    by_uuid: Mapping[str, Mapping[str, JsonValue]]
    is_complete: bool
    """Whether the answer has as many rows as the server reports in total."""


class CloneReader:
    """Reads clones back over one client; each method raises CallFailedError where it fails."""

    def __init__(self, client: Client) -> None:
        """Share the client's gate, credentials and connections."""
        self._client = RetryClient(client)

    async def services(self, uuids: Sequence[str]) -> Services:
        """Query at most ``UUIDS_A_QUERY`` model services, with all their fields, in one call."""
        by_uuid: dict[str, Mapping[str, JsonValue]] = {}
        # Without a total it is unknown whether the server cut its answer.
        total_rows = 0.0
        async for rows, total in self._pages(SERVICES_PATH, f"uuid?={','.join(uuids)}", UUIDS_A_QUERY):
            by_uuid.update((str(row["uuid"]), row) for row in rows if as_text(row.get("uuid")))
            total_rows = max(total_rows, math.inf if total is None else total)
        wanted = set(uuids)
        return Services({uuid: row for uuid, row in by_uuid.items() if uuid in wanted}, len(by_uuid) >= total_rows)

    async def tags(self, uuids: Sequence[str]) -> dict[str, set[str]]:
        """Query the user tags of at most ``UUIDS_A_QUERY`` resources, by uuid."""
        tags: dict[str, set[str]] = {uuid: set() for uuid in uuids}
        async for row in self._rows(_TAGS_PATH, f"resourceUuid?={','.join(uuids)}"):
            tags.get(str(row.get("resourceUuid")), set()).add(str(row.get("tag")))
        return tags

    async def tags_with_prefix(self, prefix: str) -> AsyncIterator[tuple[str, str]]:
        """Yield resource uuid and tag of every user tag that begins with ``prefix``.

        The server ignores case and treats ``_`` as a wildcard, so its other matches are left out.
        """
        async for row in self._rows(_TAGS_PATH, f"tag~={prefix}%"):
            uuid, tag = as_text(row.get("resourceUuid")), as_text(row.get("tag"))
            if uuid and tag and tag.startswith(prefix):
                yield uuid, tag

    async def shares(self, uuids: Sequence[str]) -> dict[str, set[str]]:
        """Query with which accounts at most ``UUIDS_A_QUERY`` resources are shared; for admin only."""
        accounts: dict[str, set[str]] = {uuid: set() for uuid in uuids}
        condition = f"resourceUuid?={','.join(uuids)}"
        async for row in self._rows(_SHARES_PATH, condition, sort="+resourceUuid"):
            accounts.get(str(row.get("resourceUuid")), set()).add(str(row.get("receiverAccountUuid")))
        return accounts

    async def services_in_use(self, uuids: Sequence[str]) -> set[str]:
        """Return which of at most ``UUIDS_A_QUERY`` model services have an instance group.

        Raises CallFailedError also where an answer does not show it for every row.
        """
        condition = f"modelServiceUuid?={','.join(uuids)}"
        service_uuids = {
            as_text(row.get("modelServiceUuid")) or "" async for row in self._rows(_GROUPS_PATH, condition)
        }
        if "" in service_uuids:
            raise _incomplete(_GROUPS_PATH)
        return service_uuids

    async def _rows(self, path: str, condition: str, *, sort: str = "+uuid") -> AsyncIterator[dict[str, JsonValue]]:
        """Yield all rows. Raises CallFailedError, after the last one, where their number is not the server's total.

        Without a total, missing rows are not known to be absent.
        """
        count, total_rows = 0, 0.0
        async for rows, total in self._pages(path, condition, _SMALL_ROWS, sort=sort):
            count += len(rows)
            total_rows = max(total_rows, math.inf if total is None else total)
            for row in rows:
                yield row
        if count < total_rows:
            raise _incomplete(path)

    async def _pages(
        self, path: str, condition: str, size: int, *, sort: str = "+uuid"
    ) -> AsyncIterator[tuple[list[dict[str, JsonValue]], float | None]]:
        """Yield the rows page by page, with the server's total, None where it reports none."""
        start = 0
        while True:
            page = {"start": start, "limit": size, "replyWithCount": "true"}
            query = urlencode({"q": condition, "sort": sort, **page}, quote_via=quote, safe=",")
            answer = await self._client.ask(f"query of {path}", "GET", f"{path}?{query}")
            values = answer.get("inventories")
            if not isinstance(values, list):
                raise CallFailedError(f"query of {path}", NoAnswer("the answer has no list of inventories"))
            rows = [row for row in map(as_object, values) if row is not None]
            start += len(values)
            total = as_number(answer.get("total"))
            yield rows, total
            if not values or (len(values) < size if total is None else start >= total):
                return


def _incomplete(path: str) -> CallFailedError:
    return CallFailedError(f"query of {path}", NoAnswer("the answer is not complete"))
