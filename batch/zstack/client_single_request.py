"""Makes aiohttp send each call as exactly one request, and maps its errors to answers.

aiohttp's session repeats GET, PUT and DELETE after a lost connection; a client middleware turns the errors that trigger
this into an exception of ours. The same middleware counts how often a request is resumed between its head and its
answer's: it rejects more than ten interim answers, which aiohttp skips, and an answer that arrived before its request,
which a kept connection would otherwise return for the next one.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from batch.zstack.answers import NoAnswer, NotSent
from batch.zstack.classify import safe_text
from batch.zstack.wire import BadReplyError

if TYPE_CHECKING:
    from collections.abc import Generator

LONGEST_LINE: Final = 64 * 1024
"""Maximum bytes of one line of an answer's head."""
_MAX_INTERIM: Final = 10
"""Maximum arrivals of interim answers (status 1xx) before the final one."""


class NoReplyError(Exception):
    """A request ended without a reply; ``outcome`` is the result of its call."""

    def __init__(self, outcome: NotSent | NoAnswer) -> None:
        """Keep ``outcome`` for the caller."""
        super().__init__(outcome.reason)
        self.outcome = outcome


class SingleRequest:
    """aiohttp client middleware for one request: it is sent once, and its answer follows it.

    aiohttp sends GET, PUT and DELETE a second time after two errors of its own; they are replaced here. It skips
    interim answers silently, and takes data that a kept connection received early for the answer. Both show in how
    often the request is resumed once its head is sent: once more for each arrival of interim answers, or never.
    """

    def __init__(self) -> None:
        """Create one for each request, and pass it as ``trace_request_ctx`` too."""
        self.resumed: int | None = None
        """None until the head of the request is sent."""

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send ``request``. Raises NoReplyError or BadReplyError where no answer of its own came back."""
        try:
            response = await self._watch(handler(request).__await__())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NoReplyError(NotSent(_not_sent(error))) from None
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise NoReplyError(no_answer(error)) from None
        if not self.resumed:
            response.close()
            raise BadReplyError("the server sent an answer before the request")
        return response

    @types.coroutine
    def _watch(self, steps: Generator[Any, Any, aiohttp.ClientResponse]) -> Generator[Any, Any, aiohttp.ClientResponse]:
        """Await ``steps``, counting resumptions. Raises BadReplyError after too many interim answers."""
        try:
            awaited = next(steps)
            while True:
                try:
                    yield awaited
                    self._count()
                except BaseException as error:  # noqa: BLE001 - a cancellation is thrown into the request as well
                    awaited = steps.throw(error)
                else:
                    awaited = next(steps)
        except StopIteration as end:
            response: aiohttp.ClientResponse = end.value
            return response

    def _count(self) -> None:
        if self.resumed is not None:
            self.resumed += 1
            # The last one is the final answer's own.
            if self.resumed > _MAX_INTERIM + 1:
                raise BadReplyError(f"the server sent more than {_MAX_INTERIM} interim answers")


async def start_watch(
    _session: aiohttp.ClientSession, context: types.SimpleNamespace, _sent: aiohttp.TraceRequestHeadersSentParams
) -> None:
    """Start to count: aiohttp's trace signal ``on_request_headers_sent``."""
    context.trace_request_ctx.resumed = 0


def _not_sent(error: Exception) -> str:
    """Return the reason without what aiohttp's own text may contain."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "") or "not valid"
        return safe_text(f"the server's certificate was rejected: {reason}", 300)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "the TLS handshake failed: is the endpoint https, with TLS 1.2 or later?"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return safe_text(f"the endpoint's name cannot be resolved: {error.strerror or error.os_error}", 300)
    if isinstance(error, aiohttp.ClientConnectorError):
        return safe_text(f"cannot connect: {error.strerror}", 300)
    return "cannot connect in time" if isinstance(error, TimeoutError) else "cannot connect"


def no_answer(error: Exception) -> NoAnswer:
    """Return the result of a request whose connection was open, without what aiohttp's own text may contain."""
    if isinstance(error, TimeoutError):
        return NoAnswer("no answer in time", is_push_back=True)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return NoAnswer("the server closed the connection without an answer")
    if isinstance(error, aiohttp.ClientPayloadError):
        return NoAnswer("the answer was cut off")
    if isinstance(error, aiohttp.ClientResponseError):
        return NoAnswer(f"the answer is not HTTP, or has a line of more than {LONGEST_LINE:,} bytes in its head")
    return NoAnswer(f"the connection was lost ({type(error).__name__})")
