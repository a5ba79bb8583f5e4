"""Credentials: an existing session, a session opened with a password, or an AccessKey that signs each request.

All three implement one Protocol: the headers of a call, the reaction to an ended session, and the close. Source:
zstack/README.md 2.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from batch import jsoncodec
from batch.errors import CallCutError, LoginLostError, UnreachableError, ZcloneError
from batch.jsoncodec import as_object, as_text
from batch.model import CallKind
from batch.zstack.answers import ErrorClass, NoAnswer, NotSent, Refused, is_cut
from batch.zstack.replies import read_find, read_refusal
from batch.zstack.wire import BadReplyError, HttpReply, json_object, reason_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from batch.clock import Clock
    from batch.zstack.answers import FindAnswer
    from batch.zstack.classify import Language
    from batch.zstack.settings import PasswordAuth, SessionAuth
    from batch.zstack.wire import HttpCall

LOGIN_PATH: Final = "/v1/accounts/login"
SESSIONS_PATH: Final = "/v1/accounts/sessions"
PROBE_UUID: Final = "0" * 32
PROBE_PATH: Final = f"/v1/ai/model-services/{PROBE_UUID}"
"""The cheapest authorised call, and the same that looks for clones: an empty list is a good answer."""
SHORT_SESSION: Final = 60.0
"""Seconds: a session that ended sooner was ended by others."""
MAX_SHORT_SESSIONS: Final = 3
"""Number of consecutive short sessions that stops a run."""
PREFLIGHT_TRIES: Final = 3
NOT_READY: Final = frozenset({ErrorClass.TRANSIENT, ErrorClass.NODE})
"""Classes of refusals that say nothing about the credentials."""
_ENDED_BY_OTHERS: Final = (
    f"sessions in a row ended within {SHORT_SESSION:.0f} s: something else logs in with this account and the server "
    "allows one session per user (enable.unique.session); use an account of its own for each run, or an AccessKey"
)
_FIRST_LOGIN_TRIES: Final = 4
"""Fewer than for a password that worked before: a lost answer may have been a refusal, and refusals lock accounts."""
_LOGIN_TRIES: Final = 5
_LOGOUT_TIME: Final = 10.0


class Access(Protocol):
    """Authorises calls."""

    @property
    def generation(self) -> int:
        """Number of the present session; incremented by each login."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must never be shown although they are sent."""

    def headers(self, method: str, path: str) -> Mapping[str, str]:
        """Return the headers of one call; ``path`` starts with /v1."""

    async def open(self) -> tuple[str, ...]:
        """Check that the credentials work; return warnings. Raises UnreachableError."""

    def mark_expired(self, generation: int) -> None:
        """Record that the server reported this generation's session as dead."""

    async def renew(self) -> None:
        """Replace the session if it is dead, once for all callers. Raises RunStoppedError where that fails."""

    async def resync(self) -> str | None:
        """After a refusal for the request's date determine the server's time again; return None where that may help.

        Otherwise return the reason for the operator; empty where there is none.
        """

    async def close(self) -> str | None:
        """Leave no session behind; return a warning where that failed."""


@dataclass(frozen=True, slots=True)
class _Session:
    """A session and when it was opened, by the monotonic clock."""

    uuid: str
    at: float


class GivenSession:
    """An existing session, not opened by zclone: it cannot be renewed and is not closed."""

    generation = 0

    def __init__(self, auth: SessionAuth, send: HttpCall, clock: Clock, language: Language) -> None:
        """Prepare the header."""
        self._clock = clock
        self._headers = {"Authorization": f"OAuth {auth.uuid}"}
        self._send = send
        self._language = language
        self._is_dead = False
        self.secrets = (auth.uuid,)

    def headers(self, method: str, path: str) -> Mapping[str, str]:  # noqa: ARG002 - the same for every call
        """Return the headers of one call."""
        return self._headers

    async def open(self) -> tuple[str, ...]:
        """Query a resource that does not exist: that needs a live session."""
        return await check_access(self._probe, self._clock)

    async def _probe(self) -> FindAnswer:
        return await probe(self._send, self._headers, self._language)

    def mark_expired(self, generation: int) -> None:
        """Record the end."""
        self._is_dead = self._is_dead or generation == self.generation

    async def renew(self) -> None:
        """Raise RunStoppedError where the session is dead."""
        if self._is_dead:
            raise LoginLostError(
                "the session ended: set ZSTACK_SESSION_ID to a new one and run again, or use an account or an "
                "AccessKey, which last for the whole run"
            )

    async def resync(self) -> str | None:
        """Return the empty reason: no date is sent."""
        return ""

    async def close(self) -> str | None:
        """Leave the session to its owner."""
        return None


