"""From requests to API messages: routes and checks of the REST layer, and the legacy API (zstack/README.md 5, 11)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from batch.simulator import administration, catalogue, message, ownership, query, services
from batch.simulator.api import ApiDefinition, Call, NodeContext
from batch.simulator.api_errors import RestError
from batch.simulator.wire import MalformedJsonError, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.simulator.faults import Fault
    from batch.simulator.options import NodeAccount
    from batch.simulator.wire import Json, Request

JOBS: Final = "/v1/api-jobs/"
LEGACY: Final = "/api"
LEGACY_RESULTS: Final = "/api/result/"
_LONG: Final = re.compile(r"[+-]?\d{1,18}")
_VERBS: Final = {"POST": "creational", "GET": "query", "DELETE": "delete"}
_FROM_URL: Final = frozenset({"GET", "DELETE"})
_APIS: Final = (*services.APIS, *catalogue.APIS, *ownership.APIS, *administration.APIS)
_BY_CLASS: Final = {api.message_class: api for api in reversed(_APIS)}
_LEGACY_VARIABLES: Final = ("uuid", "sessionUuid", "accountUuid", "tagUuid", "apiId")
BY_NAME: Final = {api.name: api for api in reversed(_APIS)}


@dataclass(frozen=True, slots=True)
class _Route:
    """A path of the node, with its APIs."""

    apis: tuple[ApiDefinition, ...]
    path: Mapping[str, str]

    @property
    def only(self) -> ApiDefinition | None:
        """The only API of the path, which any verb reaches; None if several share it."""
        first = self.apis[0]
        is_alone = len({api.name for api in self.apis}) == 1 and not first.shares_path
        return first if is_alone else None


def _split(pattern: str) -> tuple[str, ...]:
    return tuple(pattern.removeprefix("/").split("/"))


def _shape(pattern: str) -> tuple[str, ...]:
    """Return the shape of a pattern such as ``/a/{uuid}/b``, independent of the names of variables."""
    return tuple("{}" if part.startswith("{") else part for part in _split(pattern))


_ROUTES: Final = {
    shape: tuple(api for api in _APIS if _shape(api.pattern) == shape)
    for shape in map(_shape, (a.pattern for a in _APIS))
}
_EXACT: Final = {shape: apis for shape, apis in _ROUTES.items() if "{}" not in shape}
_PATTERNS: Final = {shape: apis for shape, apis in _ROUTES.items() if "{}" in shape}


def _find_route(path: str) -> _Route | None:
    """Return the route of a path below the context path; exact paths win over patterns, a trailing slash counts."""
    parts = _split(path)
    if parts in _EXACT:
        return _Route(_EXACT[parts], {})
    for shape, apis in _PATTERNS.items():
        if len(shape) == len(parts) and all(map(_fits, shape, parts)):
            return _Route(apis, _variables(apis[0].pattern, parts))
    return None


def _fits(want: str, part: str) -> bool:
    return bool(part) if want == "{}" else want == part


def _variables(pattern: str, parts: tuple[str, ...]) -> dict[str, str]:
    return {want[1:-1]: part for want, part in zip(_split(pattern), parts, strict=True) if want.startswith("{")}


def classify(request: Request, context_path: str) -> tuple[str, str | None]:
    """Return the kind of call for the ledger, and the uuid in the path."""
    path = request.path.removeprefix(context_path)
    if path.startswith(JOBS):
        return "poll", path.removeprefix(JOBS)
    if path.startswith(LEGACY_RESULTS):
        return "legacy_poll", path.removeprefix(LEGACY_RESULTS)
    if path.rstrip("/") == LEGACY:
        return "legacy", None
    route = _find_route(path)
    if route is None:
        return "other", None
    return _kind(route, request), route.path.get("uuid")


def _kind(route: _Route, request: Request) -> str:
    if route.only is not None:
        return route.only.kind
    kinds = [api.kind for api in route.apis if api.method == request.method]
    if len(kinds) > 1:
        kinds = [api.kind for api in route.apis if api.action and f'"{api.action}"'.encode() in request.body]
    return kinds[0] if kinds else "other"


def read_rest(context: NodeContext, request: Request, path: str, now: float, fault: Fault | None) -> Call:
    """Run RestServer's checks 3 to 8: route, JSON, verb, credential, types, structure. Raises RestError."""
    if request.method not in {"POST", "PUT", "GET", "DELETE"}:
        raise RestError(405, f"The method[{request.method}] is not allowed for the path[{request.path}]")
    route = _find_route(path)
    if route is None:
        raise RestError(404, f"no api mapping to {path}")
    body = message.read_body(request, latin1=context.options.latin1_bodies)
    api = route.only or _select(route.apis, request, path, body)
    variables = _variables(api.pattern, _split(path))
    credential = None if api.is_open else _credential(context, request, path, now)
    if api.is_query:
        uuid = variables.get("uuid")
        parsed = query.parse(request) if uuid is None else query.by_uuid(uuid)
        return Call(api, "", request, variables, {}, credential, query=parsed, fault=fault)
    fields, raw = _rest_fields(context, api, request, body)
    is_from_body = request.method not in _FROM_URL
    return Call(
        api=api,
        id=request.headers.get("x-job-uuid") or context.draw_uuid(),
        request=request,
        path=variables,
        fields=fields,
        credential=credential,
        system_tags=message.tag_list(body, raw, "systemTags") if is_from_body else (),
        user_tags=message.tag_list(body, raw, "userTags") if is_from_body else (),
        hook=request.headers.get("x-web-hook"),
        fault=fault,
    )


