"""Questions and side jobs around a run: synchronous questions with retries, and asynchronous jobs brought to an end.

Only for calls that may be repeated; the clone itself has its own protocol in the engine.
"""

from __future__ import annotations

import json
import random
import uuid
from typing import TYPE_CHECKING, Final

from batch.zstack.answers import Accepted, Done, Duplicate, ErrorClass, NoAnswer, NotSent, Refused, Unknown
from batch.zstack.client import JOBS_PATH
from batch.zstack.decode import BadReplyError, json_object
from batch.zstack.replies import job_ended, refusal, submitted
from batch.zstack.wire import CallFailedError, Reply

if TYPE_CHECKING:
    from batch.model import JsonValue
    from batch.zstack.answers import PollAnswer
    from batch.zstack.client import Client
    from batch.zstack.wire import Outcome

_TRIES: Final = 5
_POLL_FIRST: Final = 1.0
_POLL_LAST: Final = 15.0
_POLL_TIME: Final = 1860.0
"""Seconds: the server's default apiTimeout and a minute."""
_MISSES: Final = 3


class Caller:
    """Calls through a client, with credentials, until there is an answer."""

    def __init__(self, client: Client) -> None:
        """Share the client's gate, credentials and connections."""
        self._client = client

    async def ask(self, what: str, method: str, path: str, body: JsonValue = None) -> dict[str, JsonValue]:
        """One synchronous question that may be repeated; ``what`` names it in errors. Raises CallFailedError."""
        data = None if body is None else json.dumps(body).encode()
        failed: Refused | NotSent | NoAnswer = NotSent("not tried")
        for number in range(_TRIES):
            await self._back_off(number)
            generation = self._client.generation
            answer = self._read(await self._client.authorised(method, path, body=data))
            if isinstance(answer, dict):
                return answer
            failed = answer
            if isinstance(answer, Refused) and not await self._may_repeat(answer, generation):
                break
        raise CallFailedError(what, failed)

    async def finish(self, what: str, method: str, path: str, body: JsonValue = None) -> None:
        """Start one asynchronous job that may be repeated and wait for its end. Raises CallFailedError."""
        data = None if body is None else json.dumps(body).encode()
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
        job_uuid = uuid.uuid4().hex
        reply = await self._client.authorised(method, path, body=data, headers={"X-Job-UUID": job_uuid})
        started = submitted(reply, job_uuid, self._client.language) if isinstance(reply, Reply) else reply
        if isinstance(started, Accepted | Duplicate | NoAnswer):
            return await self._await_job(job_uuid)
        return started

    async def _await_job(self, job_uuid: str) -> Done | Refused | NoAnswer:
        clock = self._client.clock
        ends = clock.monotonic() + _POLL_TIME
        pause, misses = _POLL_FIRST, 0
        while clock.monotonic() < ends and misses < _MISSES:
            await clock.sleep(pause)
            pause = min(pause * 1.5, _POLL_LAST)
            answer = await self._poll(job_uuid)
            if isinstance(answer, Done | Refused):
                return answer
            misses = misses + 1 if isinstance(answer, Unknown) else misses
        return NoAnswer("its job did not end in time" if misses < _MISSES else "its job is not known to the server")

    async def _poll(self, job_uuid: str) -> PollAnswer:
        reply = await self._client.plain("GET", f"{JOBS_PATH}/{job_uuid}")
        return job_ended(reply, self._client.language) if isinstance(reply, Reply) else reply

    async def _may_repeat(self, refused: Refused, generation: int) -> bool:
        if refused.error.klass is ErrorClass.RENEW:
            await self._client.replace_session(generation)
            return True
        return refused.error.klass in {ErrorClass.TRANSIENT, ErrorClass.AMBIGUOUS} and refused.error.retries != 0

    def _read(self, reply: Outcome) -> dict[str, JsonValue] | Refused | NotSent | NoAnswer:
        if not isinstance(reply, Reply):
            return reply
        refused = refusal(reply, self._client.language)
        if refused is not None:
            return refused
        try:
            return json_object(reply.body)
        except BadReplyError as error:
            return NoAnswer(f"HTTP {reply.status}: {error}")

    async def _back_off(self, number: int) -> None:
        if number:
            await self._client.clock.sleep(random.uniform(0.25, 1.0) * 2.0 ** (number - 1))  # noqa: S311 - jitter # nosec B311
