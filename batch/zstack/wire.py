"""What passes between the client's parts: a reply as it came, the rate's gate, time, and the error of a failed call."""

from __future__ import annotations

import asyncio
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from batch.errors import RunStoppedError
from batch.zstack.answers import NoAnswer, NotSent, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_PAUSE = 900.0
"""Seconds: a longer Retry-After is cut to this."""


class Gate(Protocol):
    """Where every call waits for the rate; the engine owns it."""

    async def wait(self) -> None:
        """Return when one more call may be made."""

    async def wait_to_send(self) -> bool:
        """Like ``wait`` for a POST that makes a clone; False when the run stopped sending."""

    def pause(self, seconds: float) -> None:
        """Let no call pass for ``seconds`` from now."""


class OpenGate:
    """A gate without a rate, for single questions outside a run."""

    async def wait(self) -> None:
        """Pass at once."""

    async def wait_to_send(self) -> bool:
        """Pass at once."""
        return True

    def pause(self, seconds: float) -> None:
        """Let the caller decide: there is nobody else to hold back."""


class Clock(Protocol):
    """Time, injected so that tests own it; seconds."""

    def time(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's clock."""

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


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
        sends_clone: bool = False,
    ) -> Outcome:
        """``path`` starts with /v1 and is percent-encoded; ``sends_clone`` gives way when the run stopped sending."""

    async def close(self) -> None:
        """Close what is open."""


class Send(Protocol):
    """One HTTP call through the gate; it never raises for what a network or server does."""

    async def __call__(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Outcome:
        """``path`` starts with /v1 and is percent-encoded, with its query."""


class CallFailedError(RunStoppedError):
    """A question to ZStack came to nothing; ``answer`` says how."""

    def __init__(self, what: str, answer: Refused | NotSent | NoAnswer) -> None:
        """Name the question in ``what``, such as "query of model services"."""
        super().__init__(f"{what}: {explain(answer)}")
        self.answer = answer


def explain(answer: Refused | NotSent | NoAnswer) -> str:
    """One line for the operator."""
    if not isinstance(answer, Refused):
        return answer.reason
    return f"{answer.error.code}: {answer.error.told}"


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
