"""Types shared by the client's parts: a raw reply, the rate gate, the transport, and the error of a failed call."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias
from urllib.parse import quote

from batch.errors import EndReason, ExitCode, RunStoppedError
from batch.model import CallKind
from batch.zstack.answers import ErrorClass, NoAnswer, NotSent, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_PAUSE = 900.0
"""Seconds: a longer Retry-After is cut to this."""


class RateGate(Protocol):
    """The rate limiter that every call waits at; the engine owns it."""

    async def wait(self, kind: CallKind, job_uuid: str = "") -> bool:
        """Return True when the call may be made; False when the run is stopping: then it must not be made.

        ``job_uuid``: the job of a poll.
        """

    def pause(self, seconds: float) -> None:
        """Let no call pass for ``seconds`` from now."""

    def slow_down(self) -> bool:
        """Handle a refusal of the server's own rate limiter; return whether the call may be repeated."""


class NoRateGate:
    """A gate without a rate, for single queries outside a run."""

    async def wait(self, kind: CallKind, job_uuid: str = "") -> bool:  # noqa: ARG002 - all are alike here
        """Pass immediately."""
        return True

    def pause(self, seconds: float) -> None:
        """Do nothing: the caller decides, as there are no other calls to hold back."""

    def slow_down(self) -> bool:
        """Let the caller decide when it repeats the call."""
        return False


class HttpReply(NamedTuple):
    """One whole HTTP answer, with its content encoding decoded and within the size limit."""

    status: int
    body: bytes
    date: str | None = None
    """The Date header as received."""
    retry_after: str | None = None
    """The Retry-After header as received."""

    @property
    def text(self) -> str:
        """Return the body as text; bytes that are not UTF-8 are shown as escapes."""
        return self.body.decode("utf-8", "backslashreplace")


Outcome: TypeAlias = HttpReply | NotSent | NoAnswer
"""Result of one HTTP call."""


class Transport(Protocol):
    """The network as the client uses it: one endpoint, every call through the gate, no exception for its failures."""

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
        """Make one call; ``path`` starts with /v1, percent-encoded; NotSent where its wait at the gate was cut."""

    async def close(self) -> None:
        """Close all connections."""


class HttpCall(Protocol):
    """One HTTP call through the gate; it never raises for failures of network or server."""

    async def __call__(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        kind: CallKind = CallKind.QUESTION,
    ) -> Outcome:
        """Make one call; ``path`` starts with /v1 and is percent-encoded, with its query."""


NOT_ADMITTED: Final = NotSent("the run is stopping", is_held_back=True)
"""Result of a call whose wait at the gate was cut."""


class CallFailedError(RunStoppedError):
    """A call to ZStack failed; ``answer`` is its result."""

    def __init__(self, what: str, answer: Refused | NotSent | NoAnswer) -> None:
        """Name the call in ``what``, such as "query of model services"."""
        is_denied = isinstance(answer, Refused) and answer.error.error_class in {ErrorClass.PERMANENT, ErrorClass.FATAL}
        super().__init__(f"{what}: {reason_of(answer)}", EndReason.DENIED if is_denied else EndReason.OUTAGE)
        self.exit_code = ExitCode.FAILED if is_denied else self.exit_code
        self.answer = answer


def reason_of(answer: Refused | NotSent | NoAnswer) -> str:
    """Return the reason in one line for the operator."""
    return str(answer.error) if isinstance(answer, Refused) else answer.reason


def http_date(value: str | None) -> float | None:
    """Return an HTTP date in seconds since the epoch; None where it is invalid."""
    if value is None:
        return None
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None


def requested_pause(reply: HttpReply, now: float) -> float | None:
    """Return the seconds after which the answer asks to retry, at most LONGEST_PAUSE; None where it asks for none.

    A date counts from the server's own Date header, so that clock differences do not matter; ``now`` (seconds since the
    epoch) is used where there is none.
    """
    asked = (reply.retry_after or "").strip()
    seconds = float(asked[:12]) if asked.isascii() and asked.isdigit() else None
    if seconds is None:
        until, server_now = http_date(asked), http_date(reply.date)
        seconds = 0.0 if until is None else until - (now if server_now is None else server_now)
    return min(seconds, LONGEST_PAUSE) if seconds > 0 else None


def segment(uuid: str) -> str:
    """Return a uuid as one escaped path segment. Raises ValueError for an empty one: that is another API."""
    if not uuid:
        raise ValueError("a uuid must not be empty")
    if uuid.isascii() and uuid.isalnum():
        return uuid
    return quote(uuid, safe="").replace(".", "%2E")
