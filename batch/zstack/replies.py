"""Interprets HTTP replies to each of the three calls of the protocol. Pure. Source: zstack/README.md 5, 6, 8 and 10.

A reply that is not clearly ZStack's own is ``NoAnswer``: a proxy's page never becomes a job's result.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batch.jsoncodec import as_number, as_object, as_text
from batch.text import cut
from batch.zstack.answers import (
    Absent,
    Accepted,
    Done,
    Duplicate,
    ErrorClass,
    FindAnswer,
    Found,
    NoAnswer,
    PollAnswer,
    Refused,
    Running,
    Service,
    SubmitAnswer,
    Unknown,
)
from batch.zstack.classify import LONGEST_TEXT, Language, from_error, from_http
from batch.zstack.params import parse_version
from batch.zstack.wire import BadReplyError, HttpReply, json_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.model import JsonValue
    from batch.zstack.params import Version

_API_DENIED = "SYS.1019"
_PROXY = frozenset({408, 425, 429, 502, 503, 504})
_ENVELOPE = frozenset({"success", "schema", "inventory"})
_LONGEST_UUID = 64
"""Characters; the server's own have 32."""
_LONGEST_TIMEOUT = 366 * 86400.0


def read_refusal(reply: HttpReply, language: Language) -> Refused | NoAnswer | None:
    """Interpret a status other than 2xx; None for 2xx.

    A 503 with a JSON error is ZStack's, one without it a proxy's.
    """
    if reply.status < 200 or 300 <= reply.status < 400:
        return NoAnswer(f"HTTP {reply.status}: redirects are not followed; give the endpoint's final address")
    if reply.status < 300:
        return None
    error = json_error(reply)
    if error is not None:
        return Refused(from_error(error, language))
    if reply.status in _PROXY or reply.status > 500:
        return NoAnswer(f"HTTP {reply.status} without an error of ZStack: a proxy or a server that is starting")
    if _is_page(reply) and reply.status in {404, 500}:
        return NoAnswer(f"HTTP {reply.status} with a web page instead of an answer of ZStack")
    return Refused(from_http(reply.status, reply.text, language))


def read_submit(reply: HttpReply, job_uuid: str, language: Language = "en") -> SubmitAnswer:
    """Interpret the answer to a POST that was sent under ``job_uuid``."""
    if reply.status == 400 and _is_duplicate(reply.text, job_uuid):
        return Duplicate()
    refused = read_refusal(reply, language)
    if refused is not None:
        return refused
    try:
        answer = json_object(reply.body)
        if reply.status == 202:
            return _read_accepted(answer, job_uuid)
        if reply.status == 200 and answer:
            return _read_end(answer, language)
    except BadReplyError as error:
        return NoAnswer(f"HTTP {reply.status}: {error}")
    return NoAnswer(f"HTTP {reply.status} is not an answer to a clone request")


def read_poll(reply: HttpReply, language: Language = "en") -> PollAnswer:
    """Interpret the answer to a poll. Only a job's own error is a failure."""
    if reply.status == 404:
        return NoAnswer("HTTP 404 with a web page") if _is_page(reply) else Unknown()
    try:
        if reply.status in {200, 202, 503}:
            answer = json_object(reply.body)
            return _poll_body(reply.status, answer, language)
    except BadReplyError as error:
        return NoAnswer(f"HTTP {reply.status}: {error}")
    return NoAnswer(f"HTTP {reply.status} is not an answer to a poll")


def read_job_end(reply: HttpReply, language: Language = "en") -> PollAnswer:
    """Interpret a poll of a job that makes no model service: any result is a success."""
    if reply.status != 200:
        return read_poll(reply, language)
    try:
        tree = json_object(reply.body).get("error")
    except BadReplyError as error:
        return NoAnswer(f"HTTP {reply.status}: {error}")
    return Done(None) if tree is None else Refused(from_error(as_object(tree) or {}, language))


def read_hook(body: bytes, success: str) -> Done | NoAnswer:
    """Interpret a web hook's body; ``success`` is its header of that name (zstack/README.md 7).

    A failure only means an end with unknown result, as does an empty success: the job itself must be polled.
    """
    if success == "false" or not body.strip():
        return Done(None)
    answer = read_poll(HttpReply(200, body)) if success == "true" else None
    return answer if isinstance(answer, Done) else NoAnswer("no result of a job")


