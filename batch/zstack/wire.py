"""What passes between the client's parts: a reply as it came, the rate's gate, time, and the error of a failed call."""

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
    """Where every call waits for the rate; the engine owns it."""

    async def wait(self, kind: CallKind, job_uuid: str = "") -> bool:
        """Return True when the call may be made; False when the run was asked to end: then it must not be made.

        ``job_uuid``: of a poll's job.
        """

    def pause(self, seconds: float) -> None:
        """Let no call pass for ``seconds`` from now."""

    def slow_down(self) -> bool:
        """Take in that the server's own rate limiter refused a call; whether it may be made again at its next turn."""


class NoRateGate:
    """A gate without a rate, for single questions outside a run."""

    async def wait(self, kind: CallKind, job_uuid: str = "") -> bool:  # noqa: ARG002 - all are alike here
        """Pass at once."""
        return True

    def pause(self, seconds: float) -> None:
        """Let the caller decide: there is nobody else to hold back."""

    def slow_down(self) -> bool:
        """Let the caller decide when it calls again."""
        return False


class Reply(NamedTuple):
    """One whole HTTP answer, decoded from its content encoding and within the size limit."""

    status: int
    body: bytes
    date: str | None = None
    """The Date header as it came."""
    retry_after: str | None = None
    """The Retry-After header as it came."""

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 are shown as escapes."""
        return self.body.decode("utf-8", "backslashreplace")


Outcome: TypeAlias = Reply | NotSent | NoAnswer
"""What one HTTP call comes to."""


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
        """``path`` starts with /v1 and is percent-encoded; NotSent where the wait for the turn of ``kind`` was cut."""

    async def close(self) -> None:
        """Close what is open."""


class HttpCall(Protocol):
    """One HTTP call through the gate; it never raises for what a network or server does."""

    async def __call__(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        kind: CallKind = CallKind.QUESTION,
    ) -> Outcome:
        """``path`` starts with /v1 and is percent-encoded, with its query."""


NOT_ADMITTED: Final = NotSent("the run was asked to end", is_held_back=True)
"""What a call comes to whose wait at the gate was cut."""


class CallFailedError(RunStoppedError):
    """A question to ZStack came to nothing; ``answer`` says how."""

    def __init__(self, what: str, answer: Refused | NotSent | NoAnswer) -> None:
        """Name the question in ``what``, such as "query of model services"."""
        is_denied = isinstance(answer, Refused) and answer.error.error_class in {ErrorClass.PERMANENT, ErrorClass.FATAL}
        super().__init__(f"{what}: {reason_of(answer)}", EndReason.DENIED if is_denied else EndReason.OUTAGE)
        self.exit_code = ExitCode.FAILED if is_denied else self.exit_code
        self.answer = answer


def reason_of(answer: Refused | NotSent | NoAnswer) -> str:
    """One line for the operator."""
    return str(answer.error) if isinstance(answer, Refused) else answer.reason


def http_date(value: str | None) -> float | None:
    """Seconds since the epoch of an HTTP date; None where it is none."""
    if value is None:
        return None
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None


def pause_asked(reply: Reply, now: float) -> float | None:
    """Seconds the answer asks to stay away, at most LONGEST_PAUSE; None where it asks for nothing usable.

    A date counts from the server's own Date header, so that clocks that differ do not matter; ``now`` (seconds since
    the epoch) serves where there is none.
    """
    asked = (reply.retry_after or "").strip()
    seconds = float(asked[:12]) if asked.isascii() and asked.isdigit() else None
    if seconds is None:
        until, server_now = http_date(asked), http_date(reply.date)
        seconds = 0.0 if until is None else until - (now if server_now is None else server_now)
    return min(seconds, LONGEST_PAUSE) if seconds > 0 else None


def segment(uuid: str) -> str:
    """Make one path segment of a uuid, whatever it holds. Raises ValueError for an empty one: that is another API."""
    if not uuid:
        raise ValueError("a uuid must not be empty")
    if uuid.isascii() and uuid.isalnum():
        return uuid
    return quote(uuid, safe="").replace(".", "%2E")