def check_headers(context: NodeContext, call: Call, *, is_duplicate: bool) -> int:
    """Run checks 9 and 10; return the message's timeout in milliseconds. Queries are answered before them."""
    if call.api.is_query:
        return 0
    job = call.request.headers.get("x-job-uuid")
    if job is not None and len(job) != 32:
        raise RestError(400, "Invalid header[X-Job-UUID], it must be a UUID with '-' stripped")
    if job is not None and is_duplicate and call.request.method in {"POST", "PUT", "DELETE"}:
        raise RestError(400, f"Duplicate job uuid[{job}]")
    text = call.request.headers.get("x-api-timeout")
    if text is None:
        return context.options.api_timeout_ms
    if not _LONG.fullmatch(text):
        raise RestError(500, f'For input string: "{text}"')
    return int(text) * 1000


def _rest_fields(context: NodeContext, api: ApiDefinition, request: Request, body: Json | None) -> tuple[Json, Json]:
    """Read the message's fields, and those as they were given: from the query string for GET and DELETE."""
    if request.method in _FROM_URL:
        given: Json = {name: request.values(name) for name, _ in request.query}
        return given, given
    raw = message.member(body, api.action or api.parameter)
    return api.read(raw, context.options), raw


def _credential(context: NodeContext, request: Request, path: str, now: float) -> str | NodeAccount:
    header = request.headers.get("authorization")
    if header is None:
        raise RestError(400, "missing header 'Authorization'")
    header = header.strip()
    if header.startswith("OAuth"):
        return header.removeprefix("OAuth").strip()
    if header.startswith("ZStack"):
        return context.directory.account_of_key(request, path, now)
    if context.options.newer_access_keys:
        raise RestError(400, f"unable to find RestAuthenticationBackend[type:{header.split(' ')[0]}]")
    raise RestError(400, "Authorization type must be 'OAuth'")


def _select(apis: tuple[ApiDefinition, ...], request: Request, path: str, body: Json | None) -> ApiDefinition:
    """Choose among the APIs of a path: by action for PUT, else by verb."""
    if request.method != "PUT":
        chosen = [api for api in apis if api.method == request.method]
        if not chosen:
            raise RestError(500, f"No {_VERBS[request.method]} API found for the path[{request.path}]")
        return chosen[0]
    if body is None:
        raise RestError(500, "java.lang.NullPointerException")
    chosen = [api for api in apis if api.action is not None and api.action in body]
    if chosen:
        return chosen[0]
    raise RestError(400, f"the body doesn't contain action mapping to the URL[{path}]")


class UnreadableMessageError(Exception):
    """A body that is not a message; answered with this text and status 200."""


def read_legacy(context: NodeContext, request: Request, fault: Fault | None) -> Call:
    """Read the one message of a body. Raises UnreadableMessageError, RestError."""
    api, fields = _legacy_message(context, request)
    session = fields.get("session")
    uuid = session.get("uuid") if isinstance(session, dict) else None
    is_query = api.is_query
    return Call(
        api=api,
        id=str(fields.get("id") or context.draw_uuid()),
        request=request,
        path={name: str(fields.get(name) or "") for name in _LEGACY_VARIABLES},
        fields={} if is_query else _legacy_fields(context, api, fields),
        credential=None if api.is_open else str(uuid or ""),
        query=_legacy_query(fields) if is_query else query.NodeQuery(),
        system_tags=tuple(map(str, _legacy_list(fields, "systemTags"))),
        user_tags=tuple(map(str, _legacy_list(fields, "userTags"))),
        fault=fault,
        is_legacy=True,
    )


def _legacy_message(context: NodeContext, request: Request) -> tuple[ApiDefinition, Json]:
    try:
        body = parse_json(message.decode_body(request, latin1=context.options.latin1_bodies))
    except (MalformedJsonError, RecursionError) as error:
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


def _legacy_fields(context: NodeContext, api: ApiDefinition, fields: Json) -> Json:
    try:
        return api.read(fields, context.options)
    except RestError as error:
        # The legacy API has no check of types before the parser.
        raise UnreadableMessageError(error.text) from None


def _legacy_query(fields: Json) -> query.NodeQuery:
    for condition in _legacy_list(fields, "conditions"):
        if not isinstance(condition, dict):
            raise UnreadableMessageError(f"Expected BEGIN_OBJECT but was {json.dumps(condition)} at path $.conditions")
    try:
        parsed = query.of_message(fields)
    except (TypeError, ValueError):
        raise UnreadableMessageError("java.lang.NumberFormatException: start or limit") from None
    for condition in parsed.conditions:
        if condition.operator not in query.OPERATORS.values():
            raise UnreadableMessageError(f"no query operator {condition.operator}")
    return parsed


def _legacy_list(fields: Json, name: str) -> list[Any]:
    """Return a field that is a list, empty if it is left out. Raises UnreadableMessageError for anything else."""
    value = fields.get(name)
    if value is not None and not isinstance(value, list):
        raise UnreadableMessageError(f"Expected BEGIN_ARRAY but was {json.dumps(value)} at path $.{name}")
    return value or []
