"""Calls around a run: synchronous queries with retries, and asynchronous jobs polled to their end.

Only for calls that may be repeated; the clone itself has its own protocol in the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch import jsoncodec
from batch.errors import CallCutError
from batch.zstack.answers import (
    Accepted,
    Done,
    Duplicate,
    ErrorClass,
    NoAnswer,
    NotSent,
    Refused,
    Unknown,
    is_cut,
    poll_to_end,
)
from batch.zstack.client import JOBS_PATH
from batch.zstack.decode import BadReplyError, json_object
from batch.zstack.replies import read_job_end, read_refusal, read_submit
from batch.zstack.wire import NOT_ADMITTED, CallFailedError, HttpReply

if TYPE_CHECKING:
    from batch.model import JsonValue
    from batch.zstack.answers import PollAnswer
    from batch.zstack.client import Client
    from batch.zstack.wire import Outcome

_TRIES: Final = 5
_POLL_TIME: Final = 1860.0
"""Seconds: the server's default apiTimeout and a minute."""
_WORTH_A_RETRY: Final = frozenset({ErrorClass.TRANSIENT, ErrorClass.NODE, ErrorClass.AMBIGUOUS})


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

    async def finish(self, what: str, method: str, path: str, body: JsonValue = None) -> None:
        """Start one asynchronous job that may be repeated and wait for its end. Raises CallFailedError."""
        data = None if body is None else jsoncodec.encode(body).encode()
        failed: Refused | NotSent | NoAnswer = NotSent("not tried")
        for number in range(_TRIES):
            await self._back_off(number)
            generation = self._client.generation
            ended = await self._run(method, path, data)
            if isinstance(ended, Done):
                return
            failed = ended
            if isinstance(ended, Refused) and not await self._may_repeat(ended, generation):
                break
        raise CallFailedError(what, failed)

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
        answer = await poll_to_end(lambda: self._poll(job_uuid), self._client.clock, seconds=_POLL_TIME)
        if isinstance(answer, Done | Refused):
            return answer
        known = not isinstance(answer, Unknown)
        return NoAnswer("its job did not end in time" if known else "its job is unknown to the server")

    async def _poll(self, job_uuid: str) -> PollAnswer:
        reply = _require_uncut(await self._client.call("GET", f"{JOBS_PATH}/{job_uuid}"))
        return read_job_end(reply, self._client.language) if isinstance(reply, HttpReply) else reply

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


def _require_uncut(reply: Outcome) -> Outcome:
    """Return the result of a call. Raises CallCutError where it was not made."""
    if is_cut(reply):
        raise CallCutError(NOT_ADMITTED.reason)
    return reply