class PasswordLogin:
    """One session for all workers, opened with account and password, and closed at the end.

    At most one login is in flight. An unanswered login is repeated after 2, 4 and 8 s, for a session that ended also
    after 16 s. A refused login is never repeated: a second wrong password may lock the account.
    """

    def __init__(self, auth: PasswordAuth, send: HttpCall, clock: Clock, language: Language) -> None:
        """Prepare; nothing is sent yet."""
        digest = hashlib.sha512(auth.password.encode()).hexdigest()
        credentials = {"accountName": auth.account, "password": digest}
        self._body = jsoncodec.encode({"logInByAccount": credentials}).encode()
        self._send = send
        self._clock = clock
        self._language = language
        self._session: _Session | None = None
        self._dead = 0
        self._short_sessions = 0
        self._is_disturbed = False
        self._refused: ZcloneError | None = None
        self._task: asyncio.Task[None] | None = None
        self.generation = 0
        self._digest = digest
        self._password = auth.password

    @property
    def secrets(self) -> tuple[str, ...]:
        """The password, its digest (equivalent to the password) and the session."""
        session = () if self._session is None else (self._session.uuid,)
        return (self._password, self._digest, *session)

    def headers(self, method: str, path: str) -> Mapping[str, str]:  # noqa: ARG002 - the same for every call
        """Return the headers of one call."""
        return {} if self._session is None else {"Authorization": f"OAuth {self._session.uuid}"}

    async def open(self) -> tuple[str, ...]:
        """Log in for the first time."""
        await self._single_flight(tries=_FIRST_LOGIN_TRIES, error=UnreachableError)
        return ()

    def mark_expired(self, generation: int) -> None:
        """Record the end of a session."""
        self._dead = max(self._dead, generation)

    async def renew(self) -> None:
        """Log in again where the present session is dead."""
        if self._dead >= self.generation or self._task is not None:
            await self._single_flight(tries=_LOGIN_TRIES, error=LoginLostError)

    async def resync(self) -> str | None:
        """Return the empty reason: no date is sent."""
        return ""

    async def close(self) -> str | None:
        """Log out; warn also of sessions that others ended, where the run succeeded."""
        ended = _ENDED_BY_OTHERS if self._is_disturbed else None
        return "; ".join(filter(None, (ended, await self._log_out()))) or None

    async def _log_out(self) -> str | None:
        """Close the session: the server keeps an unclosed one for two hours, and 500 of them per user."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_LOGOUT_TIME)
        if self._session is None:
            return None
        path = f"{SESSIONS_PATH}/{self._session.uuid}"
        self._session = None
        try:
            async with asyncio.timeout(_LOGOUT_TIME):
                reply = await self._send("DELETE", path, kind=CallKind.LOGOUT)
        except TimeoutError:
            reply = NoAnswer("no answer in time")
        if isinstance(reply, HttpReply) and reply.status == 200:
            return None
        reason = f"HTTP {reply.status}" if isinstance(reply, HttpReply) else reply.reason
        return f"could not log out ({reason}): the session stays open on the server for up to two hours"

    async def _single_flight(self, *, tries: int, error: type[ZcloneError]) -> None:
        if self._refused is not None:
            raise self._refused
        if self._task is None:
            self._task = asyncio.create_task(self._login(tries, error))
            self._task.add_done_callback(self._login_ended)
        # A cancelled caller must not cancel the login of all others.
        await asyncio.shield(self._task)

    def _login_ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and isinstance(failure := task.exception(), ZcloneError):
            self._refused = failure

    async def _login(self, tries: int, error: type[ZcloneError]) -> None:
        self._check_age()
        reason = ""
        for number in range(tries):
            if number:
                await self._clock.sleep(2.0**number)
            answer = await self._try_login()
            if isinstance(answer, str):
                self._session = _Session(answer, self._clock.monotonic())
                self.generation += 1
                return
            reason = reason_of(answer)
            if is_cut(answer):
                raise CallCutError(reason)
            if isinstance(answer, Refused) and answer.error.error_class not in NOT_READY:
                break
        raise error(f"the login failed: {reason}")

    async def _try_login(self) -> str | Refused | NotSent | NoAnswer:
        reply = await self._send("PUT", LOGIN_PATH, body=self._body, kind=CallKind.LOGIN)
        if not isinstance(reply, HttpReply):
            return reply
        refused = read_refusal(reply, self._language)
        if refused is not None:
            return refused
        try:
            inventory = as_object(json_object(reply.body).get("inventory")) or {}
        except BadReplyError as error:
            return NoAnswer(f"HTTP {reply.status}: {error}")
        uuid = as_text(inventory.get("uuid")) or ""
        is_token = uuid.isascii() and uuid.isalnum()
        return uuid if is_token else NoAnswer("the login's answer has no session")

    def _check_age(self) -> None:
        if self._session is None:
            return
        age = self._clock.monotonic() - self._session.at
        self._short_sessions = self._short_sessions + 1 if age < SHORT_SESSION else 0
        self._is_disturbed = self._is_disturbed or self._short_sessions > 1
        if self._short_sessions >= MAX_SHORT_SESSIONS:
            raise LoginLostError(_ENDED_BY_OTHERS)


async def probe(send: HttpCall, headers: Mapping[str, str], language: Language) -> FindAnswer:
    """Make the probe call."""
    reply = await send("GET", PROBE_PATH, headers=headers)
    return read_find(reply, PROBE_UUID, language) if isinstance(reply, HttpReply) else reply


async def check_access(ask: Callable[[], Awaitable[FindAnswer]], clock: Clock) -> tuple[str, ...]:
    """Probe, repeatedly where there is no answer; return warnings.

    Raises UnreachableError for wrong credentials.
    """
    answer = await ask()
    for number in range(1, PREFLIGHT_TRIES):
        if not isinstance(answer, NoAnswer):
            break
        await clock.sleep(float(number))
        answer = await ask()
    if isinstance(answer, NotSent | NoAnswer):
        raise UnreachableError(f"ZStack does not answer: {answer.reason}")
    if isinstance(answer, Refused) and answer.error.error_class is ErrorClass.PERMANENT:
        return (f"this account cannot query model services, so that lost answers stay uncertain: {reason_of(answer)}",)
    if isinstance(answer, Refused) and answer.error.error_class in NOT_READY:
        # Its hint says that it is retried, which a run does once it has begun.
        raise UnreachableError(f"ZStack is not ready: {answer.error.code}: {answer.error.text}")
    if isinstance(answer, Refused):
        raise UnreachableError(f"ZStack rejected the login: {reason_of(answer)}")
    return ()
