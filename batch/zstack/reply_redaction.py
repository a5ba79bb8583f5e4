"""Redacts our own secrets in error texts of a server, which may quote the request, escaped in any way that JSON allows.

They are searched in the decoded texts, before anything is cut. Everything else is kept: the login's answer has the
session, and names are compared with the requested ones.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from batch import jsoncodec
from batch.redaction import Secrets
from batch.zstack.answers import Refused
from batch.zstack.decode import BadReplyError, json_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.model import JsonValue
    from batch.zstack.wire import HttpReply

_ESCAPED: Final = re.compile(r"\\u((?!d[89a-f])[0-9a-f]{4})", re.IGNORECASE)
_SIGNED: Final = "ZStack "
_Answer = TypeVar("_Answer")


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
