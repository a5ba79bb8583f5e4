"""The raw reply of the server, decoded strictly and without our own secrets, and what the client's parts share.

These are the rate gate, the transport, and the error of a failed call. Secrets are searched in decoded texts, before
anything is cut, as a server may quote the request, escaped in any way that JSON allows. Everything else is kept: the
login's answer has the session, and names are compared with the requested ones.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias, TypeVar
from urllib.parse import quote

from batch import jsoncodec
from batch.errors import EndReason, ExitCode, RunStoppedError
from batch.model import CallKind
from batch.redaction import Secrets
from batch.zstack.answers import ErrorClass, NoAnswer, NotSent, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batch.model import JsonValue

LONGEST_PAUSE = 900.0
"""Seconds: a longer Retry-After is cut to this."""

LARGEST = 4 * 1024 * 1024
"""Maximum bytes of a reply, before and after its content encoding is decoded."""
DEEPEST = 64
"""Maximum levels of nesting in a reply."""

_ESCAPED: Final = re.compile(r"\\u((?!d[89a-f])[0-9a-f]{4})", re.IGNORECASE)
_SIGNED: Final = "ZStack "
_Answer = TypeVar("_Answer")


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
    text = (reply.retry_after or "").strip()
    seconds = float(text[:12]) if text.isascii() and text.isdigit() else None
    if seconds is None:
        until, server_now = http_date(text), http_date(reply.date)
        seconds = 0.0 if until is None else until - (now if server_now is None else server_now)
    return min(seconds, LONGEST_PAUSE) if seconds > 0 else None


def segment(uuid: str) -> str:
    """Return a uuid as one escaped path segment. Raises ValueError for an empty one: that is another API."""
    if not uuid:
        raise ValueError("a uuid must not be empty")
    if uuid.isascii() and uuid.isalnum():
        return uuid
    return quote(uuid, safe="").replace(".", "%2E")


class BadReplyError(Exception):
    """The bytes are not a usable answer; the message gives the reason and quotes nothing of them."""


def json_object(body: bytes) -> dict[str, JsonValue]:
    """Decode ``body`` as one JSON object. Raises BadReplyError."""
    if len(body) > LARGEST:
        raise BadReplyError(f"the answer is larger than {LARGEST} bytes")
    try:
        value = jsoncodec.decode(body)
    except ValueError:
        raise BadReplyError("the answer is not valid JSON") from None
    if not isinstance(value, dict):
        raise BadReplyError("the answer is not a JSON object")
    if body.count(b"{") + body.count(b"[") > DEEPEST:
        _check_depth(value)
    return value


def inflate(body: bytes, encoding: str) -> bytes:
    """Decode a Content-Encoding that was sent without being requested. Raises BadReplyError, also for bombs."""
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return body
    if name not in {"gzip", "x-gzip", "deflate"}:
        raise BadReplyError("the answer has an unknown content encoding")
    # 47: gzip or zlib, by its own header.
    undo = zlib.decompressobj(47)
    try:
        plain = undo.decompress(body, LARGEST + 1)
    except zlib.error:
        raise BadReplyError("the answer's compression is broken") from None
    if len(plain) > LARGEST:
        raise BadReplyError(f"the answer is larger than {LARGEST} bytes")
    if not undo.eof:
        raise BadReplyError("the answer was cut off")
    return plain


def _check_depth(value: JsonValue) -> None:
    level: list[JsonValue] = [value]
    for _ in range(DEEPEST):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise BadReplyError(f"the answer is nested more than {DEEPEST} levels deep")


def _children(node: JsonValue) -> list[JsonValue]:
    if isinstance(node, dict):
        return [child for child in node.values() if isinstance(child, dict | list)]
    return [child for child in node if isinstance(child, dict | list)] if isinstance(node, list) else []


def without_secrets(reply: HttpReply, secrets: Secrets, *, authorization: str) -> HttpReply:
    """Return ``reply`` with ``secrets`` and the call's own signature redacted in its error texts.

    ``authorization`` is the header the call was made with, empty where it had none.
    """
    if reply.status < 400 and b'"error"' not in reply.body and b"\\" not in reply.body:
        return reply
    redact = _redactor(secrets, authorization)
    try:
        tree = json_object(reply.body)
    except BadReplyError:
        text = reply.text
        redacted = redact(_ESCAPED.sub(lambda match: chr(int(match[1], 16)), text))
        return reply if redacted == text else reply._replace(body=redacted.encode("utf-8", "backslashreplace"))
    if reply.status < 400 and "error" not in tree:
        return reply
    texts: dict[str, JsonValue] = tree if reply.status >= 400 else {"error": tree["error"]}
    redacted_tree = {name: _redact(value, redact) for name, value in texts.items()}
    if redacted_tree == texts:
        return reply
    return reply._replace(body=jsoncodec.encode({**tree, **redacted_tree}).encode())


def _redactor(secrets: Secrets, authorization: str) -> Callable[[str], str]:
    if not authorization.startswith(_SIGNED):
        return secrets.redact
    # A signature is valid for one call only, and not kept after it.
    own = Secrets()
    own.add(authorization.rpartition(":")[2])
    return lambda text: own.redact(secrets.redact(text))


def _redact(value: JsonValue, redact: Callable[[str], str]) -> JsonValue:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_redact(inner, redact) for inner in value]
    if isinstance(value, dict):
        return {redact(name): _redact(inner, redact) for name, inner in value.items()}
    return value


def without_job_uuid(answer: _Answer, job_uuid: str) -> _Answer:
    """Shorten the job's uuid in a refusal's text: a reader of the log could otherwise query the job's result."""
    if not isinstance(answer, Refused):
        return answer
    return replace(answer, error=replace(answer.error, text=answer.error.text.replace(job_uuid, f"{job_uuid[:8]}…")))
