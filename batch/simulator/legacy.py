"""The legacy API: messages named by Java class at ``/api/``, results at ``/api/result/`` (zstack/README.md 11)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from batch.simulator import gson, query
from batch.simulator.api import ApiDefinition, Call
from batch.simulator.api_errors import RestError
from batch.simulator.gateway import APIS
from batch.simulator.message import decode_body
from batch.simulator.wire import event_json

if TYPE_CHECKING:
    from batch.simulator.api import NodeContext
    from batch.simulator.wire import Json, Request

_BY_CLASS: Final = {api.message_class: api for api in reversed(APIS)}
_VARIABLES: Final = ("uuid", "sessionUuid", "accountUuid", "tagUuid", "apiId")
_WITH_TEXTS: Final = frozenset(query.OPERATORS.values())


class UnreadableMessageError(Exception):
    """A body that is not a message; answered with this text and status 200."""


def read(context: NodeContext, request: Request) -> Call:
    """Read the one message of a body. Raises UnreadableMessageError, RestError."""
    api, fields = _message(context, request)
    session = fields.get("session")
    uuid = session.get("uuid") if isinstance(session, dict) else None
    is_query = api.is_query
    return Call(
        api=api,
        id=str(fields.get("id") or context.draw_uuid()),
        request=request,
        path={name: str(fields.get(name) or "") for name in _VARIABLES},
        fields={} if is_query else _fields(context, api, fields),
        credential=None if api.is_open else str(uuid or ""),
        query=_query(fields) if is_query else query.NodeQuery(),
        system_tags=tuple(map(str, _list(fields, "systemTags"))),
        user_tags=tuple(map(str, _list(fields, "userTags"))),
        is_legacy=True,
    )


def _message(context: NodeContext, request: Request) -> tuple[ApiDefinition, Json]:
    try:
        body = gson.parse_json(decode_body(request, latin1=context.options.latin1_bodies))
    except (gson.MalformedJsonError, RecursionError) as error:
        raise UnreadableMessageError(f"com.google.gson.stream.MalformedJsonException: {error}") from None
    if not isinstance(body, dict) or not body:
        raise UnreadableMessageError(f"Not a JSON Object: {json.dumps(body)}")
    name, fields = next(iter(body.items()))
    api = _BY_CLASS.get(name)
    if api is None:
        raise UnreadableMessageError(f"Unable to deserialize class {name}")
    if not isinstance(fields, dict):
        raise UnreadableMessageError(f"Expected BEGIN_OBJECT but was {json.dumps(fields)}")
    return api, fields


def _fields(context: NodeContext, api: ApiDefinition, fields: Json) -> Json:
    try:
        return api.read(fields, context.options)
    except RestError as error:
        # The legacy API has no check of types before the parser.
        raise UnreadableMessageError(error.text) from None


def _query(fields: Json) -> query.NodeQuery:
    for condition in _list(fields, "conditions"):
        if not isinstance(condition, dict):
            raise UnreadableMessageError(f"Expected BEGIN_OBJECT but was {json.dumps(condition)} at path $.conditions")
    try:
        asked = query.of_message(fields)
    except (TypeError, ValueError):
        raise UnreadableMessageError("java.lang.NumberFormatException: start or limit") from None
    for condition in asked.conditions:
        if condition.operator not in _WITH_TEXTS:
            raise UnreadableMessageError(f"no query operator {condition.operator}")
    return asked


def _list(fields: Json, name: str) -> list[Any]:
    """Return a field that is a list, empty if it is left out. Raises UnreadableMessageError for anything else."""
    value = fields.get(name)
    if value is not None and not isinstance(value, list):
        raise UnreadableMessageError(f"Expected BEGIN_ARRAY but was {json.dumps(value)} at path $.{name}")
    return value or []


def processing(uuid: str, created: str) -> Json:
    """Return the answer for a message that is still running."""
    return {"uuid": uuid, "createdDate": created, "state": "Processing"}


def done(api: ApiDefinition, body: Json, *, uuid: str | None, dates: tuple[str, str]) -> Json:
    """Write a result: ``body`` as the REST API answers it, in a text, below the class of its reply or event."""
    created, finished = dates
    error = body.get("error")
    inner = {name: value for name, value in body.items() if name != "schema"} | {"success": error is None}
    if not api.sync:
        inner["apiId"] = uuid
    text = event_json({api.reply_class: inner}, html_escape=False).decode()
    return {"uuid": uuid, "createdDate": created, "finishedDate": finished, "state": "Done", "result": text}
