"""The client: the engine's Api over one endpoint, which renews its credentials itself.

``connect`` creates one, ``preflight`` checks before anything is sent that it can work, ``close`` leaves no session
behind. Answers are values; only errors of zclone are raised.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Self

from batch.clock import SystemClock
from batch.errors import UnreachableError
from batch.model import CallKind
from batch.redaction import Secrets
from batch.zstack.accesskey import ACTIONS_PATH, AccessKey
from batch.zstack.answers import Done, ErrorClass, NoAnswer, NotSent, Refused, Unknown
from batch.zstack.auth import NOT_READY, PREFLIGHT_TRIES, Access, GivenSession, PasswordLogin
from batch.zstack.classify import from_http, is_skew, is_unread_date
from batch.zstack.client_http import Http
from batch.zstack.replies import read_find, read_poll, read_refusal, read_submit, read_version
from batch.zstack.settings import AccessKeyAuth, PasswordAuth, transport_warnings
from batch.zstack.wire import (
    BadReplyError,
    HttpReply,
    NoRateGate,
    Outcome,
    requested_pause,
    segment,
    without_job_uuid,
    without_secrets,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from batch.clock import Clock
    from batch.model import Clone
    from batch.zstack.answers import FindAnswer, PollAnswer, SubmitAnswer
    from batch.zstack.classify import Language
    from batch.zstack.params import Version
    from batch.zstack.settings import Auth, Settings
    from batch.zstack.wire import RateGate, Transport

SERVICES_PATH: Final = "/v1/ai/model-services"
JOBS_PATH: Final = "/v1/api-jobs"
_LANGUAGES: Final = {"en": "en-US", "zh": "zh-CN"}
"""Newer servers return errors in the caller's language, at polls too (zstack/README.md 11)."""
_MAX_REMEMBERED_JOBS: Final = 65536
_OVER_LIMIT: Final = "Rate limit exceeded"
"""Text of the server's own limiter, which answers first of all; any other 429 is a proxy's (zstack/README.md 11)."""
_LIMIT_TRIES: Final = 20
"""Tries of a repeatable call while that limiter refuses it; the gate's pauses come between."""


async def connect(
    settings: Settings,
    *,
    gate: RateGate | None = None,
    clock: Clock | None = None,
    language: Language = "en",
    secrets: Secrets | None = None,
) -> Client:
    """Return a client in the running event loop; nothing is sent yet. Raises UsageError for an invalid CA file.

    ``secrets`` receives the credentials and every session that is opened, so that its owner redacts them too.
    """
    return Client(settings, gate=gate or NoRateGate(), clock=clock or SystemClock(), language=language, secrets=secrets)


