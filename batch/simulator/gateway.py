"""The REST layer: routes, and the checks whose answer is immediate, in the server's order (wire: section 3.2, 1-10)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.simulator import message
from batch.simulator.administration import APIS
from batch.simulator.api import Api, Call, World
from batch.simulator.codes import RestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.simulator.faults import Fault
    from batch.simulator.options import Account
    from batch.simulator.wire import Json, Request

JOBS: Final = "/v1/api-jobs/"
_LONG: Final = re.compile(r"[+-]?\d{1,18}")


@dataclass(frozen=True, slots=True)
class Route:
    """A path the node knows, with the APIs behind it."""

    apis: tuple[Api, ...]
    path: Mapping[str, str]


def _split(pattern: str) -> tuple[str, ...]:
    return tuple(pattern.strip("/").split("/"))


_EXACT: Final = {
    api.pattern: tuple(one for one in APIS if one.pattern == api.pattern) for api in APIS if "{" not in api.pattern
}
_PATTERNS: Final = {
    _split(api.pattern): tuple(one for one in APIS if one.pattern == api.pattern) for api in APIS if "{" in api.pattern
}


def route(path: str) -> Route | None:
    """Find the APIs of a path below the context path; exact paths win over patterns."""
    path = path.rstrip("/")
    if path in _EXACT:
        return Route(_EXACT[path], {})
    parts = tuple(path.strip("/").split("/"))
    for pattern, apis in _PATTERNS.items():
        values = _match(pattern, parts)
        if values is not None:
            return Route(apis, values)
    return None


def _match(pattern: tuple[str, ...], parts: tuple[str, ...]) -> dict[str, str] | None:
    if len(pattern) != len(parts):
        return None
    values: dict[str, str] = {}
    for want, part in zip(pattern, parts, strict=True):
        if want.startswith("{"):
            values[want[1:-1]] = part
        elif want != part:
            return None
    return values


def classify(request: Request, context_path: str) -> tuple[str, str | None]:
    """Name the kind of call for the ledger, and the uuid it is about."""
    path = request.path.removeprefix(context_path)
    if path.startswith(JOBS):
        return "poll", path.removeprefix(JOBS)
    found = route(path)
    if found is None:
        return "other", None
    kinds = [api.kind for api in found.apis if api.method == request.method]
    if len(kinds) > 1:
        kinds = [api.kind for api in found.apis if api.action and f'"{api.action}"'.encode() in request.body]
    return (kinds[0] if kinds else "other"), found.path.get("uuid")


class Gateway:
    """Turns a request into a Call, or raises RestError the way RestServer does."""

    def __init__(self, world: World) -> None:
        """``world`` gives options, accounts and keys."""
        self._world = world

    def read(self, request: Request, path: str, now: float, fault: Fault | None) -> Call:
        """Run checks 3 to 8: route, JSON, verb, credential, types, structure."""
        found = route(path)
        if found is None:
            raise RestError(404, f"no api mapping to {path}")
        body = self._body(request)
        api = _select(found.apis, request, body)
        credential = None if api.is_open else self._credential(request, path, now)
        raw = message.member(body, api.action or "params")
        return Call(
            api=api,
            id=request.headers.get("x-job-uuid") or self._world.draw_uuid(),
            request=request,
            path=found.path,
            fields=message.clone_fields(raw, self._world.options) if api.creates else raw,
            credential=credential,
            system_tags=message.tag_list(body, raw, "systemTags"),
            user_tags=message.tag_list(body, raw, "userTags"),
            hook=request.headers.get("x-web-hook"),
            fault=fault,
        )

    def check_headers(self, call: Call, *, is_duplicate: bool) -> int:
        """Run checks 9 and 10; milliseconds of the message's timeout."""
        job = call.request.headers.get("x-job-uuid")
        if job is not None and len(job) != 32:
            raise RestError(400, "Invalid header[X-Job-UUID], it must be a UUID with '-' stripped")
        if job is not None and is_duplicate and call.request.method in {"POST", "PUT", "DELETE"}:
            raise RestError(400, f"Duplicate job uuid[{job}]")
        text = call.request.headers.get("x-api-timeout")
        if text is None:
            return self._world.options.api_timeout_ms
        if not _LONG.fullmatch(text):
            raise RestError(500, f'For input string: "{text}"')
        return int(text) * 1000

    def _body(self, request: Request) -> Json | None:
        if request.method not in {"POST", "PUT"}:
            # DELETE and GET parameters come from the query string only.
            return None
        return message.read_body(request, latin1=self._world.options.latin1_bodies)

    def _credential(self, request: Request, path: str, now: float) -> str | Account:
        header = request.headers.get("authorization")
        if header is None:
            raise RestError(400, "missing header 'Authorization'")
        if header.startswith("OAuth "):
            return header.removeprefix("OAuth ").strip()
        if header.startswith("ZStack "):
            return self._world.directory.account_of_key(request, path, now)
        raise RestError(400, "Authorization type must be 'OAuth'")


def _select(apis: tuple[Api, ...], request: Request, body: Json | None) -> Api:
    of_verb = [api for api in apis if api.method == request.method]
    if not of_verb:
        raise RestError(405, f"the method[{request.method}] is not allowed for this path")
    if request.method != "PUT":
        return of_verb[0]
    if body is None:
        raise RestError(500, "java.lang.NullPointerException")
    chosen = [api for api in of_verb if api.action in body]
    if chosen:
        return chosen[0]
    if of_verb[0].unique:
        return of_verb[0]
    raise RestError(400, f"the body doesn't contain action mapping to the URL[{request.path}]")
