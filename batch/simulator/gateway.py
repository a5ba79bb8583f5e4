"""The REST layer: all APIs, their routes, and the immediate checks in the server's order (zstack/README.md 5)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.simulator import administration, catalogue, message, ownership, query, services
from batch.simulator.api import ApiDefinition, Call, NodeContext
from batch.simulator.api_errors import RestError

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
APIS: Final = (
    *services.APIS,
    *catalogue.APIS,
    *ownership.APIS,
    *administration.APIS,
)
BY_NAME: Final = {api.name: api for api in reversed(APIS)}


@dataclass(frozen=True, slots=True)
class Route:
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
    shape: tuple(api for api in APIS if _shape(api.pattern) == shape)
    for shape in map(_shape, (a.pattern for a in APIS))
}
_EXACT: Final = {shape: apis for shape, apis in _ROUTES.items() if "{}" not in shape}
_PATTERNS: Final = {shape: apis for shape, apis in _ROUTES.items() if "{}" in shape}


def route(path: str) -> Route | None:
    """Return the route of a path below the context path; exact paths win over patterns, a trailing slash counts."""
    parts = _split(path)
    if parts in _EXACT:
        return Route(_EXACT[parts], {})
    for shape, apis in _PATTERNS.items():
        if len(shape) == len(parts) and all(map(_fits, shape, parts)):
            return Route(apis, _variables(apis[0].pattern, parts))
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
    found = route(path)
    if found is None:
        return "other", None
    return _kind(found, request), found.path.get("uuid")


def _kind(found: Route, request: Request) -> str:
    if found.only is not None:
        return found.only.kind
    kinds = [api.kind for api in found.apis if api.method == request.method]
    if len(kinds) > 1:
        kinds = [api.kind for api in found.apis if api.action and f'"{api.action}"'.encode() in request.body]
    return kinds[0] if kinds else "other"


class Gateway:
    """Turns a request into a Call, or raises RestError the way RestServer does."""

    def __init__(self, context: NodeContext) -> None:
        """``context`` gives options, accounts and keys."""
        self._context = context

    def read(self, request: Request, path: str, now: float, fault: Fault | None) -> Call:
        """Run checks 3 to 8: route, JSON, verb, credential, types, structure."""
        if request.method not in {"POST", "PUT", "GET", "DELETE"}:
            raise RestError(405, f"The method[{request.method}] is not allowed for the path[{request.path}]")
        found = route(path)
        if found is None:
            raise RestError(404, f"no api mapping to {path}")
        body = message.read_body(request, latin1=self._context.options.latin1_bodies)
        api = found.only or _select(found.apis, request, path, body)
        variables = _variables(api.pattern, _split(path))
        credential = None if api.is_open else self._credential(request, path, now)
        if api.is_query:
            uuid = variables.get("uuid")
            asked = query.parse(request) if uuid is None else query.by_uuid(uuid)
            return Call(api, "", request, variables, {}, credential, query=asked, fault=fault)
        fields, raw = self._fields(api, request, body)
        is_from_body = request.method not in _FROM_URL
        return Call(
            api=api,
            id=request.headers.get("x-job-uuid") or self._context.draw_uuid(),
            request=request,
            path=variables,
            fields=fields,
            credential=credential,
            system_tags=message.tag_list(body, raw, "systemTags") if is_from_body else (),
            user_tags=message.tag_list(body, raw, "userTags") if is_from_body else (),
            hook=request.headers.get("x-web-hook"),
            fault=fault,
        )

    def check_headers(self, call: Call, *, is_duplicate: bool) -> int:
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
            return self._context.options.api_timeout_ms
        if not _LONG.fullmatch(text):
            raise RestError(500, f'For input string: "{text}"')
        return int(text) * 1000

    def _fields(self, api: ApiDefinition, request: Request, body: Json | None) -> tuple[Json, Json]:
        """Read the message's fields, and those as they were given: from the query string for GET and DELETE."""
        if request.method in _FROM_URL:
            given: Json = {name: request.values(name) for name, _ in request.query}
            return given, given
        raw = message.member(body, api.action or api.parameter)
        return api.read(raw, self._context.options), raw

    def _credential(self, request: Request, path: str, now: float) -> str | NodeAccount:
        header = request.headers.get("authorization")
        if header is None:
            raise RestError(400, "missing header 'Authorization'")
        header = header.strip()
        if header.startswith("OAuth"):
            return header.removeprefix("OAuth").strip()
        if header.startswith("ZStack"):
            return self._context.directory.account_of_key(request, path, now)
        if self._context.options.newer_access_keys:
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