class Client:
    """Implements ``batch.engine.ports.Api``. ``warnings`` are for the operator and the manifest, without secrets."""

    def __init__(
        self,
        settings: Settings,
        *,
        gate: RateGate,
        clock: Clock,
        language: Language,
        http: Transport | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        """Use ``connect`` instead; ``http`` replaces the network."""
        self.url = settings.url
        self.version: Version | None = None
        self.warnings: tuple[str, ...] = transport_warnings(settings)
        self.language: Language = language
        self.clock = clock
        self.web_hook: str | None = None
        """The URL to which the server is asked to report the end of each clone's job."""
        self._gate = gate
        self._http: Transport = http or Http(settings, gate)
        self._access = self._make_access(settings.auth)
        self._secrets = Secrets() if secrets is None else secrets
        if isinstance(settings.auth, AccessKeyAuth):
            self._secrets.add_key_id(settings.auth.key_id)
        self._opened_under: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def preflight(self) -> None:
        """Reach the server, read its version, check the credentials. Raises UnreachableError; nothing was cloned."""
        await self._ask_version()
        self.warnings += await self._access.open()

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        """POST /v1/ai/model-services/{source} with ``job_uuid`` as X-Job-UUID (zstack/README.md 4)."""
        generation = self._access.generation
        named = {"X-Job-UUID": job_uuid} | ({} if self.web_hook is None else {"X-Web-Hook": self.web_hook})
        # Before the POST: where its answer is lost, the job may end because this very session was dead.
        self._remember(job_uuid, generation)
        reply = await self.call_authorised(
            "POST",
            f"{SERVICES_PATH}/{segment(clone.source_uuid)}",
            body=clone.body,
            headers=named,
            kind=CallKind.CLONE,
        )
        if not isinstance(reply, HttpReply):
            return reply
        answer = read_submit(reply, job_uuid, self.language)
        if _is_dead_session(answer):
            self._access.mark_expired(generation)
        if isinstance(answer, Done):
            del self._opened_under[job_uuid]
        return without_job_uuid(answer, job_uuid)

    async def poll(self, job_uuid: str) -> PollAnswer:
        """GET /v1/api-jobs/{job_uuid}: needs no credentials and so carries none (zstack/README.md 6)."""
        path = f"{JOBS_PATH}/{segment(job_uuid)}"
        reply = await self.call("GET", path, kind=CallKind.POLL, job_uuid=job_uuid)
        if not isinstance(reply, HttpReply):
            return reply
        answer = read_poll(reply, self.language)
        if isinstance(answer, Done | Refused | Unknown):
            generation = self._opened_under.pop(job_uuid, -1)
            if _is_dead_session(answer):
                self._access.mark_expired(generation)
        return without_job_uuid(answer, job_uuid)

    async def find(self, resource_uuid: str) -> FindAnswer:
        """GET /v1/ai/model-services/{resource_uuid} (zstack/README.md 8); renews a dead session itself."""
        answer = await self._find(resource_uuid)
        if _is_dead_session(answer):
            await self._access.renew()
            answer = await self._find(resource_uuid)
        return answer

    async def _find(self, resource_uuid: str) -> FindAnswer:
        generation = self._access.generation
        reply = await self.call_authorised("GET", f"{SERVICES_PATH}/{segment(resource_uuid)}")
        answer = read_find(reply, resource_uuid, self.language) if isinstance(reply, HttpReply) else reply
        if _is_dead_session(answer):
            self._access.mark_expired(generation)
        return answer

    async def renew(self) -> None:
        """Log in again where the present session is known to be dead, once for all callers.

        Raises RunStoppedError where that fails: no password, a refused one, or sessions that end each other.
        """
        await self._access.renew()

    @property
    def generation(self) -> int:
        """Number of the session in use; ``replace_session`` takes the one that a refused call was made with."""
        return self._access.generation

    async def replace_session(self, generation: int) -> None:
        """Replace the session of that number if it is still in use. Raises RunStoppedError where that fails."""
        self._access.mark_expired(generation)
        await self._access.renew()

    async def close(self) -> None:
        """Log out of a session of our own, then close the connections; failures are added to ``warnings``."""
        try:
            warning = await self._access.close()
            self.warnings += () if warning is None else (warning,)
        finally:
            await self._http.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        kind: CallKind = CallKind.QUESTION,
        job_uuid: str = "",
    ) -> Outcome:
        """Make one call with no credentials but those in ``headers``; answers that ask for a pause pause the gate."""
        spoken = {"Accept-Language": _LANGUAGES[self.language], **(headers or {})}
        sign = (headers or {}).get("Authorization", "")
        # The engine repeats POSTs itself: its records have the time of each.
        left = 0 if kind in {CallKind.CLONE, CallKind.LOGOUT} else _LIMIT_TRIES
        while True:
            reply = await self._http.call(method, path, body=body, headers=spoken, kind=kind, job_uuid=job_uuid)
            outcome = self._redact_and_handle_limits(reply, sign)
            if not (isinstance(outcome, NotSent) and outcome.is_over_limit):
                return outcome
            if not self._gate.slow_down() or not left:
                return outcome
            left -= 1

    async def call_authorised(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        kind: CallKind = CallKind.QUESTION,
    ) -> Outcome:
        """Make one call with credentials.

        A call refused for the date of its signature was not executed and is signed again, once.
        """
        more, sign = headers or {}, self._access.headers
        call = partial(self.call, method, path, body=body, kind=kind)
        reply = await call(headers={**sign(method, path), **more})
        if not isinstance(reply, HttpReply) or not (
            is_skew(reply.status, reply.text) or is_unread_date(reply.status, reply.text)
        ):
            return reply
        failure = await self._access.resync()
        if failure is None:
            return await call(headers={**sign(method, path), **more})
        return reply._replace(body=reply.body + f"; {failure}".encode()) if failure else reply

    async def _ask_version(self) -> None:
        answer = await self._get_version()
        for number in range(1, PREFLIGHT_TRIES):
            if not isinstance(answer, NoAnswer):
                break
            await self.clock.sleep(float(number))
            answer = await self._get_version()
        if isinstance(answer, NotSent | NoAnswer):
            raise UnreachableError(f"cannot reach ZStack at {self.url}: {answer.reason}")
        if isinstance(answer, Refused) and answer.error.error_class in NOT_READY:
            raise UnreachableError(f"ZStack at {self.url} is not ready: {answer.error.code}: {answer.error.text}")
        # An account without GetVersion may work otherwise: the credentials' probe shows that.
        try:
            self.version = read_version(answer) if isinstance(answer, HttpReply) else None
        except BadReplyError as error:
            raise UnreachableError(f"no ZStack server at {self.url}: {error}") from None

    async def _get_version(self) -> HttpReply | Refused | NotSent | NoAnswer:
        reply = await self.call("PUT", ACTIONS_PATH, body=b'{"getVersion":{}}')
        if not isinstance(reply, HttpReply):
            return reply
        if reply.status == 404:
            return Refused(from_http(404, reply.text, self.language))
        return read_refusal(reply, self.language) or reply

    def _make_access(self, auth: Auth) -> Access:
        if isinstance(auth, PasswordAuth):
            return PasswordLogin(auth, self.call, self.clock, self.language)
        if isinstance(auth, AccessKeyAuth):
            return AccessKey(auth, self.call, self.clock, self.language)
        return GivenSession(auth, self.call, self.clock, self.language)

    def _remember(self, job_uuid: str, generation: int) -> None:
        """Remember the session that a job was sent with: its end shows at the poll, when another may be in use."""
        self._opened_under[job_uuid] = generation
        if len(self._opened_under) > _MAX_REMEMBERED_JOBS:
            del self._opened_under[next(iter(self._opened_under))]

    def _redact_and_handle_limits(self, reply: Outcome, authorization: str) -> Outcome:
        """Redact an answer, and pause the gate where it asks for that."""
        self._secrets.add_all(self._access.secrets)
        if not isinstance(reply, HttpReply):
            return reply
        reply = without_secrets(reply, self._secrets, authorization=authorization)
        if reply.status == 429 and reply.text.strip() == _OVER_LIMIT:
            return NotSent(f"HTTP 429: {_OVER_LIMIT}", is_over_limit=True)
        if reply.status in {429, 503} and reply.retry_after is not None:
            return self._handle_retry_after(reply)
        return reply

    def _handle_retry_after(self, reply: HttpReply) -> Outcome:
        if reply.status == 503 and isinstance(read_refusal(reply, self.language), Refused):
            return reply
        seconds = requested_pause(reply, self.clock.time())
        if seconds is not None:
            self._gate.pause(seconds)
        return NoAnswer(f"HTTP {reply.status}: asked to retry later", seconds, is_push_back=True)


def _is_dead_session(answer: object) -> bool:
    return isinstance(answer, Refused) and answer.error.error_class is ErrorClass.RENEW