def read_find(reply: HttpReply, resource_uuid: str, language: Language = "en") -> FindAnswer:
    """Interpret the answer to a query by uuid: always a list, empty where nothing is visible."""
    refused = read_refusal(reply, language)
    if isinstance(refused, Refused) and refused.error.code == _API_DENIED:
        # The account may not call the query: that says nothing about the API that clones.
        return Refused(replace(refused.error, error_class=ErrorClass.PERMANENT))
    if refused is not None:
        return refused
    try:
        services = inventories(json_object(reply.body))
    except BadReplyError as error:
        return NoAnswer(f"HTTP {reply.status}: {error}")
    if not services:
        return Absent()
    match = next((service for service in services if service.uuid == resource_uuid), None)
    return NoAnswer("the answer shows other resources than requested") if match is None else Found(match)


def read_version(reply: HttpReply) -> Version | None:
    """Return the version in the answer of GetVersion; None where it has none. Raises BadReplyError."""
    text = as_text(json_object(reply.body).get("version"))
    return None if text is None else parse_version(text)


def inventories(answer: Mapping[str, JsonValue]) -> list[Service]:
    """Return the services in a query's answer. Raises BadReplyError."""
    rows = answer.get("inventories")
    if not isinstance(rows, list):
        raise BadReplyError("the answer has no list of inventories")
    return [service(row) for row in rows]


def service(value: JsonValue) -> Service:
    """Return one inventory as a Service. Raises BadReplyError where it is not one."""
    fields = as_object(value)
    uuid = as_text(fields.get("uuid")) if fields is not None else None
    if fields is None or not uuid or len(uuid) > _LONGEST_UUID:
        raise BadReplyError("the answer's inventory has no uuid")
    name = as_text(fields.get("name"))
    # Both are recorded, in lines of limited length.
    return Service(uuid, None if name is None else cut(name, LONGEST_TEXT), fields)


def json_error(reply: HttpReply) -> dict[str, JsonValue] | None:
    """Return the ``error`` object of a reply; None where the reply has none."""
    if reply.body.lstrip()[:1] != b"{":
        return None
    try:
        return as_object(json_object(reply.body).get("error")) or None
    except BadReplyError:
        return None


def _read_accepted(answer: Mapping[str, JsonValue], job_uuid: str) -> Accepted:
    location = answer.get("location")
    if location is not None and (as_text(location) or "").rpartition("/")[2] != job_uuid:
        raise BadReplyError("the answer is about another job")
    milliseconds = as_number(answer.get("apiTimeout"))
    seconds = milliseconds / 1000 if milliseconds is not None else 0.0
    return Accepted(min(seconds, _LONGEST_TIMEOUT) if seconds > 0 else None)


def _poll_body(status: int, answer: Mapping[str, JsonValue], language: Language) -> PollAnswer:
    if status == 202:
        return Running()
    if status == 503 and not as_object(answer.get("error")):
        return NoAnswer("HTTP 503 without an error of ZStack: a proxy or a server that is starting")
    return _read_end(answer, language)


def _read_end(answer: Mapping[str, JsonValue], language: Language) -> Done | Refused:
    error = answer.get("error")
    if error is not None:
        tree = as_object(error)
        if not tree:
            raise BadReplyError("the answer's error is not an error of ZStack")
        return Refused(from_error(tree, language))
    inventory = answer.get("inventory")
    if inventory is not None:
        return Done(service(inventory))
    if answer.get("success") is False or not _ENVELOPE.issuperset(answer):
        raise BadReplyError("the answer is neither a result nor an error")
    return Done(None)


def _is_page(reply: HttpReply) -> bool:
    return not reply.body.strip() or reply.body.lstrip()[:1] == b"<"


def _is_duplicate(text: str, job_uuid: str) -> bool:
    if text.lstrip()[:1] == "<":
        return False
    return "duplicate job uuid" in text.lower() or (
        job_uuid in text and ("duplicate" in text.lower() or "重复" in text)
    )
