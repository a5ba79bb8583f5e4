"""The client: the engine's Api over one endpoint, with credentials that look after themselves.

``connect`` makes one, ``preflight`` proves that it can work before anything is sent, ``close`` leaves the server as it
was found. Answers are values; the only errors raised are ours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import quote

from batch.errors import UnreachableError
from batch.zstack.accesskey import ACTIONS_PATH, AccessKey
from batch.zstack.answers import Done, ErrorClass, NoAnswer, NotSent, Refused, Unknown
from batch.zstack.auth import PREFLIGHT_TRIES, Access, GivenSession, PasswordLogin
from batch.zstack.classify import from_http, is_skew
from batch.zstack.client_http import Http
from batch.zstack.decode import BadReplyError, as_text, json_object
from batch.zstack.replies import found, polled, refusal, submitted
from batch.zstack.settings import AccessKeyAuth, PasswordAuth, transport_warnings
from batch.zstack.version import Version, parse_version
from batch.zstack.wire import OpenGate, Outcome, Reply, SystemClock, explain, pause_asked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from batch.model import Clone
    from batch.zstack.answers import FindAnswer, PollAnswer, SubmitAnswer
    from batch.zstack.classify import Language
    from batch.zstack.settings import Auth, Settings
    from batch.zstack.wire import Clock, Gate, Transport

SERVICES_PATH: Final = "/v1/ai/model-services"
JOBS_PATH: Final = "/v1/api-jobs"
_MOST_REMEMBERED: Final = 65536
_Answer = TypeVar("_Answer")


async def connect(
    settings: Settings,
    *,
    gate: Gate | None = None,
    clock: Clock | None = None,
    language: Language = "en",
) -> Client:
    """Make a client in the running event loop; nothing is sent yet. Raises UsageError for a CA file that is none."""
    return Client(settings, gate=gate or OpenGate(), clock=clock or SystemClock(), language=language)


class Client:
    """Implements ``batch.engine.ports.Api``. ``warnings`` are for the operator and the manifest, without secrets."""

    def __init__(
        self, settings: Settings, *, gate: Gate, clock: Clock, language: Language, http: Transport | None = None
    ) -> None:
        """Use ``connect``; ``http`` stands in for the network."""
        self.url = settings.url
        self.version: Version | None = None
        self.warnings: tuple[str, ...] = transport_warnings(settings)
        self.language: Language = language
        self.clock = clock
        self._gate = gate
        self._http: Transport = http or Http(settings, gate)
        self._access = self._make_access(settings.auth)
        self._opened_under: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def preflight(self) -> None:
        """Reach the server, learn its version, prove the credentials. Raises UnreachableError; nothing was cloned."""
        await self._ask_version()
        self.warnings += await self._access.open()

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        """POST /v1/ai/model-services/{source} with ``job_uuid`` as X-Job-UUID (wire: section 3)."""
        generation = self._access.generation
        reply = await self.authorised(
            "POST",
            f"{SERVICES_PATH}/{segment(clone.source_uuid)}",
            body=clone.body,
            headers={"X-Job-UUID": job_uuid},
            sends_clone=True,
        )
        if not isinstance(reply, Reply):
            return reply
        answer = submitted(reply, job_uuid, self.language)
        if _is_dead_session(answer):
            self._access.lost(generation)
        elif not isinstance(answer, Done):
            self._remember(job_uuid, generation)
        return _veiled(answer, job_uuid)

    async def poll(self, job_uuid: str) -> PollAnswer:
        """GET /v1/api-jobs/{job_uuid}: needs no credentials and so carries none (wire: section 4)."""
        reply = await self.plain("GET", f"{JOBS_PATH}/{segment(job_uuid)}")
        if not isinstance(reply, Reply):
            return reply
        answer = polled(reply, self.language)
        if isinstance(answer, Done | Refused | Unknown):
            generation = self._opened_under.pop(job_uuid, -1)
            if _is_dead_session(answer):
                self._access.lost(generation)
        return _veiled(answer, job_uuid)

    async def find(self, resource_uuid: str) -> FindAnswer:
        """GET /v1/ai/model-services/{resource_uuid} (wire: section 6); a dead session is renewed inside."""
        answer = await self._find(resource_uuid)
        if _is_dead_session(answer):
            await self._access.renew()
            answer = await self._find(resource_uuid)
        return answer

    async def _find(self, resource_uuid: str) -> FindAnswer:
        generation = self._access.generation
        reply = await self.authorised("GET", f"{SERVICES_PATH}/{segment(resource_uuid)}")
        answer = found(reply, resource_uuid, self.language) if isinstance(reply, Reply) else reply
        if _is_dead_session(answer):
            self._access.lost(generation)
        return answer

    async def renew(self) -> None:
        """Log in again where the present session is known to be dead, once for all callers.

        Raises RunStoppedError where it cannot: no password, a refused one, or sessions that end each other.
        """
        await self._access.renew()

    @property
    def generation(self) -> int:
        """Number of the session in use; ``replace_session`` wants the one a refused call was made with."""
        return self._access.generation

    async def replace_session(self, generation: int) -> None:
        """Replace the session of that number if it is still in use. Raises RunStoppedError where it cannot."""
        self._access.lost(generation)
        await self._access.renew()

    async def close(self) -> None:
        """Log out of a session of our own, then close the connections; what did not work joins ``warnings``."""
        try:
            warning = await self._access.close()
            self.warnings += () if warning is None else (warning,)
        finally:
            await self._http.close()

    async def plain(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        sends_clone: bool = False,
    ) -> Outcome:
        """One call without credentials of its own; answers that ask for a pause pause the gate."""
        return self._looked_at(await self._http.call(method, path, body=body, headers=headers, sends_clone=sends_clone))

    async def authorised(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        sends_clone: bool = False,
    ) -> Outcome:
        """One call with credentials. A signature refused for its date was not executed and is made anew, once."""
        more, sign = headers or {}, self._access.headers
        reply = self._looked_at(
            await self._http.call(
                method, path, body=body, headers={**sign(method, path), **more}, sends_clone=sends_clone
            )
        )
        if isinstance(reply, Reply) and reply.status == 403 and is_skew(reply.text) and await self._access.resync():
            return await self.plain(
                method, path, body=body, headers={**sign(method, path), **more}, sends_clone=sends_clone
            )
        return reply

    async def _ask_version(self) -> None:
        answer = await self._get_version()
        for number in range(1, PREFLIGHT_TRIES):
            if not isinstance(answer, NoAnswer):
                break
            await self.clock.sleep(float(number))
            answer = await self._get_version()
        if isinstance(answer, NotSent | NoAnswer):
            raise UnreachableError(f"cannot reach ZStack at {self.url}: {answer.reason}")
        if isinstance(answer, Refused) and answer.error.klass is ErrorClass.TRANSIENT:
            raise UnreachableError(f"ZStack at {self.url} is not ready: {explain(answer)}")
        # Whoever lacks GetVersion may be fine otherwise: the credentials' probe tells.
        self.version = self._version_of(answer) if isinstance(answer, Reply) else None

    async def _get_version(self) -> Reply | Refused | NotSent | NoAnswer:
        reply = await self.plain("PUT", ACTIONS_PATH, body=b'{"getVersion":{}}')
        if not isinstance(reply, Reply):
            return reply
        if reply.status == 404:
            return Refused(from_http(404, reply.text, self.language))
        return refusal(reply, self.language) or reply

    def _version_of(self, reply: Reply) -> Version | None:
        try:
            text = as_text(json_object(reply.body).get("version"))
        except BadReplyError as error:
            raise UnreachableError(f"no ZStack at {self.url}: {error}") from None
        return None if text is None else parse_version(text)

    def _make_access(self, auth: Auth) -> Access:
        if isinstance(auth, PasswordAuth):
            return PasswordLogin(auth, self.plain, self.clock, self.language)
        if isinstance(auth, AccessKeyAuth):
            return AccessKey(auth, self.plain, self.clock, self.language)
        return GivenSession(auth, self.plain, self.clock, self.language)

    def _remember(self, job_uuid: str, generation: int) -> None:
        """Which session a job was sent with: its end is told at the poll, when another may long be in use."""
        self._opened_under[job_uuid] = generation
        if len(self._opened_under) > _MOST_REMEMBERED:
            del self._opened_under[next(iter(self._opened_under))]

    def _looked_at(self, reply: Outcome) -> Outcome:
        """Redact an answer, and pause the gate where it asks for that."""
        if not isinstance(reply, Reply):
            return reply
        reply = self._redacted(reply)
        if reply.status in {429, 503} and reply.retry_after is not None:
            return self._paused(reply)
        return reply

    def _redacted(self, reply: Reply) -> Reply:
        """Blank our own secrets in error texts: a server may quote what it was sent."""
        body = reply.body
        if reply.status < 400 and b'"error"' not in body:
            return reply
        for secret in self._access.secrets:
            body = body.replace(secret.encode(), b"***") if secret else body
        return reply if body is reply.body else reply._replace(body=body)

    def _paused(self, reply: Reply) -> Outcome:
        if reply.status == 503 and isinstance(refusal(reply, self.language), Refused):
            return reply
        seconds = pause_asked(reply, self.clock.time())
        if seconds is not None:
            self._gate.pause(seconds)
        return NoAnswer(f"HTTP {reply.status}: asked to come back later", seconds, is_push_back=True)


def segment(uuid: str) -> str:
    """Make one path segment of a uuid, whatever it holds. Raises ValueError for an empty one: that is another API."""
    if not uuid:
        raise ValueError("a uuid must not be empty")
    if uuid.isascii() and uuid.isalnum():
        return uuid
    return quote(uuid, safe="").replace(".", "%2E")


def _veiled(answer: _Answer, job_uuid: str) -> _Answer:
    """Shorten the job's uuid in a refusal's text: whoever reads it in a log could ask for the job's result."""
    if not isinstance(answer, Refused):
        return answer
    return replace(answer, error=replace(answer.error, text=answer.error.text.replace(job_uuid, f"{job_uuid[:8]}…")))


def _is_dead_session(answer: object) -> bool:
    return isinstance(answer, Refused) and answer.error.klass is ErrorClass.RENEW
